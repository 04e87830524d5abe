"""A second shard in a region of a running system: it is given slots in which nobody lives, and new members since.

It comes up first and every node learns of it, without slots. Then the region's other shard gives it slots of which it
sees, under a lock, that nobody ever lived in them (command/slot.py): from then on nobody is enrolled there by an older
topology. All nodes learn whose they are, and only then does the shard take members: nobody may look for one in vain.
Cut short anywhere, it goes on from what topology and database say. Members and receipts stay where they are.
"""

import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import asyncpg

from cluster.claims import refuse_claims
from cluster.document import Documents, write_documents, write_shards
from cluster.errors import ClusterError
from cluster.plan import ClusterPlan, RegionPlan, ShardPlan, must_be_next, plan_shard
from cluster.port import check_ports
from cluster.postgres import CONNECT_TIMEOUT_S
from cluster.system import System, ensure_program
from command.slot import empty_slots, give_slots, given_to, open_slots, take_refusals
from shard_router.incarnation import is_unreconciled
from shard_router.member_id import SLOT_COUNT
from shard_router.pool import Connection
from shard_router.server import connection_to
from shard_router.slot_table import ranges_of
from shard_router.topology import Shard, TopologyDocument, read_topology

SHARD_NAME: Final = re.compile(r"([a-z][a-z0-9]{1,15})-([1-9][0-9]?)")
LOCK_TIMEOUT_MS: Final = 2_000  # new enrolments wait as long, and have five seconds
FULL: Final = (
    "somebody lives in every slot of {region}, so {name} would take nobody: it takes new members in slots without any,"
    " and moving slots between shards comes later"
)


@dataclass(slots=True)
class ShardGrowth:
    """Adds a shard; `everybody_knows` returns when every node has the topology as it is."""

    system: System
    everybody_knows: Callable[[], Awaitable[None]]

    async def add(self, name: str) -> str:
        """Add a shard, or go on where that stopped; in words, what it has now. ClusterError says why not."""
        region, began_at = self._region_of(name), time.monotonic()
        known = self._topology().shards.get(name)
        if known and known.state == "active":
            raise ClusterError(f"shard {name} is there already")
        if known is None:
            await self._bring_up(region, name)
        write_documents(self.system.plan)
        await self.system.start_nodes_of(alone(region, self._plan_of(name)))
        await self.everybody_knows()
        slots = await self._take_slots(name)
        await self.everybody_knows()
        async with connected(self.system, self._plan_of(name)) as receiving:
            await open_slots(receiving, range(SLOT_COUNT))  # it may have given some away, when it was to be removed
        self._write({name: {"state": "active"}})
        await self.everybody_knows()
        share = 100 * len(slots) / SLOT_COUNT
        took_s = time.monotonic() - began_at
        return (
            f"{name} takes new members in {len(slots):,} of {SLOT_COUNT:,} slots, {share:.1f} % of those of"
            f" {region.name}, after {took_s:.0f} s. Members that are there already stay where they are."
        )

    def _region_of(self, name: str) -> RegionPlan:
        named = SHARD_NAME.fullmatch(name)
        if named is None:
            raise ClusterError(f"{name!r} is no name of a shard: REGION-NUMBER, for example eu-2")
        region, row = self.system.region(named[1]), self._topology().regions.get(named[1])
        if row is None or row.state != "active":
            raise ClusterError(f"region {named[1]} takes no new members: it is {row.state if row else 'not there'}")
        return region

    async def _bring_up(self, region: RegionPlan, name: str) -> None:
        """Servers, program, topology. What does not get that far is stopped: the next attempt needs its ports."""
        before, shard = self.system.plan, plan_shard(self.system.plan, region, name)
        must_be_next(region, name)
        if not [slot for giver in region.shards for slot in await self._empty(giver)]:
            raise ClusterError(FULL.format(region=region.name, name=name))
        added = alone(region, shard)
        check_ports(added.ports())
        try:
            await self.system.start_data(added)
            primaries = [await self.system.primary(one) for one in (*before.shards, shard)]
            await ensure_program(primaries, None)
            await refuse_claims(Documents(self._data), [name], primaries[-1:])
            self.system.plan = _extended(before, region, shard)
            write_documents(self.system.plan)
        except BaseException:
            if name not in self._topology().shards:
                self.system.plan = before
                await self.system.stop_data(added)
            raise

    async def _take_slots(self, name: str) -> list[int]:
        """Have other shards of the region give it slots, and say so in the topology; which those are."""
        region = self._region_of(name)
        (giver,) = [shard for shard in region.shards if shard.name != name]  # there is no room for a third
        has = slots_of(self._topology().shards[name].slots)
        async with connected(self.system, giver) as giving, connected(self.system, self._plan_of(name)) as receiving:
            wanted = has or await given_to(giving, name) or _upper_half(await self._empty(giver))
            given = await self._give(giving, giver, wanted, name)
            if lost := set(has) - set(given):
                raise ClusterError(
                    f"somebody was enrolled on {giver.name} in {len(lost)} slots of {name} after a restore"
                )
            if not given:
                raise ClusterError(FULL.format(region=region.name, name=name))
            await take_refusals(giving, receiving, region.number, given)
        kept = set(slots_of(self._topology().shards[giver.name].slots)) - set(given)
        self._write({giver.name: {"slots": ranges_to_write(kept)}, name: {"slots": ranges_to_write(given)}})
        return given

    async def _give(self, giving: Connection, giver: ShardPlan, wanted: list[int], name: str) -> list[int]:
        number = self._region_of(name).number
        try:
            return await give_slots(giving, number, wanted, receiver=name, lock_timeout_ms=LOCK_TIMEOUT_MS)
        except asyncpg.LockNotAvailableError as error:
            raise ClusterError(f"enrolments on {giver.name} do not end; nothing was given, ask again") from error

    async def _empty(self, giver: ShardPlan) -> list[int]:
        """Slots of a shard without members, as far as one can see from outside."""
        slots = slots_of(self._topology().shards[giver.name].slots)
        number = self.system.region(giver.region).number
        async with connected(self.system, giver) as connection:
            if await is_unreconciled(connection):
                raise ClusterError(f"{giver.name} was restored: `loyalty reconcile` first, which tells who lives there")
            return await empty_slots(connection, number, slots)

    def _write(self, changes: dict[str, dict[str, object]]) -> None:
        say_of_shards(self.system, changes)

    @property
    def _data(self) -> Path:
        return self.system.plan.data

    def _topology(self) -> TopologyDocument:
        return read_topology(Documents(self._data).topology).document

    def _plan_of(self, name: str) -> ShardPlan:
        return next(shard for shard in self.system.plan.shards if shard.name == name)


