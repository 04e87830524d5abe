"""Who keeps the receipts of a region that goes: they are claimed at the others before the topology lacks it."""

from collections.abc import Callable, Iterable, Mapping

import asyncpg

from cluster.document import Documents
from cluster.errors import ClusterError
from command.claim_move import MoveError
from command.program import newest_source
from command.receipt_move import hand_over_receipts, keep_receipts_again
from rules.program import Program, parse_program
from shard_router.topology import Topology, read_topology


async def give_receipts_away(documents: Documents, primaries: Mapping[str, str], region: str) -> int:
    """Have all receipts that a region's shards keep claimed at those that will keep them; tells how many.

    From then on its shards claim none, until `take_receipts_back`. Primaries are all of the topology, as in `claims`.
    """
    topology = read_topology(documents.topology)
    rest = without_region(topology, region)
    found = await newest_source(next(iter(primaries.values())))
    program = parse_program(found[1], found[0]) if found else None
    receivers = {name: address for name, address in primaries.items() if name in rest.document.shards}
    count = 0
    for shard in topology.shards_in(region):
        try:
            count += await hand_over_receipts((shard, primaries[shard]), receivers, keeper_in(rest, program, region))
        except (MoveError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise ClusterError(f"receipts could not be handed over: {error}. Asked for again, it goes on.") from error
    return count


async def take_receipts_back(addresses: Iterable[str]) -> None:
    """Have the shards of a region claim receipts again: it stays."""
    for address in addresses:
        await keep_receipts_again(address)


def keeper_in(rest: Topology, program: Program | None, gone: str) -> Callable[[str], tuple[str, str]]:
    """Tells the region of a store, and the shard that keeps its receipts in a topology that lacks a region.

    A store that the program has no more was one of the region's, or of another that is not there.
    """

    def keeper_of(store: str) -> tuple[str, str]:
        known = program.stores.get(store) if program else None
        region = known.region if known else gone
        return region, rest.register_of(region, store)

    return keeper_of


def without_region(topology: Topology, name: str) -> Topology:
    """The topology as it will be; TopologyError where the region keeps claims still."""
    document = topology.document
    regions = {one: region for one, region in document.regions.items() if one != name}
    shards = {one: shard for one, shard in document.shards.items() if shard.region != name}
    return Topology(document.model_copy(update={"regions": regions, "shards": shards}))
