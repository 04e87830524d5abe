"""Lets time pass for members nobody asks about: a lot activates or expires, a hold lapses.

A work list from the index on due_at, through the ordinary lanes; decide settles first anyway, so a
settler that is late, doubled or dead changes no outcome, only how soon views show it.
"""

import asyncio
import random
import time
from datetime import timedelta
from typing import Final

import structlog

from command.batch import now_utc
from command.envelope import Envelope
from command.router import CommandRouter
from rules.command import SettleAccount
from shard_router.errors import ProblemError
from shard_router.member_id import slot_of

INTERVAL_S: Final = 1.0
PAGE: Final = 256
FORGOTTEN_AT_ONCE: Final = 10_000
"""Stored answers deleted per second and shard at most: more than a shard can take in for long."""
ANSWERS_KEPT: Final = timedelta(days=30)
"""Longer than any till is offline; the natural key of receipts stays for ever."""
_DEADLINE_S: Final = 5.0
_BACKOFF_MAX_S: Final = 30.0


async def settle_for_ever(router: CommandRouter) -> None:
    """Settle what is due in every shard of this region, each second; back off from a shard in trouble."""
    await asyncio.gather(*(_settle_shard(router, shard) for shard in router.shards()))


async def _settle_shard(router: CommandRouter, shard: str) -> None:
    wait_s = INTERVAL_S
    while True:
        await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads nodes, hides nothing
        try:
            await settle_due(router, shard)
            await router.lanes_of(shard).store.forget_answers(now_utc() - ANSWERS_KEPT, FORGOTTEN_AT_ONCE)
            wait_s = INTERVAL_S
        except ProblemError as error:
            wait_s = min(wait_s * 2, _BACKOFF_MAX_S)
            structlog.get_logger().warning("settler_waits", shard=shard, reason=error.detail, seconds=wait_s)
        except Exception:  # noqa: BLE001 - the settler must outlive any one fault
            wait_s = _BACKOFF_MAX_S
            structlog.get_logger().exception("settler_failed", shard=shard)


async def settle_due(router: CommandRouter, shard: str) -> int:
    """Settle one page of a shard's due members; tells how many there were."""
    lanes = router.lanes_of(shard)
    due = await lanes.store.due_members(PAGE)
    await asyncio.gather(*(lanes.run(_settle(member_id)) for member_id in due))
    return len(due)


def _settle(member_id: int) -> Envelope:
    return Envelope(
        command=SettleAccount(now_utc()),
        slot=slot_of(member_id),
        deadline=time.monotonic() + _DEADLINE_S,
        request_id="settler",
        credential="settler",
        member_id=member_id,
    )
