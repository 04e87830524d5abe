"""Who keeps the receipts of a region that goes: they are claimed at the others before the topology lacks it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from cluster.document import Documents
from cluster.errors import ClusterError, in_words
from command.claim_again import KEPT, claim_again_for
from command.claim_move import CUT_SHORT
from command.program import programs_since
from command.receipt_move import hand_over_receipts
from rules.program import Program
from shard_router.server import connection_to
from shard_router.topology import Topology, read_topology


async def give_receipts_away(documents: Documents, primaries: Mapping[str, str], region: str) -> int:
    """Have all receipts that a region's shards keep claimed at those that will keep them; tells how many.

    From then on its shards claim none, until `have_stay`. Primaries are all of the topology, as in `claims`.
    """
    topology = read_topology(documents.topology)
    rest = without_region(topology, region)
    async with connection_to(next(iter(primaries.values()))) as one:
        programs = await programs_since(one, datetime.now(UTC) - KEPT)
    receivers = {name: address for name, address in primaries.items() if name in rest.document.shards}
    count = 0
    for shard in topology.shards_in(region):
        try:
            giver = shard, primaries[shard]
            count += await hand_over_receipts(giver, receivers, keepers_after(topology, shard, programs))
        except CUT_SHORT as error:
            raise ClusterError(
                f"receipts could not be handed over: {in_words(error)}. Asked for again, it goes on."
            ) from error
    return count


async def claim_receipts_again(topology: Topology, region: str, primaries: Sequence[str]) -> None:
    """Have all shards claim again the receipts that a region keeps: it joined, and others have kept them."""
    try:
        await claim_again_for(topology, region, primaries)
    except CUT_SHORT as error:
        raise ClusterError(
            f"receipts could not be claimed again: {in_words(error)}. Asked for again, it goes on."
        ) from error


def keepers_after(topology: Topology, giver: str, programs: Sequence[Program]) -> Callable[[str], Mapping[str, str]]:
    """Tells which shards keep a store's receipts when a giver's region has gone, each with the store's region then.

    A receipt is claimed by the region that its store had when it was sold: each one of the programs says, while a till
    may still send it, counts. What the giver does not keep by any of them is outdated: it kept that for a region that
    has joined since, and whoever has that receipt there has it. A store that no program has was one of the region's.
    """
    gone = topology.document.shards[giver].region
    rest = without_region(topology, gone)

    def keepers_of(store: str) -> dict[str, str]:
        regions = {known.region for one in programs if (known := one.stores.get(store))} or {gone}
        kept = [region for region in sorted(regions) if topology.register_of(region, store) == giver]
        return {rest.register_of(region, store): region for region in kept}

    return keepers_of


def without_region(topology: Topology, name: str) -> Topology:
    """The topology as it will be; TopologyError where the region keeps claims still."""
    document = topology.document
    regions = {one: region for one, region in document.regions.items() if one != name}
    shards = {one: shard for one, shard in document.shards.items() if shard.region != name}
    return Topology(document.model_copy(update={"regions": regions, "shards": shards}))
