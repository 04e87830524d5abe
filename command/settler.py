"""Lets time pass for members nobody asks about: a lot activates or expires, a hold lapses.

A work list from the index on due_at, through the ordinary lanes; decide settles first anyway, so a
settler that is late, doubled or dead changes no outcome, only how soon views show it.
"""

import asyncio
import random
import time
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import structlog

from command.envelope import Envelope
from command.node import CommandNode
from command.store import Store
from rules.command import SettleAccount
from shard_router.errors import ProblemError
from shard_router.member_id import slot_of

INTERVAL_S: Final = 1.0
PAGE: Final = 256
FORGOTTEN_AT_ONCE: Final = 10_000
"""Stored answers deleted per second and shard at most: more than a shard can take in for long."""
FORGET_INTERVAL_S: Final = 10.0
"""Between two looks for old answers when the last one found few: what is kept for a month may stay a bit longer."""
ANSWERS_KEPT: Final = timedelta(days=30)
"""Longer than any till is offline; the natural key of receipts stays for ever."""
_DEADLINE_S: Final = 5.0
_BACKOFF_MAX_S: Final = 30.0


async def settle_until(stop: asyncio.Event, node: CommandNode) -> None:
    """Settle what is due in every shard of this region, each second, until told to stop; what has begun is finished.

    Shards that a new topology brings are settled from then on, those it takes away no more.
    """
    async with asyncio.TaskGroup() as group:
        loops: dict[str, asyncio.Task[None]] = {}
        while await _goes_on(stop, INTERVAL_S):
            loops = {shard: loop for shard, loop in loops.items() if not loop.done()}
            for shard in node.shards():
                if shard not in loops:
                    loops[shard] = group.create_task(_settle_shard(stop, node, shard))


async def _settle_shard(stop: asyncio.Event, node: CommandNode, shard: str) -> None:
    """Settle one shard as long as it is there; back off while it is in trouble."""
    wait_s, forgets_at = 0.0, 0.0
    while await _goes_on(stop, wait_s) and shard in node.shards():
        try:
            await settle_due(node, shard)
            if time.monotonic() >= forgets_at:
                forgets_at = time.monotonic() + await _forget(node.lanes_of(shard).store)
            wait_s = INTERVAL_S
        except ProblemError as error:
            wait_s = min(max(wait_s, INTERVAL_S) * 2, _BACKOFF_MAX_S)
            structlog.get_logger().warning("settler_waits", shard=shard, reason=error.detail, seconds=wait_s)
        except Exception:  # noqa: BLE001 - the settler must outlive any one fault
            wait_s = _BACKOFF_MAX_S
            structlog.get_logger().exception("settler_failed", shard=shard)


async def _forget(store: Store) -> float:
    """Delete what is old enough; how long (s) the next look may wait."""
    found = await store.forget_answers(store.now() - ANSWERS_KEPT, FORGOTTEN_AT_ONCE)
    return FORGET_INTERVAL_S if found < FORGOTTEN_AT_ONCE else 0.0


async def _goes_on(stop: asyncio.Event, wait_s: float) -> bool:
    """Wait about so long; False at once when told to stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s * random.uniform(0.8, 1.2)):  # noqa: S311 - spreads nodes, hides nothing
            await stop.wait()
    return not stop.is_set()


async def settle_due(node: CommandNode, shard: str) -> int:
    """Settle one page of a shard's due members; tells how many there were."""
    lanes = node.lanes_of(shard)
    due = await lanes.store.due_members(PAGE)
    await asyncio.gather(*(lanes.run(_settle(member_id, node.now())) for member_id in due if node.serves(member_id)))
    return len(due)


def _settle(member_id: int, now: datetime) -> Envelope:
    return Envelope(
        command=SettleAccount(now),
        slot=slot_of(member_id),
        deadline=time.monotonic() + _DEADLINE_S,
        request_id="settler",
        credential="settler",
        member_id=member_id,
    )
