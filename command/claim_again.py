"""Has receipts claimed once more, at the shard that keeps those of their stores now: one that joined, or was restored.

The purchase at its member's home is the fact, the claim follows it. So nothing is copied from whoever kept the receipts
before: each shard claims those of its own members anew, and conflicts are settled as ever (command/register.py).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from command.program import newest_source
from rules.program import parse_program
from shard_router.server import connection_to
from shard_router.statement import load_statements
from shard_router.topology import Topology

KEPT: Final = timedelta(days=41)
"""Older ones no till can send any more: 40 days (see request), and one for the zones of stores."""
STATEMENTS: Final = load_statements(Path(__file__).with_name("claim_again.sql"))
_TIMEOUT_S: Final = 60


async def claim_again(connection: Any, stores: Mapping[str, str]) -> int:
    """Have a primary claim again what its members bought at some stores (code -> region); tells how many. Repeatable.

    Every node must know by then who keeps the receipts of these stores: what is bought later is claimed there anyway.
    """
    if not stores:
        return 0
    since = datetime.now(UTC).date() - KEPT
    return len(await connection.fetch(STATEMENTS["claim_again"], [*stores], [*stores.values()], since))


async def claim_again_for(topology: Topology, region: str, primaries: Sequence[str]) -> int:
    """Have the primaries of all shards claim again the receipts that a region keeps; tells how many.

    Also those of stores whose own region is not there, and for which this one stands in.
    """
    found, own = await newest_source(primaries[0]), set(topology.shards_in(region))
    known = parse_program(found[1], found[0]).stores if found else {}
    stores = {code: one.region for code, one in known.items() if topology.register_of(one.region, code) in own}
    count = 0
    for primary in primaries if stores else ():
        async with connection_to(primary, timeout=_TIMEOUT_S, command_timeout=_TIMEOUT_S) as connection:
            count += await claim_again(connection, stores)
    return count
