"""Regions added to a running system, and taken out again: joining, active, draining, gone.

What is new comes up first and unseen. Then every node learns of it, while it takes no enrolment and nothing at the
door. Only when all have said that they know does it become active, and its share of the traffic grows. Each step may be
cut short: asked again, it goes on from what the topology says.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import ValidationError

from cluster import question
from cluster.claims import finish_moves, primaries_of, refuse_claims, share_claims
from cluster.document import REMOVED, Documents, known_region_numbers, write_documents, write_states
from cluster.door import forget_region, hide_region, read_state, share_traffic
from cluster.epoch import everybody_knows
from cluster.errors import ClusterError, StartFailed, in_words
from cluster.growth_request import TOPIC, Action, Request
from cluster.plan import RegionPlan, make_plan
from cluster.port import check_ports
from cluster.question import Outcome
from cluster.shard_growth import ShardGrowth
from cluster.shard_leaving import ShardLeaving, have_stay, take_nobody
from cluster.system import System, apply_again, ensure_program
from edge.decision import WHOLE
from shard_router.errors import DocumentError
from shard_router.server import SERVER_ERRORS
from shard_router.topology import TopologyDocument, read_topology

_POLL_S: Final = 0.2
DIAL: Final = (1, 10, WHOLE)
"""Percent of its own traffic that a new region takes, one after the other."""
DIAL_PAUSE_S: Final = 2.0
GO_ON_S: Final = 10.0
"""So often what a supervisor before has begun is gone on with, until it is done."""


_REASONS: Final = (ClusterError, DocumentError, StartFailed, ValueError, *SERVER_ERRORS)
"""What something is not done for, in words."""


@dataclass(slots=True)
class Growth:
    """Does what is asked, one after the other, until cancelled."""

    system: System
    _leaving: dict[str, RegionPlan] = field(default_factory=dict[str, RegionPlan])
    """Regions, and shards, that the topology has no more, and whose servers are still to be stopped."""

    async def run(self) -> None:
        """Go on with what a supervisor before has begun, until it is done, and look for questions for ever.

        Once something is asked that decides: what it needs of the rest it does, or tells.
        """
        begun: list[Callable[[], Awaitable[Any]]] = [partial(finish_moves, self.system), self._shard_leaving.finish]
        look_at = time.monotonic()
        while True:
            if begun and time.monotonic() >= look_at:
                begun = [step for step in begun if not await _is_done(step)]
                look_at = time.monotonic() + GO_ON_S
            await asyncio.sleep(_POLL_S)
            if await self._heed():
                begun = []

    async def _heed(self) -> bool:
        """Do what is asked, if anything is; the next question is heard whatever becomes of this one."""
        try:
            if (content := question.take(self._data, TOPIC)) is None:
                return False
            outcome = await self._outcome(content)
            while not _told(self._data, outcome):  # noqa: ASYNC110 - a full disk is looked at
                await asyncio.sleep(_POLL_S)
        except Exception as error:  # noqa: BLE001 - who asks later would wait for somebody who hears nothing any more
            structlog.get_logger().warning("question_not_heard", reason=in_words(error))
            await asyncio.sleep(GO_ON_S)
            return False
        return True

    @property
    def _data(self) -> Path:
        return self.system.plan.data

    async def _outcome(self, content: Any) -> Outcome:
        try:
            request = Request.model_validate(content)
        except ValidationError:
            return Outcome(done=False, words="this supervisor is of another version, and does not know how to")
        try:
            return Outcome(done=True, words=await self._do(request))
        except _REASONS as error:
            return Outcome(done=False, words=_words_of(error))
        except Exception as error:  # noqa: BLE001 - whoever asks would wait in vain
            structlog.get_logger().exception("request_failed", action=request.action, name=request.name)
            return Outcome(done=False, words=f"{type(error).__name__}: {error}; see the supervisor's log")

    async def _do(self, request: Request) -> str:
        steps: dict[Action, Callable[[Request], Awaitable[str]]] = {
            "add": self._add,
            "drain": self._drain,
            "remove": self._remove,
            "add shard": self._add_shard,
            "remove shard": self._remove_shard,
        }
        return await steps[request.action](request)

    async def _add_shard(self, request: Request) -> str:
        return await ShardGrowth(self.system, self._everybody_knows).add(request.name)

    async def _remove_shard(self, request: Request) -> str:
        return await self._shard_leaving.remove(request.name)

    @property
    def _shard_leaving(self) -> ShardLeaving:
        return ShardLeaving(self.system, self._everybody_knows, self._leaving)

    # Adding.

    async def _add(self, request: Request) -> str:
        name, began_at = request.name, time.monotonic()
        known = self._topology().regions.get(name)
        if known and known.state == "active":
            return await self._dial_on(name)
        if known is None:
            await self._bring_up_or_stop(request)
        write_documents(self.system.plan)
        await self.system.start_nodes_of(self.system.region(name))
        await self._everybody_knows()
        await self._claim_receipts_again(name)
        moved = await share_claims(self._documents, await primaries_of(self.system), joins=name)
        write_states(self._documents, {name: "active"})
        await self._everybody_knows()
        await self._dial(name)
        took_s = time.monotonic() - began_at
        number = self._topology().regions[name].number
        url = self.system.region(name).command[0].url
        return f"{name} (number {number}) serves, after {took_s:.0f} s, with {moved:,} claim slots of others: {url}"

    async def _bring_up(self, request: Request) -> None:
        region = self._planned(request)
        check_ports(region.ports())
        await self.system.start_data(region)
        own = [await self.system.primary(shard) for shard in region.shards]
        await ensure_program([*[await self.system.primary(shard) for shard in self.system.plan.shards], *own], None)
        await refuse_claims(self._documents, [shard.name for shard in region.shards], own)
        hide_region(self._data, request.name)
        self._extend(region, request)
        write_documents(self.system.plan, states={request.name: "joining"})

    async def _bring_up_or_stop(self, request: Request) -> None:
        """What does not get as far as the topology is stopped: the next attempt needs its ports."""
        before, region = self.system.plan, self._planned(request)
        try:
            await self._bring_up(request)
        except BaseException:
            if request.name not in self._topology().regions:
                self.system.plan = before
                await self.system.stop_data(region)
            raise

    def _planned(self, request: Request) -> RegionPlan:
        settings = self.system.plan.settings
        names = [*(region.name for region in self.system.plan.regions), request.name]
        plan = make_plan(
            settings.model_validate({**settings.model_dump(), "regions": names}),
            known_region_numbers(self._data),
            self._topology(),
        )
        if request.after is not None and request.after not in names[:-1]:
            raise ClusterError(f"there is no region {request.after} to stand after")
        return plan.regions[-1]

    def _extend(self, region: RegionPlan, request: Request) -> None:
        regions = list(self.system.plan.regions)
        names = [one.name for one in regions]
        regions.insert(names.index(request.after) + 1 if request.after else len(names), region)
        self.system.plan = replace(self.system.plan, regions=tuple(regions))

    async def _claim_receipts_again(self, name: str) -> None:
        """At a region whose stores sold before it joined: others have kept their receipts."""
        from cluster.receipts import claim_receipts_again  # noqa: PLC0415 - heavy, and few need it

        primaries = await primaries_of(self.system)
        topology = read_topology(self._documents.topology)
        await have_stay(primaries[shard] for shard in topology.shards_in(name))
        await claim_receipts_again(topology, name, [*primaries.values()])

    async def _dial_on(self, name: str) -> str:
        """Of a region that serves, and has not all its traffic: its adding was cut short, or it was evacuated."""
        door = read_state(self._data)
        if door is None or door.shares.get(name, WHOLE) == WHOLE:
            raise ClusterError(f"region {name} is there already")
        await self._dial(name)
        return f"{name} serves, and has all its traffic at the door"

    async def _dial(self, name: str) -> None:
        if (door := read_state(self._data)) is None:
            return
        for percent in [one for one in DIAL if one > door.shares.get(name, WHOLE)] or [WHOLE]:
            await share_traffic(self._data, name, percent)
            await asyncio.sleep(DIAL_PAUSE_S if percent != WHOLE else 0)

    # Taking out.

    async def _drain(self, request: Request) -> str:
        self._must_exist(request.name)
        if read_state(self._data):
            await share_traffic(self._data, request.name, 0)
        write_states(self._documents, {request.name: "draining"})
        await self._everybody_knows()
        back = f"Back with `loyalty region add {request.name}`."
        return f"{request.name} takes no new members, and nothing at the door; what it has goes on. {back}"

    async def _remove(self, request: Request) -> str:
        name = request.name
        if name in self._topology().regions:
            await self._take_out(name)
        region = self._leaving.get(name) or self._left_behind(request)
        await forget_region(self._data, name)
        await self._everybody_knows()
        # What it had of rewards' stock is given to the others: nobody has redeemed any of it.
        if name in self._leaving:
            await self._give_up_stock(region)
        await apply_again([await self.system.primary(shard) for shard in self.system.plan.shards])
        await self.system.stop_data(region)
        for shard in region.shards:
            if shard.folder.exists():
                shard.folder.rename(self._data / "servers" / f"{REMOVED}{shard.name}-{int(time.time())}")
        self._leaving.pop(name, None)
        return f"{name} is gone; its number is never given again. Its folder was kept as servers/removed-…"

    async def _take_out(self, name: str) -> None:
        """Until the topology has the region no more. Cut short before, all of it is done again."""
        from cluster.receipts import give_receipts_away  # noqa: PLC0415 - heavy, and few need it

        if self._topology().regions[name].state != "draining":
            raise ClusterError(f"{name} still takes members: `loyalty region drain {name}` first")
        region = self.system.region(name)
        await self._must_be_empty(region)
        await share_claims(self._documents, await primaries_of(self.system), leaves=name)
        await self._everybody_knows()
        await self.system.stop_nodes_of(region)  # they finish what they have
        try:
            await self._must_be_empty(region)
            await give_receipts_away(self._documents, await primaries_of(self.system), name)
        except _REASONS:
            await self.system.start_nodes_of(region)
            raise
        rest = replace(self.system.plan, regions=tuple(one for one in self.system.plan.regions if one.name != name))
        write_documents(rest)
        self._leaving[name], self.system.plan = region, rest

    async def _give_up_stock(self, region: RegionPlan) -> None:
        """Who was to be given some of it just now gets it: counted as nobody's, it would be there twice."""
        from command.stock import give_up_stock  # noqa: PLC0415 - heavy, and few need it

        receivers = await primaries_of(self.system)
        for shard in region.shards:
            await give_up_stock(await self.system.primary(shard), receivers)

    def _left_behind(self, request: Request) -> RegionPlan:
        """A region that the topology has no more, or never had, and whose servers have a folder."""
        if request.name in known_region_numbers(self._data):
            region = self._planned(request)
            if any(shard.folder.exists() for shard in region.shards):
                return region
        raise ClusterError(f"there is no region {request.name}")

    async def _must_be_empty(self, region: RegionPlan) -> None:
        for shard in region.shards:
            await take_nobody(await self.system.primary(shard), shard.name, self._topology())

    # What both need.

    @property
    def _documents(self) -> Documents:
        return Documents(self._data)

    def _topology(self) -> TopologyDocument:
        return read_topology(self._documents.topology).document

    def _must_exist(self, name: str) -> TopologyDocument:
        topology = self._topology()
        if name not in topology.regions:
            raise ClusterError(f"there is no region {name}")
        return topology

    async def _everybody_knows(self) -> None:
        await everybody_knows(self._topology())


def _told(data: Path, outcome: Outcome) -> bool:
    """Tell what became of a question; False when there is no room to write it down."""
    try:
        question.tell(data, TOPIC, outcome)
    except OSError:
        return False
    return True


def _words_of(error: Exception) -> str:
    words = in_words(error)
    return f"a server failed: {words}. Asked for again, it goes on." if isinstance(error, SERVER_ERRORS) else words


async def _is_done(step: Callable[[], Awaitable[Any]]) -> bool:
    """Do something; False when it must wait."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001 - nothing that is asked for would be heard any more
        structlog.get_logger().warning("begun_before_and_waits", reason=in_words(error))
        return False
    return True
