"""From a member to the lane that serves it, or to the region that does."""

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry

from command.answer import MAY_CHANGE
from command.claim import Claims
from command.envelope import Answer, Envelope
from command.lane import CALM, LaneMetrics, Lanes
from command.program import ProgramCache
from command.refusal import StoredRefusals
from command.stock import StockKeeper
from command.store import Store
from rules.program import Program
from rules.value import value
from service.admission import Gates
from service.detached import DetachedWrites
from service.forward import Forwarder
from service.identifier import forms_of
from shard_router.card import CARD_DIGITS
from shard_router.clock import ShardClock
from shard_router.directory import Directory, Identifier
from shard_router.errors import MalformedIdError, ProblemError, SlotGivenError
from shard_router.member_id import home_shown, new_member_id, parse_member_id, slot_of
from shard_router.pool import ShardPools
from shard_router.topology import Topology, TopologyWatch

Result = TypeVar("Result")

_ANSWER_S: Final = 0.5
"""Of its time, what an enrolment keeps for its answer."""

_IN_PATH: Final = re.compile(rb"\w+ /[^ ]*?/(?:(?:pur|hld|red)_)?([0-9A-Za-z]{14,19})(?![0-9A-Za-z])")
_IN_BODY: Final = re.compile(rb'"(?:card|member_id)"\s*:\s*"([0-9A-Za-z]{14,19})(?![0-9A-Za-z])')


@value
class Target:
    """Where a member lives, and what names it: its id, or an identifier its shard resolves.

    `reference` is the version of the entry of that member that was named, 0 for none.
    """

    region: str
    slot: int
    member_id: int | None = None
    identifier: tuple[str, str] | None = None
    reference: int = 0


