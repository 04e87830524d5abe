"""Has receipts claimed once more, at the shard that keeps those of their stores now: one that joined, or was restored.

The purchase at its member's home is the fact, the claim follows it. So nothing is copied from whoever kept the receipts
before: each shard claims those of its own members anew, and conflicts are settled as ever (command/register.py).
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from command.claim_move import LOCK_TRIES, MoveError, connected, locked
from command.program import programs_since
from shard_router.server import connection_to
from shard_router.statement import load_statements
from shard_router.topology import Topology

KEPT: Final = timedelta(days=41)
"""Older ones no till can send any more: 40 days (see request), and one for the zones of stores."""
STATEMENTS: Final = load_statements(Path(__file__).with_name("claim_again.sql"))
_TIMEOUT_S: Final = 60


async def claim_again(connection: Any, topology: Topology, keepers: Collection[str]) -> int:
    """Have a primary claim again the receipts of its members that some shards keep; tells how many. Repeatable.

    A receipt goes by the region that its store had when it was sold, as the program of then says. Every node must know
    by then who keeps the receipts of these stores: what is bought later is claimed there anyway.
    """
    since = datetime.now(UTC) - KEPT
    kept = [
        (program.version, store.code, store.region)
        for program in await programs_since(connection, since)
        for store in program.stores.values()
        if topology.register_of(store.region, store.code) in keepers
    ]
    if not kept:
        return 0
    columns = map(list, zip(*kept, strict=True))
    return len(await connection.fetch(STATEMENTS["claim_again"], *columns, since.date()))


async def claim_again_for(topology: Topology, region: str, primaries: Sequence[str]) -> int:
    """Have the primaries of all shards claim again the receipts that a region keeps; tells how many.

    Also those of stores whose own region is not there, and for which this one stands in.
    """
    count = 0
    for primary in primaries:
        await _wait_for_purchases(primary)
        async with connection_to(primary, timeout=_TIMEOUT_S, command_timeout=_TIMEOUT_S) as connection:
            count += await claim_again(connection, topology, topology.shards_in(region))
    return count


async def _wait_for_purchases(primary: str) -> None:
    """Return when what was being recorded is there to be seen: decided by who did not know yet, it claims nothing."""

    async def nothing_more() -> bool:
        return True

    async with connected(primary) as connection:
        for _ in range(LOCK_TRIES):
            if await locked(connection, STATEMENTS["wait_for_purchases"], ["receipt"], nothing_more):
                return
    raise MoveError("receipts are being written by somebody who does not end")
