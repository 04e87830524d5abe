"""Which shard keeps which claim slots, changed on a running system: a region's share when it joins or goes.

Primaries are given by the names of their shards, all of those of the topology; addresses are for the tables' owner.
"""

from collections.abc import Mapping, Sequence

from cluster.document import Documents, write_claim_slots
from cluster.errors import ClusterError, in_words
from cluster.system import System
from command.claim_move import CUT_SHORT, begin_without_claims, has_claims_of_others, move_claims, stray_claims
from shard_router.claim_slot import shared_out
from shard_router.topology import Topology, read_topology


async def refuse_claims(documents: Documents, shards: Sequence[str], addresses: Sequence[str]) -> None:
    """Have shards that the topology does not name yet refuse all claims: whoever comes there is of another time."""
    topology = read_topology(documents.topology)
    if set(shards) & topology.document.shards.keys():
        raise ClusterError(f"{', '.join(shards)} is in the topology already")
    for address in addresses:
        await begin_without_claims(address, len(topology.claim_shards))


async def refuse_other_claims(topology: Topology, primaries: Mapping[str, str]) -> None:
    """ClusterError where claims lie elsewhere than a topology has them: others could take them."""
    for shard in topology.document.shards:
        if await has_claims_of_others(primaries[shard], shard, topology):
            raise ClusterError(
                f"{shard} keeps identifiers that this topology has at other shards: its claims must name the regions of"
                " the first start, in their order, and its claim_slots must be those of the one before"
            )


async def refuse_stray_claims(documents: Documents, primaries: Mapping[str, str]) -> None:
    """ClusterError where a start goes by a topology that is not the last one of its folder: claims would be lost."""
    if name := await stray_claims(primaries, read_topology(documents.topology)):
        raise ClusterError(
            f"{name} keeps phones and e-mails that {documents.topology} has at other shards: it is not the one that was"
            " in force last. Put your copy of that one back"
        )


async def share_claims(
    documents: Documents, primaries: Mapping[str, str], *, joins: str | None = None, leaves: str | None = None
) -> int:
    """Share the claim slots out among the regions that are active, one that joins too; how many were moved.

    When one leaves that keeps none, nothing moves.
    """
    topology = read_topology(documents.topology)
    if leaves and not set(topology.claim_shards).intersection(topology.shards_in(leaves)):
        return await _move(documents, primaries, topology, None)
    states = {name: region.state for name, region in topology.document.regions.items()}
    takers = [name for name, state in states.items() if name == joins or (state == "active" and name != leaves)]
    if not takers:
        raise ClusterError(f"{leaves} keeps identifiers of members, and no other region is active to take them")
    shards = [shard for name in takers for shard in topology.shards_in(name)]
    return await _move(documents, primaries, topology, shared_out(topology.claim_shards, shards))


async def take_claims_from(documents: Documents, primaries: Mapping[str, str], shard: str) -> int:
    """Share the claim slots that a shard keeps out among the others of the regions that are active, and of its own."""
    topology = read_topology(documents.topology)
    if shard not in topology.claim_shards:
        return await _move(documents, primaries, topology, None)
    own = topology.document.shards[shard].region
    takers = [name for name, region in topology.document.regions.items() if name == own or region.state == "active"]
    shards = [one for name in takers for one in topology.shards_in(name) if one != shard]
    return await _move(documents, primaries, topology, shared_out(topology.claim_shards, shards))


async def finish_moves(system: System) -> int:
    """Go on with moves that a supervisor before has begun."""
    documents = system.documents
    return await _move(documents, await primaries_of(system), read_topology(documents.topology), None)


async def primaries_of(system: System) -> dict[str, str]:
    """The primary of every shard of the topology."""
    shards = {shard.name: shard for shard in system.plan.shards}
    named = read_topology(system.documents.topology).document.shards
    return {name: await system.primary(shards[name]) for name in named}


async def _move(
    documents: Documents, primaries: Mapping[str, str], topology: Topology, wanted: Sequence[str] | None
) -> int:
    def say(table: Sequence[str]) -> None:
        write_claim_slots(documents, table)

    try:
        return await move_claims(primaries, topology.claim_shards, wanted, say)
    except CUT_SHORT as error:
        raise ClusterError(f"claims could not be moved: {in_words(error)}. Asked for again, it goes on.") from error