@asynccontextmanager
async def connected(system: System, shard: ShardPlan) -> AsyncGenerator[Connection]:
    """A connection to a shard's primary, for the owner of its tables."""
    async with connection_to(await system.primary(shard), timeout=CONNECT_TIMEOUT_S) as connection:
        yield connection


def say_of_shards(system: System, changes: dict[str, dict[str, object]]) -> None:
    """Change shards in the topology, and in the plan, by which the next one who joins writes all of it."""
    write_shards(system.documents, changes)
    system.plan = as_written(system.plan, read_topology(system.documents.topology).document.shards)


def as_written(plan: ClusterPlan, shards: dict[str, Shard]) -> ClusterPlan:
    """The plan with slots and states of shards as the topology has them."""
    regions = [
        replace(region, shards=tuple(_as_row(shard, shards[shard.name]) for shard in region.shards))
        for region in plan.regions
    ]
    return replace(plan, regions=tuple(regions))


def _as_row(shard: ShardPlan, row: Shard) -> ShardPlan:
    receipts = None if row.receipts is None else tuple(row.receipts)
    return replace(shard, slots=tuple(row.slots), receipts=receipts, state=row.state)


def alone(region: RegionPlan, shard: ShardPlan) -> RegionPlan:
    """What a shard brings into its region."""
    return replace(region, shards=(shard,), command=(), query=())


def _extended(plan: ClusterPlan, region: RegionPlan, shard: ShardPlan) -> ClusterPlan:
    """With one more shard in a region, whose others keep the receipts that they have."""
    others = tuple(replace(one, receipts=one.slots if one.receipts is None else one.receipts) for one in region.shards)
    grown = replace(region, shards=(*others, shard))
    return replace(plan, regions=tuple(grown if one.name == region.name else one for one in plan.regions))


def _upper_half(empty: list[int]) -> list[int]:
    """As many as an even share of the region's slots, the last ones: in as few ranges as can be."""
    return empty[-(SLOT_COUNT // 2) :]


def slots_of(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Each slot of some ranges."""
    return [slot for first, last in ranges for slot in range(first, last + 1)]


def ranges_to_write(slots: Iterable[int]) -> list[list[int]]:
    """Slots as the topology document has them."""
    table = ["" for _ in range(SLOT_COUNT)]
    for slot in slots:
        table[slot] = "its"
    return [list(pair) for pair in ranges_of(table).get("its", [])]
