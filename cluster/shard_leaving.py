"""A second shard taken out of a region of a running system: one in which nobody ever lived.

Its claims go to others. Then it gives its slots to the region's other shard as it once got them (shard_growth.py), all
of them or, where somebody lives in any, none: from then on nobody is enrolled here, and there nobody is yet, as that
shard's own word of having given them is taken back only once every node knows whose they are. Last the topology lacks
it. Cut short anywhere, it is gone on with when asked again, or by the next `loyalty up`; `shard add` turns it back.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from cluster.claims import primaries_of, take_claims_from
from cluster.document import REMOVED, write_documents
from cluster.errors import ClusterError
from cluster.plan import ClusterPlan, RegionPlan, ShardPlan, plan_shard
from cluster.postgres import CONNECT_TIMEOUT_S
from cluster.shard_growth import (
    LOCK_TIMEOUT_MS,
    SHARD_NAME,
    alone,
    connected,
    ranges_to_write,
    say_of_shards,
    slots_of,
)
from cluster.system import System, apply_again
from command.slot import NOBODY, SlotsBack, give_all, given_to, open_slots
from command.stock import give_up_stock
from shard_router.incarnation import is_unreconciled
from shard_router.remains import read_remains
from shard_router.server import connection_to
from shard_router.topology import Shard, TopologyDocument, read_topology


@dataclass(slots=True)
class ShardLeaving:
    """Takes a shard out; `everybody_knows` returns when every node has the topology as it is."""

    system: System
    everybody_knows: Callable[[], Awaitable[None]]
    leaving: dict[str, RegionPlan]
    """Shards, each with its region, that the topology has no more, and whose servers are still to be stopped."""

    async def remove(self, name: str) -> str:
        """Take a shard out, or go on where that stopped; in words, what became of it. ClusterError says why not."""
        region = self._region_of(name)
        if name in self._shards():
            await self._take_out(region, name)
        gone = self.leaving.get(name) or self._left_behind(region, name)
        await self.everybody_knows()
        (shard,) = gone.shards
        # What it had of rewards' stock is given to the others: nobody has redeemed any of it.
        if name in self.leaving:
            await give_up_stock(await self.system.primary(shard), await primaries_of(self.system))
        await apply_again([await self.system.primary(shard) for shard in self.system.plan.shards])
        await self.system.stop_nodes_of(gone)
        await self.system.stop_data(gone)
        if shard.folder.exists():
            shard.folder.rename(shard.folder.with_name(f"{REMOVED}{name}-{int(time.time())}"))
        self.leaving.pop(name, None)
        return f"{name} is gone, and {region.name} has its slots back. Its folder was kept as servers/removed-…"

    async def finish(self) -> None:
        """Go on with what a supervisor before has begun: who enrols in slots that were given waits for it."""
        for shard in self.system.plan.shards:
            others = [one for one in self.system.region(shard.region).shards if one.name != shard.name]
            if shard.receipts == () and others:
                async with connected(self.system, shard) as connection:
                    given = set(await given_to(connection, others[0].name))
                if given and (shard.state == "joining" or given.intersection(slots_of(shard.slots))):
                    await self.remove(shard.name)

    def _region_of(self, name: str) -> RegionPlan:
        named = SHARD_NAME.fullmatch(name)
        if named is None:
            raise ClusterError(f"{name!r} is no name of a shard: REGION-NUMBER, for example eu-2")
        region, row = self.system.region(named[1]), self._shards().get(name)
        if name in self.system.plan.settings.shards:
            raise ClusterError(f"{name} is in the settings, and would be there again: `shard add` adds what may go")
        if row and (row.receipts is None or row.receipts):
            raise ClusterError(
                f"{name} keeps the receipts of {region.name} and stays: only a shard that was added goes, or a whole"
                f" region (`loyalty region drain {region.name}`, then `loyalty region remove {region.name}`)"
            )
        return region

    def _left_behind(self, region: RegionPlan, name: str) -> RegionPlan:
        """A shard that the topology has no more, and whose servers have a folder."""
        if (self.system.plan.data / "servers" / name).exists():
            return alone(region, plan_shard(self.system.plan, region, name))
        raise ClusterError(f"there is no shard {name}")

    async def _take_out(self, region: RegionPlan, name: str) -> None:
        """Until the topology has the shard no more. Cut short before, all of it is done again."""
        shard = next(one for one in region.shards if one.name == name)
        (other,) = [one for one in region.shards if one.name != name]
        await self._must_be_empty(shard)
        await self.system.start_nodes_of(alone(region, shard))  # an attempt before may have ended in between
        await self.everybody_knows()
        await take_claims_from(self.system.documents, await primaries_of(self.system), name)
        await self._give_back(region, shard, other)
        rest = _without(self.system.plan, shard)
        self.leaving[name] = alone(region, shard)
        write_documents(rest)
        self.system.plan = rest

    async def _give_back(self, region: RegionPlan, shard: ShardPlan, other: ShardPlan) -> None:
        async def switch(slots: set[int]) -> None:
            kept = slots.union(slots_of(self._shards()[other.name].slots))
            changes: dict[str, dict[str, object]] = {
                other.name: {"slots": ranges_to_write(kept)},
                shard.name: {"slots": [], "state": "joining"},
            }
            say_of_shards(self.system, changes)
            await self.everybody_knows()

        async with connected(self.system, shard) as giving, connected(self.system, other) as receiving:
            back = SlotsBack((shard.name, giving), (other.name, receiving), region.number, LOCK_TIMEOUT_MS)
            try:
                taken = await back.give(slots_of(self._shards()[shard.name].slots), switch)
            except asyncpg.LockNotAvailableError as error:
                raise ClusterError(f"enrolments on {shard.name} do not end; nothing was given, ask again") from error
        if taken:
            raise ClusterError(f"{shard.name} holds members in {len(taken):,} of its slots; {_STAYS}")

    async def _must_be_empty(self, shard: ShardPlan) -> None:
        for one in self.system.region(shard.region).shards:
            async with connected(self.system, one) as connection:
                if await is_unreconciled(connection):
                    raise ClusterError(
                        f"{one.name} was restored: `loyalty reconcile` first, which tells who lives there"
                    )
        if kept := await kept_by(await self.system.primary(shard)):
            raise ClusterError(f"{shard.name} {kept}; {_STAYS}")

    def _shards(self) -> dict[str, Shard]:
        return read_topology(self.system.documents.topology).document.shards


_STAYS: Final = "members do not move between shards, so it stays and goes on as before"


async def kept_by(primary: str) -> str | None:
    """Why a shard must stay, as what follows its name; None when it can go."""
    async with connection_to(primary, timeout=CONNECT_TIMEOUT_S) as connection:
        return "; ".join((await read_remains(connection)).hinders) or None


def _without(plan: ClusterPlan, shard: ShardPlan) -> ClusterPlan:
    """The plan as it was before a shard was added: one that is alone in its region need not say what it keeps."""
    region = next(one for one in plan.regions if one.name == shard.region)
    rest = tuple(replace(one, receipts=None) for one in region.shards if one.name != shard.name)
    less = replace(region, shards=rest)
    return replace(plan, regions=tuple(less if one.name == region.name else one for one in plan.regions))


async def take_nobody(primary: str, name: str, topology: TopologyDocument) -> None:
    """Have a shard whose region goes take no members by whatever topology; ClusterError where it must stay."""
    if kept := await kept_by(primary):
        raise ClusterError(f"{name} {kept}")
    shard = topology.shards[name]
    number, slots = topology.regions[shard.region].number, set(slots_of(shard.slots))
    async with connection_to(primary, timeout=CONNECT_TIMEOUT_S) as connection:
        try:
            taken = await give_all(connection, number, slots, receiver=NOBODY, lock_timeout_ms=LOCK_TIMEOUT_MS)
        except asyncpg.LockNotAvailableError as error:
            raise ClusterError(f"enrolments on {name} do not end; ask again") from error
    if taken:
        raise ClusterError(f"{name} holds members: it goes only when nobody ever lived there")
    if kept := await kept_by(primary):
        raise ClusterError(f"{name} {kept}")


async def have_stay(primaries: Iterable[str]) -> None:
    """Have shards that were about to go with their region claim receipts, and take members, again."""
    from command.receipt_move import keep_receipts_again  # noqa: PLC0415 - heavy, and few need it

    for primary in primaries:
        await keep_receipts_again(primary)
        async with connection_to(primary, timeout=CONNECT_TIMEOUT_S) as connection:
            await open_slots(connection, await given_to(connection, NOBODY))
