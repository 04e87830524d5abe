"""What a query node holds while it runs, and the steps handlers share: ask home, read within the deadline, find.

A foreign member's read is answered by their home region. When no node there answers, this one reads the home shard
itself, by the same rules as its own; the nodes there are probed, and asked again by the next read after one answers.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeVar

from aiohttp import web

from query.catalogue import Catalogue
from query.lookup import FoundCommand, Identifier, Lookup
from query.question import Question
from query.reader import Answer, Readers, ShardReader
from query.settings import QuerySettings
from query.share import Move, Shares
from service.bulkhead import Bulkhead
from service.forward import Forwarder
from service.handed import DEADLINE_HEADER, deadline_of
from service.web import PASS, PRINCIPAL
from shard_router.ending import end
from shard_router.errors import ProblemError, parse_or
from shard_router.member_id import parse_member_id, slot_of
from shard_router.topology import TopologyWatch

T = TypeVar("T")
_DEADLINE: Final = web.RequestKey("deadline", float)
_OWN_SHARE, _OWN_S_MAX = 4, 1.0
"""What a read that is sent home leaves of its time, a quarter and no more than this, to be answered here instead."""
_VERSION: Final = re.compile(r'W/"([0-9]{1,19})(?:-(?:[0-9]{1,9}|([0-9A-Z]{14})))?"')
"""The ETag of a member's view, with the program's version behind it, or, of a look-up, the member who was found."""


class QueryNode:
    """The node of one region. `start` in a running event loop, `close` at the end."""

    def __init__(self, settings: QuerySettings, topology: TopologyWatch) -> None:
        self.settings = settings
        self.topology = topology
        self.readers = Readers(settings, topology)
        self.catalogue = Catalogue(self.own_shards)
        self.forwarder = Forwarder(settings.region, topology, "query")
        self._shares = Shares(settings.door_state)
        self._abroad = Bulkhead()
        """The reads of this node on the shards of each other region."""
        self.lookup = Lookup(self.readers, settings.region, self._abroad, places=settings.in_flight_max)
        self._wait_s = settings.token_wait_ms / 1000
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect, read the program if it is there, and keep both and the topology up to date."""
        self.readers.start()
        await self.catalogue.refresh()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.topology.watch()), loop.create_task(self.catalogue.run())]

    async def close(self) -> None:
        """Stop everything."""
        await end(*self._tasks)
        await self.forwarder.close()
        await self.readers.close()

    def facts(self) -> dict[str, int | None]:
        """The versions that this node goes by, for its status."""
        return {"topology_epoch": self.topology.current.epoch, "program_version": self.catalogue.known_version}

    def own_shards(self) -> list[ShardReader]:
        """List the readers of this region's shards."""
        return [self.readers[name] for name in self.topology.current.shards_in(self.settings.region)]

    def elsewhere(self, member_id: int, *, missing: str = "member_not_found") -> str | None:
        """Name the member's home region, None when that is ours; `missing` when there is no such region."""
        region = parse_or(missing, self.topology.current.region_of, member_id)
        return None if region == self.settings.region else region

    async def ask_home(
        self,
        request: web.Request,
        member_id: int,
        *,
        body: bytes | None = None,
        missing: str = "member_not_found",
        is_newest: bool = True,
    ) -> web.Response | None:
        """Answer from a member's region; None when this node is to answer: it is ours, or no node there does.

        `body` is the request's, when it has one. `is_newest`: the ETag tells all that is known of the member. Then an
        answer that shows less than this node has shown is none: another node there knew more.
        """
        region = self.elsewhere(member_id, missing=missing)
        if region is None or (PASS in request and request[PASS].tried):
            return None
        answer = await self.forwarder.read(
            request, region, slot=slot_of(member_id), deadline=home_deadline(self.deadline_of(request)), body=body
        )
        etag = answer.headers.get("ETag", "") if answer else ""
        return answer if self.believes(member_id, etag, is_newest=is_newest) else None

    def believes(self, member_id: int, etag: str, *, is_newest: bool = True) -> bool:
        """Whether an answer of a member's region may be shown; its version counts as shown then."""
        if shown := _VERSION.fullmatch(etag):
            found, version = parse_member_id(shown[2]) if shown[2] else member_id, int(shown[1])
            heights = self.reader_of(found).shown
            if is_newest and version < heights.of(found):
                return False
            heights.note(found, version)
        return True

    async def relay_from_home(
        self, request: web.Request, member_id: int, *, goes_on: Callable[[], bool], last_words: bytes
    ) -> web.StreamResponse | None:
        """Answer with the stream of a member's region as long as it `goes_on`, then with last words; None as above."""
        region = self.elsewhere(member_id)
        if region is None:
            return None
        return await self.forwarder.relay(request, region, slot_of(member_id), goes_on=goes_on, last_words=last_words)

    def move_of(self, member_id: int) -> Move:
        """When a stream about a member whose client speaks to this node is to go elsewhere."""
        return Move(self._shares, self.settings.region, self.elsewhere(member_id) or self.settings.region)

    def stands_in(self, member_id: int) -> bool:
        """Whether this node is to answer about a member: it is ours, or no node of their region answers."""
        region = self.elsewhere(member_id)
        return region is None or self.forwarder.is_away(region)

    async def read(self, request: web.Request, question: Question, *, at_least: int, may_wait: bool = True) -> Answer:
        """Answer a question about a member of this region, demanding a version or none (0), within the deadline.

        Without `may_wait` a server is asked at once: for what no view will hold, however long one waits.
        """
        reader = self.reader_of(question.member_id)
        with self._place(question.member_id):
            if DEADLINE_HEADER in request.headers:
                work = self._glance_or_ask(reader, question, at_least=at_least, may_wait=may_wait)
                return await self.within_deadline(request, work)
            # Valkey has a deadline of its own, so that the hot path needs no timer.
            if found := await reader.glance(question, at_least=at_least):
                return found
            work = self._ask(reader, question, at_least=at_least, may_wait=may_wait)
            return await self.within_deadline(request, work)

    async def read_anew(self, question: Question) -> Answer:
        """Answer a question of a stream that has begun: what its request said of a deadline is over."""
        with self._place(question.member_id):
            work = self._glance_or_ask(self.reader_of(question.member_id), question, at_least=0, may_wait=False)
            return await _until(time.monotonic() + self.settings.deadline_ms / 1000, work)

    async def read_servers(self, request: web.Request, question: Question, *, at_least: int) -> Answer:
        """Answer a question that no view can, as `read` does."""
        reader = self.reader_of(question.member_id)
        with self._place(question.member_id):
            return await self.within_deadline(request, reader.ask_servers(question, at_least=at_least))

    def reader_of(self, member_id: int) -> ShardReader:
        """Name the reader of a member's shard."""
        return self.readers[self.topology.current.shard_of(member_id)]

    async def find_member(
        self, request: web.Request, identifier: Identifier, *, but_on: str | None = None
    ) -> int | None:
        """Find the member with an identifier on any shard but one."""
        found = self.lookup.find_member(self.topology.current, identifier, but_on=but_on)
        return await self.within_deadline(request, found)

    async def find_command(self, request: web.Request, key: str) -> FoundCommand | None:
        """Find a command that the principal may see, by its Idempotency-Key on any shard."""
        found = self.lookup.find_command(self.topology.current, request[PRINCIPAL], key)
        return await self.within_deadline(request, found)

    async def within_deadline(self, request: web.Request, work: Awaitable[T]) -> T:
        """Await some work; `shard_unavailable` when the request's deadline comes first."""
        return await _until(self.deadline_of(request), work)

    async def _glance_or_ask(self, reader: ShardReader, question: Question, *, at_least: int, may_wait: bool) -> Answer:
        found = await reader.glance(question, at_least=at_least)
        return found or await self._ask(reader, question, at_least=at_least, may_wait=may_wait)

    def _place(self, member_id: int) -> AbstractContextManager[None]:
        """A place for a read; where it goes to another region's shard, one of the few there are for that."""
        region = self.elsewhere(member_id)
        return self._abroad.through(region, places=self.settings.in_flight_max) if region else nullcontext()

    async def _ask(self, reader: ShardReader, question: Question, *, at_least: int, may_wait: bool) -> Answer:
        # Nobody here hears what another region's projector announces.
        if at_least and may_wait and self.elsewhere(question.member_id) is None:
            return await reader.await_version(question, at_least=at_least, wait_s=self._wait_s)
        return await reader.ask_servers(question, at_least=at_least)

    def deadline_of(self, request: web.Request) -> float:
        """Fix the deadline when it is first asked for: all steps of a request share it."""
        if _DEADLINE not in request:
            request[_DEADLINE] = deadline_of(request, deadline_ms=self.settings.deadline_ms)
        return request[_DEADLINE]


def home_deadline(deadline: float) -> float:
    """By when the home region is to answer a read that is answered by a deadline, here if not there."""
    return deadline - min((deadline - time.monotonic()) / _OWN_SHARE, _OWN_S_MAX)


async def _until(deadline: float, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await work
    except TimeoutError as error:
        raise ProblemError("shard_unavailable", "no answer within the deadline") from error


NODE: Final = web.AppKey("node", QueryNode)