class CommandNode:
    """The lanes of a region's shards, and the way to the other regions; their shards too while no node there lives."""

    def __init__(
        self,
        region: str,
        topology: TopologyWatch,
        pools: ShardPools,
        registry: CollectorRegistry,
        address: str | None = None,
    ) -> None:
        """`address` is what the topology calls this node; without it is asked for all members of its region."""
        self.region = region
        self._gates: Gates | None = None
        self.topology = topology
        self.pools = pools
        self._metrics = LaneMetrics(registry)
        self.forwarder = Forwarder(region, topology, "command", address)
        """The way to the other nodes."""
        self._lanes: dict[str, Lanes] = {}
        self.directory = Directory(topology, pools)
        self.detached = DetachedWrites()
        self.claims = Claims(topology, self.directory, self.detached, self.identifiers_of)
        self.stock = StockKeeper(pools, self.detached)
        self.programs = ProgramCache()
        self.lanes_per_shard = 1
        self._refusals = StoredRefusals()

    def shed_by(self, gates: Gates) -> None:
        """Share the limits of the shards with the door, which then refuses what one has no room for."""
        self._gates, gates.shard_of = gates, self.shard_shown

    @property
    def region_number(self) -> int:
        """The number of the own region, as it stands in ids."""
        return self.number_of(self.region)

    @property
    def program(self) -> Program:
        """The newest program this node has met; `shard_unavailable` before the first."""
        program = self.programs.newest
        if program is None:
            raise ProblemError("shard_unavailable", "no program is applied: run `loyalty program apply FILE`")
        return program

    def facts(self) -> dict[str, int | None]:
        """The versions that this node goes by, for its status."""
        newest = self.programs.newest
        return {"topology_epoch": self.topology.current.epoch, "program_version": newest.version if newest else None}

    def home_of(self, member_id: int) -> Target:
        """Where a member lives; MalformedIdError for a region that does not exist."""
        return Target(self.topology.current.region_of(member_id), slot_of(member_id), member_id=member_id)

    def home_of_new(self, card: str | None, drawn_slot: int) -> Target:
        """Where a new member will live: with its card when that is one of ours, else in the drawn slot here.

        `shard_unavailable` where that region takes no new members, or does not yet.
        """
        region, slot = (self.home_of_card(card) if card else None) or (self.region, drawn_slot)
        state = self.topology.current.document.regions[region].state
        if state != "active":
            raise ProblemError("shard_unavailable", f"region {region} is {state}: it takes no new members")
        return Target(region, slot, member_id=new_member_id(self.number_of(region), slot))

    def home_of_card(self, card: str) -> tuple[str, int] | None:
        """Region and slot that a card of our own form names; any other card is looked up."""
        return self.topology.current.home_of_card(card)

    async def find(self, kind: str, value: str, *, deadline: float) -> Target:
        """Where the named member lives; `member_not_found` when nobody is named so."""
        target = await self._look_up(kind, value, deadline=deadline)
        if target is None:
            raise ProblemError("member_not_found", f"no member with this {kind}" if kind != "member_id" else "")
        return target

    def serves(self, member_id: int) -> bool:
        """Whether a member of this region is this node's now: two nodes that settle the same member would conflict."""
        return self.serves_slot(slot_of(member_id))

    def serves_slot(self, slot: int) -> bool:
        """Whether a slot of this region is this node's now."""
        return self.forwarder.serves(slot)

    def shard_at(self, region: str, slot: int) -> str:
        """The shard that holds a slot of a region (empty: this one)."""
        return self.topology.current.shard_at(self.number_of(region or self.region), slot)

    def lanes_at(self, region: str, slot: int) -> Lanes:
        """The lanes of the shard that holds a slot of a region (empty: this one)."""
        return self.lanes_of(self.shard_at(region, slot))

    def begin(self, envelope: Envelope) -> asyncio.Future[Answer]:
        """Take a command to its lane (see Lanes); its answer is to be noted."""
        stores = self._refusals.may_store(envelope.credential)
        lanes = self.lanes_at(envelope.region, envelope.slot)
        return lanes.begin(envelope if stores else replace(envelope, stores_refusal=False))

    def note(self, credential: str, answer: Answer) -> None:
        """Count a "no" that was stored."""
        if answer.is_refusal and answer.status not in MAY_CHANGE and not (answer.replayed or answer.not_final):
            self._refusals.note(credential)

    async def run(self, envelope: Envelope) -> Answer:
        """Answer a command."""
        answer = await self.begin(envelope)
        self.note(envelope.credential, answer)
        return answer

    async def enrol(self, envelope: Envelope) -> Answer:
        """Answer an enrolment. While its slot is on the way to another shard it waits for the topology that says where.

        SlotGivenError when that does not come in time: nothing was done.
        """
        while True:
            topology = self.topology.current
            shard = self.shard_at(envelope.region, envelope.slot)
            try:
                _check_active(topology, shard)
                return await self.run(envelope)
            except SlotGivenError:
                if not await self.topology.newer_than(topology.epoch, until=envelope.deadline - _ANSWER_S):
                    raise

    def lanes_of(self, shard: str) -> Lanes:
        """The lanes of a shard."""
        if shard not in self._lanes:
            store = Store(self.pools, shard, self.programs, self.claims)
            self._lanes[shard] = lanes = Lanes(store, self._metrics, self.lanes_per_shard)
            if self._gates and shard in self.shards():
                lanes.gate = self._gates.of_shard(shard, lanes.oldest_waited_s, calm=CALM * self.lanes_per_shard)
        return self._lanes[shard]

    def shard_shown(self, data: bytes, body_at: int) -> str | None:
        """The shard of this region that a request most likely goes to, by the first id or card in its bytes."""
        named = _IN_PATH.match(data) or _IN_BODY.search(data, body_at)
        if named is None:
            return None
        text = named[1]
        try:
            number, slot = (int(text[:2]), int(text[2:6])) if len(text) == CARD_DIGITS else home_shown(text)
            return self.topology.current.shard_at(number, slot) if number == self.region_number else None
        except (MalformedIdError, ValueError, IndexError):
            return None

    def shards(self) -> list[str]:
        """The shards of this region."""
        return self.topology.current.shards_in(self.region)

    def now(self) -> datetime:
        """The time by the clock of this node."""
        return datetime.fromtimestamp(self.pools.wall(), UTC)

    def clocks(self) -> dict[str, ShardClock]:
        """The clocks of this region's shards as this node knows them."""
        return {shard: self.pools[shard].clock for shard in self.shards()}

    def lanes_for(self, member_id: int) -> Lanes:
        """The lanes of a member's shard, be it of another region: for the courier."""
        return self.lanes_of(self.topology.current.shard_of(member_id))

    async def fetch_stock(self, reward: str, *, shard: str, quantity: int, deadline: float) -> bool:
        """Bring a reward's stock to a shard (see StockKeeper.fetch)."""
        shards = list(self.topology.current.document.shards)
        return await self.stock.fetch(reward, receiver=shard, shards=shards, quantity=quantity, deadline=deadline)

    async def member_at(self, target: Target, *, deadline: float) -> int:
        """The id of a named member, asked of its home shard; `member_not_found` when there is none."""
        member_id, status = await self.in_time(self._status_at(target), deadline=deadline)
        if member_id is None or status is None:
            raise ProblemError("member_not_found")
        return member_id

    async def find_open(self, kind: str, value: str, *, deadline: float) -> int | None:
        """The id of the member named so; None when there is none whose membership is open."""
        target = await self._look_up(kind, value, deadline=deadline)
        if target is None:
            return None
        member_id, status = await self.in_time(self._status_at(target), deadline=deadline)
        return member_id if status == "open" else None

    async def in_time(self, asked: Coroutine[Any, Any, Result], *, deadline: float) -> Result:
        """What another shard tells; `shard_unavailable` when not by the deadline: a lost network never says no."""
        return await self.detached.wait(asked, deadline=deadline, what="asking another shard")

    async def identifiers_of(self, member_id: int) -> set[Identifier]:
        """What a member is found by now, asked of its home shard."""
        rows = await self.lanes_for(member_id).store.rows("identifiers_of", member_id)
        return {(row["kind"], row["value"]) for row in rows}

    async def close(self) -> None:
        """Let the lanes run empty and close the way to the other regions."""
        for lanes in self._lanes.values():
            await lanes.idle()
            await lanes.store.close()
        await self.detached.idle()
        await self.forwarder.close()

    def named(self, kind: str, value: str) -> Target | None:
        """Where a member lives whose name itself tells; None where somebody must be asked, or it is no id."""
        if kind == "member_id":
            return self._home_named(value)
        home = self.home_of_card(value) if kind == "card" else None
        return Target(*home, identifier=(kind, value)) if home else None

    async def _look_up(self, kind: str, value: str, *, deadline: float) -> Target | None:
        target = self.named(kind, value)
        if target or kind == "member_id":
            return target
        for form in forms_of(kind, value):
            member_id = await self.in_time(self.directory.find((kind, form)), deadline=deadline)
            if member_id is not None:
                return self.home_of(member_id)
        return None

    def _home_named(self, member_id: str) -> Target | None:
        try:
            return self.home_of(parse_member_id(member_id))
        except MalformedIdError:
            return None

    async def _status_at(self, target: Target) -> tuple[int | None, str | None]:
        """Id and status of a named member, asked of its home shard."""
        store = self.lanes_at(target.region, target.slot).store
        member_id = target.member_id
        if target.identifier is not None:
            member_id = await store.value("member_of_identifier", *target.identifier)
        return member_id, None if member_id is None else await store.value("account_status", member_id)

    def number_of(self, region: str) -> int:
        """The number of a region, as it stands in ids."""
        return self.topology.current.document.regions[region].number


def _check_active(topology: Topology, shard: str) -> None:
    if topology.document.shards[shard].state != "active":
        raise SlotGivenError(f"{shard} takes no new members yet")
