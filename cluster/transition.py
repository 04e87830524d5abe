"""What a new topology document asks for where no supervisor of ours runs: regions that join, and regions that go.

The documents in force are those of the data folder, which the nodes read. A region that joins takes its share of the
claims before it is written down as active; one that the document lacks gives its claims and receipts away first. Each
step may be done twice: cut short, it is gone on with when setup runs again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.claims import refuse_claims, refuse_other_claims, share_claims
from cluster.document import Documents, present_topology, write_topology
from cluster.epoch import everybody_knows
from cluster.errors import ClusterError
from cluster.receipts import claim_receipts_again, give_receipts_away
from cluster.shard_leaving import have_stay, take_nobody
from cluster.system import apply_again
from command.stock import give_up_stock
from shard_router.topology import RegionState, Topology, TopologyDocument, read_topology


def leaving(documents: Documents, wanted: TopologyDocument) -> TopologyDocument | None:
    """The topology in force, when it has regions that a document lacks; ClusterError when one may not go yet."""
    known = present_topology(documents.data)
    gone = _names_of(known, wanted)
    for name in gone:
        if known and known.regions[name].state != "draining":
            raise ClusterError(f'{name} still takes members: write "state": "draining" first, and run this again')
    return known if gone else None


async def take_over(documents: Documents, wanted: TopologyDocument, primaries: Mapping[str, str]) -> list[str]:
    """Make a document the topology in force, with all that this asks for; in words, what was done.

    Primaries are those of all its shards, and of the regions that go, for the owner of the tables.
    """
    known = present_topology(documents.data)
    words = [await _let_go(documents, primaries, name) for name in _names_of(known, wanted)]
    joins = _joining(known, wanted)
    if known is None:
        await refuse_other_claims(Topology(wanted), primaries)
    else:
        new = [name for name in wanted.shards if name not in known.shards]
        await refuse_claims(documents, new, [primaries[name] for name in new])
    own = {name: primaries[name] for name in wanted.shards}
    await have_stay(own.values())  # a removal may have begun before the document had its region again
    joining: dict[str, RegionState] = dict.fromkeys(joins, "joining")
    write_topology(documents.topology, _content(wanted), wanted.stated | joining)
    words += [await _let_join(documents, own, name) for name in joins]
    write_topology(documents.topology, _content(wanted), wanted.stated)
    return words


async def _let_go(documents: Documents, primaries: Mapping[str, str], name: str) -> str:
    topology = read_topology(documents.topology)
    shards = topology.shards_in(name)
    for shard in shards:
        await take_nobody(primaries[shard], shard, topology.document)
    present = {shard: primaries[shard] for shard in topology.document.shards}
    claims = await share_claims(documents, present, leaves=name)
    receipts = await give_receipts_away(documents, present, name)
    rest = {shard: address for shard, address in present.items() if shard not in shards}
    for shard in shards:
        await give_up_stock(primaries[shard], rest)
    await apply_again([*rest.values()])
    return f"{name} has given {claims:,} claim slots and {receipts:,} receipts away; its servers can go"


async def _let_join(documents: Documents, primaries: Mapping[str, str], name: str) -> str:
    topology = read_topology(documents.topology)
    await everybody_knows(topology.document)  # a purchase that goes by an older one is claimed where it was kept before
    await claim_receipts_again(topology, name, [*primaries.values()])
    return f"{name} takes {await share_claims(documents, primaries, joins=name):,} claim slots of others"


def _joining(known: TopologyDocument | None, wanted: TopologyDocument) -> Sequence[str]:
    """Regions that are known as joining, and are to be active from now on."""
    before: Mapping[str, RegionState] = {name: row.state for name, row in known.regions.items()} if known else {}
    return [name for name, state in wanted.stated.items() if state == "active" and before.get(name) == "joining"]


def _names_of(known: TopologyDocument | None, wanted: TopologyDocument) -> Sequence[str]:
    """Regions that the topology in force has, and a document lacks."""
    return [name for name in known.regions if name not in wanted.regions] if known else []


def _content(document: TopologyDocument) -> dict[str, Any]:
    return document.model_dump(mode="json", exclude={"epoch"})
