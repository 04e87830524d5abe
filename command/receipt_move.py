"""Hands the receipts that a shard keeps to others, before it leaves the topology: fence, copy. Each may be done twice.

From the fence on the shard claims nothing more: who has to claim there waits, as when it does not answer. What it has
claimed is written at the shards that keep those stores' receipts as soon as the topology lacks it, and that is the
switch. Who had a receipt first keeps it: a purchase of that name that was recorded at the new keeper meanwhile is taken
back by its register (command/register.py). A shard that stays after all has its fence taken away, and claims go on.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from command.claim_again import KEPT
from command.claim_move import LOCK_TRIES, MoveError, Step, connected, locked, must_be_reconciled, no_step
from shard_router.server import wait_for_standby
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("receipt_move.sql"))
PAGE: Final = 1_000
_TRIES: Final = 5
"""A purchase may be recorded under a name between two statements, at most once each time."""


async def hand_over_receipts(
    giver: tuple[str, str],
    receivers: Mapping[str, str],
    keepers_of: Callable[[str], Mapping[str, str]],
    at: Step = no_step,
) -> int:
    """Have what a shard claimed, and a till may send again, claimed at others; tells how many there were.

    Shards are names with the addresses of their primaries, for the owner of the tables. `keepers_of` names those that
    keep a store's receipts then, each with the region by which it does; none for a store whose receipts others keep
    already. MoveError when it must wait: asked again, it goes on.
    """
    name, address = giver
    count = 0
    async with connected(address) as source:
        await must_be_reconciled(name, source)
        await _fence(name, source)
        at("fenced")
        async for page in _claims(source):
            places = _by_keeper(page, keepers_of)
            count += len({row[:4] for rows in places.values() for row in rows})
            for keeper, rows in places.items():
                await _put(keeper, receivers[keeper], rows)
            at("copied")
    return count


async def keep_receipts_again(address: str) -> None:
    """Have a shard that stays after all claim receipts again."""
    async with connected(address) as shard:
        await shard.execute(STATEMENTS["take_fence_away"])
        await wait_for_standby(shard)


async def _fence(name: str, source: Any) -> None:
    async def fence() -> bool:
        await source.execute(STATEMENTS["fence"])
        return True

    for _ in range(LOCK_TRIES):
        if await locked(source, STATEMENTS["lock_receipts"], ["receipt"], fence):
            return
    raise MoveError(f"{name}: receipts are being written by somebody who does not end")


async def _claims(source: Any) -> AsyncGenerator[list[Any]]:
    after: tuple[str, str, date, str] = ("", "", date.min, "")
    since = datetime.now(UTC).date() - KEPT
    while rows := await source.fetch(STATEMENTS["claims_after"], *after, since, PAGE):
        yield rows
        after = tuple(rows[-1])[:4]


def _by_keeper(page: Sequence[Any], keepers_of: Callable[[str], Mapping[str, str]]) -> dict[str, list[tuple[Any, ...]]]:
    places: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in page:
        for keeper, region in keepers_of(row["store"]).items():
            places[keeper].append((*row, region))
    return places


async def _put(keeper: str, address: str, rows: Sequence[tuple[Any, ...]]) -> None:
    columns = list(map(list, zip(*rows, strict=True)))
    async with connected(address) as target:
        await must_be_reconciled(keeper, target)
        for _ in range(_TRIES):
            async with target.transaction():
                await target.execute(STATEMENTS["make_room"], *columns)
                await target.execute(STATEMENTS["put_claims"], *columns[:7])
                await wait_for_standby(target)
            if not await target.fetchval(STATEMENTS["lacks_claims"], *columns[:6]):
                return
    raise MoveError(f"{keeper}: purchases are recorded under the same names all the time")
