"""From a member to the lane that serves it, or to the region that does."""

from dataclasses import dataclass
from datetime import date, datetime

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from command.lane import LaneMetrics, Lanes
from command.program import ProgramCache
from command.stock import StockKeeper
from command.store import Store
from rules.program import Program
from service.detached import DetachedWrites
from service.forward import Forwarder
from shard_router.card import CARD_DIGITS, parse_card
from shard_router.directory import Directory, Identifier
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import parse_member_id, slot_of
from shard_router.pool import ShardPools
from shard_router.topology import TopologyWatch


@dataclass(frozen=True, slots=True)
class Target:
    """Where a member lives, and what names it: its id, or an identifier its shard resolves."""

    region: str
    slot: int
    member_id: int | None = None
    identifier: tuple[str, str] | None = None


class CommandNode:
    """The lanes of a region's shards, and the way to the other regions."""

    def __init__(self, region: str, topology: TopologyWatch, pools: ShardPools, registry: CollectorRegistry) -> None:
        self.region = region
        self._topology = topology
        self._pools = pools
        self._metrics = LaneMetrics(registry)
        self._forwarder = Forwarder(region, topology, "command")
        self._lanes: dict[str, Lanes] = {}
        self.directory = Directory(topology, pools)
        self.detached = DetachedWrites()
        self.stock = StockKeeper(pools, self.detached)
        self.programs = ProgramCache()
        self.lanes_per_shard = 1

    @property
    def region_number(self) -> int:
        """The number of the own region, as it stands in ids."""
        return self._number(self.region)

    def business_date(self, moment: datetime) -> date:
        """The program's calendar day of an instant."""
        return self.program.business_date(moment)

    @property
    def program(self) -> Program:
        """The newest program this node has met; `shard_unavailable` before the first."""
        program = self.programs.newest
        if program is None:
            raise ProblemError("shard_unavailable", "no program is applied: run `loyalty program apply FILE`")
        return program

    def home_of(self, member_id: int) -> Target:
        """Where a member lives; MalformedIdError for a region that does not exist."""
        return Target(self._topology.current.region_of(member_id), slot_of(member_id), member_id=member_id)

    def home_of_new(self, card: str | None, drawn_slot: int) -> Target:
        """Where a new member will live: with its card when that is one of ours, else in the drawn slot here."""
        routed = self._home_of_card(card) if card else None
        return routed or Target(self.region, drawn_slot)

    async def find(self, kind: str, value: str) -> Target:
        """Where the named member lives; `member_not_found` when nobody is named so."""
        try:
            if kind == "member_id":
                return self.home_of(parse_member_id(value))
        except MalformedIdError as error:
            raise ProblemError("member_not_found") from error
        routed = self._home_of_card(value) if kind == "card" else None
        if routed:
            return routed
        member_id = await self.directory.find((kind, value))
        if member_id is None:
            raise ProblemError("member_not_found", f"no member with this {kind}")
        return self.home_of(member_id)

    async def claim(self, identifiers: list[Identifier], member_id: int, *, deadline: float) -> list[Identifier]:
        """Lease what a member is to be found by; tells which of it existing members have (see Directory)."""
        work = self.directory.lease(self.unrouted(identifiers), member_id)
        return await self.detached.wait(work, deadline=deadline, what="leasing what the member is to be found by")

    async def conclude_claim(
        self, identifiers: list[Identifier], member_id: int, *, created: bool, deadline: float
    ) -> None:
        """Hold the leases of a created member, or give them up.

        What fails here heals by itself when the lease has run out.
        """
        unrouted = self.unrouted(identifiers)
        if not unrouted:
            return
        conclude = self.directory.hold if created else self.directory.give_up
        try:
            await self.detached.wait(conclude(unrouted, member_id), deadline=deadline, what="concluding a lease")
        except ProblemError as error:
            structlog.get_logger().warning("claim_left_leased", reason=error.detail)

    async def conclude_change(self, identifiers: list[Identifier], member_id: int, *, deadline: float) -> None:
        """Hold the leases of what a member has now, and give up the others.

        The answer alone does not tell: it may be that of an earlier attempt, and the identifier gone since.
        """
        if not self.unrouted(identifiers):
            return
        rows = await self.lanes_for(member_id).store.rows("identifiers_of", member_id)
        has = {(row["kind"], row["value"]) for row in rows}
        for created in (True, False):
            those = [identifier for identifier in identifiers if (identifier in has) is created]
            await self.conclude_claim(those, member_id, created=created, deadline=deadline)

    async def region_of_holder(self, identifier: Identifier) -> str:
        """The region of whoever has a claimed identifier; ours when nobody has."""
        holder = await self.directory.find(identifier)
        return self.region if holder is None else self.home_of(holder).region

    def needs_claim(self, identifier: Identifier) -> bool:
        """Whether an identifier needs a claim: a card of our own form is unique on the shard it names."""
        kind, value = identifier
        return kind != "card" or not self._home_of_card(value)

    def unrouted(self, identifiers: list[Identifier]) -> list[Identifier]:
        """Those that need a claim."""
        return [identifier for identifier in identifiers if self.needs_claim(identifier)]

    async def forward(self, request: web.Request, region: str, *, deadline: float, body: bytes) -> web.Response:
        """Hand a request to another region (see Forwarder)."""
        return await self._forwarder.forward(request, region, deadline=deadline, body=body)

    def is_foreign_card(self, card: str, home: Target) -> bool:
        """Whether a card of our own form names another place than a member's home: it could never be found there."""
        routed = self._home_of_card(card)
        return routed is not None and (routed.region, routed.slot) != (home.region, home.slot)

    def lanes_at(self, slot: int) -> Lanes:
        """The lanes of the shard that holds a slot of this region."""
        return self.lanes_of(self._topology.current.shard_at(self.region_number, slot))

    def lanes_of(self, shard: str) -> Lanes:
        """The lanes of a shard of this region."""
        if shard not in self._lanes:
            store = Store(self._pools, shard, self.programs, self.needs_claim)
            self._lanes[shard] = Lanes(store, self._metrics, self.lanes_per_shard)
        return self._lanes[shard]

    def shards(self) -> list[str]:
        """The shards of this region."""
        return self._topology.current.shards_in(self.region)

    def lanes_for(self, member_id: int) -> Lanes:
        """The lanes of a member's shard, be it of another region: for the courier."""
        return self.lanes_of(self._topology.current.shard_of(member_id))

    async def fetch_stock(self, reward: str, *, slot: int, quantity: int, deadline: float) -> bool:
        """Bring a reward's stock to a shard of this region (see StockKeeper.fetch)."""
        shards = list(self._topology.current.document.shards)
        receiver = self._topology.current.shard_at(self.region_number, slot)
        return await self.stock.fetch(reward, receiver=receiver, shards=shards, quantity=quantity, deadline=deadline)

    async def member_at(self, target: Target) -> int:
        """The id of a named member, asked of its home shard; `member_not_found` when there is none."""
        store = self.lanes_of(self._topology.current.shard_at(self._number(target.region), target.slot)).store
        member_id = target.member_id
        if target.identifier is not None:
            member_id = await store.value("member_of_identifier", *target.identifier)
        if member_id is None or await store.value("account_status", member_id) is None:
            raise ProblemError("member_not_found")
        return member_id

    async def close(self) -> None:
        """Let the lanes run empty and close the way to the other regions."""
        for lanes in self._lanes.values():
            await lanes.idle()
            await lanes.store.close()
        await self.detached.idle()
        await self._forwarder.close()

    def _number(self, region: str) -> int:
        return self._topology.current.document.regions[region].number

    def _home_of_card(self, card: str) -> Target | None:
        """A card of our own form carries region and slot; any other is looked up."""
        if len(card) != CARD_DIGITS:
            return None
        try:
            number, slot = parse_card(card)
        except MalformedIdError:
            return None
        region = self._topology.current.region_of_number.get(number)
        return Target(region, slot, identifier=("card", card)) if region else None
