"""The chain every question about a member goes through: Valkey, a standby, the primary.

Invariant: an answer is never older than the version demanded, nor than what this node has shown of the
member before. The first that can tell as much is believed; for a version demanded the query waits
(bounded) for the projector, then asks the servers in turn.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from prometheus_client import Counter

from query.announcement import Announcements, Woken
from query.cache import Cache
from query.height import Heights
from query.question import Question, Seen
from query.replica import Server
from query.settings import QuerySettings
from query.views import DamagedViewError
from rules.version import VERSION_MAX, incarnation_of, includes
from shard_router.ending import end
from shard_router.errors import LoyaltyError, ProblemError
from shard_router.pool import ShardPools, ShardServers
from shard_router.topology import Shard, Topology, TopologyWatch

Source = Literal["cache", "replica", "primary"]

ANSWERS: Final = Counter("loyalty_query_answers", "Answers by source.", ["source"], registry=None)
WAITS: Final = Counter("loyalty_query_waits", "Waits for a demanded version, by result.", ["result"], registry=None)
_FROM_CACHE: Final = ANSWERS.labels("cache")
_FAR_DEADLINE_MS: Final = 1_000
"""How long Valkey of another region may take: to connect is three ways there and back, of up to a quarter second."""
_BEHIND_PAUSES_S: Final = (0.02, 0.04, 0.08)
"""How long a standby that is behind what was shown is waited for, without a primary: to replay takes milliseconds."""


class BehindError(LoyaltyError):
    """Servers answer, and all that do show less than this node has shown."""


class Answer(NamedTuple):
    """What a question found, and where. `body` None: there is nothing of that name."""

    etag: int
    body: bytes | None
    source: Source


class ShardReader:
    """The reads of one shard."""

    def __init__(self, cache: Cache, visible: Announcements, standby: Server, primary: Server) -> None:
        self.cache = cache
        self.visible = visible
        self.standby = standby
        self.primary = primary
        self.shown = Heights()

    async def glance(self, question: Question, *, at_least: int = 0) -> Answer | None:
        """Answer from Valkey if it shows that version of the member, and no less than was shown: the hot path."""
        seen = await self._ask_cache(question)
        if seen is None or not self.may_show(question.member_id, seen.seen, at_least=at_least):
            return None
        return Answer(seen.etag, seen.body, "cache")

    def may_show(self, member_id: int, seen: int, *, at_least: int = 0) -> bool:
        """Tell whether a picture in Valkey has that version, and no less than was shown: then it is an answer."""
        if not _shows(seen, at_least) or seen < self.shown.of(member_id):
            return False
        self.shown.note(member_id, seen)
        _FROM_CACHE.inc()
        return True

    async def await_version(self, question: Question, *, at_least: int, wait_s: float) -> Answer:
        """Answer a question with a picture that includes version `at_least`, waiting for the view up to `wait_s` first.

        `not_yet_visible` when no one shows that version, `shard_unavailable` when no one can tell, `state_lost` when a
        restore took it back.
        """
        no_wait = self.cache.breaker.is_open or await self._is_beyond(question, at_least)
        answer = None if no_wait else await self._await_view(question, at_least, wait_s)
        return answer or await self.ask_servers(question, at_least=at_least)

    async def ask_servers(self, question: Question, *, at_least: int) -> Answer:
        """Answer a question from the first server whose picture includes version `at_least`; raises as above.

        `shard_unavailable`, too, when no one shows as much as this node has shown.
        """
        for pause_s in _BEHIND_PAUSES_S:
            with suppress(BehindError):
                return await self._ask_each(question, at_least)
            await asyncio.sleep(pause_s)
        try:
            return await self._ask_each(question, at_least)
        except BehindError as error:
            raise ProblemError("shard_unavailable", "no server that answers shows what was shown before") from error

    async def _ask_each(self, question: Question, at_least: int) -> Answer:
        reached, is_behind = False, False
        for server in await self.servers():
            try:
                seen = await question.ask_server(server)
                shows = _shows(seen.seen, at_least) or await self._kept(server, question.member_id, seen.seen, at_least)
                follows = not shows or await self._follows(server, question.member_id, seen.seen)
            except ProblemError as error:
                if error.code == "state_lost":
                    raise
                continue
            reached, is_behind = True, is_behind or not follows
            if shows and follows:
                self.shown.note(question.member_id, seen.seen)
                ANSWERS.labels(server.role).inc()
                return Answer(seen.etag, seen.body, server.role)
        if is_behind:
            raise BehindError
        if reached:
            raise ProblemError("not_yet_visible", f"version {at_least} is not visible yet")
        raise ProblemError("shard_unavailable", "neither a view nor a server can answer")

    async def is_lost(self, member_id: int, version: int) -> bool:
        """Tell whether a restore took a version of a member back; `shard_unavailable` when no one can tell."""
        for server in await self.servers():
            with suppress(ProblemError):
                there, incarnation = await _look_for(server, member_id, version)
                return not there and incarnation > incarnation_of(version)
        raise ProblemError("shard_unavailable", "no server can answer")

    async def able(self) -> bool:
        """Tell whether Valkey or a server can answer; a frozen server must not take the time of the other."""
        if await self.cache.reachable():
            return True
        asked = {asyncio.ensure_future(server.is_there()) for server in (self.standby, self.primary)}
        try:
            for answer in asyncio.as_completed(asked):
                if await answer:
                    return True
        finally:
            for one in asked:
                one.cancel()
        return False

    async def stop_measuring(self) -> None:
        """Ask the servers no more how far behind they are."""
        await asyncio.gather(self.standby.close(), self.primary.close())

    async def servers(self) -> Iterator[Server]:
        """Put the servers in the order in which to ask them: the standby first, unless it lags beyond its budget."""
        if await self.standby.within_budget():
            return iter((self.standby, self.primary))
        return iter((self.primary, self.standby))  # an old picture is still better than none

    async def _ask_cache(self, question: Question) -> Seen | None:
        """Ask Valkey; a view that cannot be read is reported, and as good as none."""
        try:
            return await question.ask_cache(self.cache)
        except DamagedViewError as damaged:
            self.cache.report(damaged.key)
            return None

    async def _is_beyond(self, question: Question, at_least: int) -> bool:
        """Tell whether the view shows a later incarnation than what was demanded: it will never show more of that."""
        seen = await self._ask_cache(question)
        return seen is not None and seen.seen >= at_least and not _shows(seen.seen, at_least)

    async def _kept(self, server: Server, member_id: int, seen: int, at_least: int) -> bool:
        """Tell of what was demanded of an earlier incarnation, or is not seen yet, whether the server's picture has it.

        Only the journal can tell. `state_lost` when it holds no such entry and a later incarnation has begun: what
        comes from now on has other versions.
        """
        there, incarnation = await _look_for(server, member_id, at_least)
        if not there and incarnation > incarnation_of(at_least):
            raise ProblemError("state_lost", "a restore took back the state this token is of: go on without it")
        return there and seen >= at_least

    async def _follows(self, server: Server, member_id: int, seen: int) -> bool:
        """Tell whether a server's picture is no older than what was shown or announced of a member.

        What a restore took back is forgotten; so is what the primary does not have, once it was looked who that is.
        """
        floor = max(self.shown.of(member_id), self.visible.announced.of(member_id))
        if seen >= floor:
            return True
        there, incarnation = await _look_for(server, member_id, floor)
        if there or (incarnation <= incarnation_of(floor) and not await self._is_undone(server, member_id, floor)):
            return False
        self.shown.forget(member_id)
        self.visible.announced.forget(member_id)
        return True

    async def _is_undone(self, server: Server, member_id: int, version: int) -> bool:
        """Tell whether this is the primary and does not have a version, also after looking who that is now."""
        if server.role != "primary":
            return False
        await server.look_again()
        there, _ = await _look_for(server, member_id, version)
        return not there

    async def _await_view(self, question: Question, at_least: int, wait_s: float) -> Answer | None:
        give_up_at = time.monotonic() + wait_s
        with self.visible.watch(question.member_id) as watch:
            # Read again before waiting: the notification may have come before the watch was set.
            answer, woken = await self.glance(question, at_least=at_least), Woken.MISSED
            # What was announced and is not there (an emptied or silent Valkey) will not come by waiting longer.
            while watch and answer is None and woken is Woken.MISSED:
                woken = await watch.wait(at_least, timeout_s=give_up_at - time.monotonic())
                answer = await self.glance(question, at_least=at_least) if woken else None
        WAITS.labels("refused" if watch is None else "visible" if woken else "timeout").inc()
        return answer


def _shows(seen: int, at_least: int) -> bool:
    return seen == VERSION_MAX or includes(seen, at_least)


async def _look_for(server: Server, member_id: int, version: int) -> tuple[bool, int]:
    """Whether a server's journal has an entry, and the incarnation the server shows."""
    (row,) = await server.fetch("find_entry", member_id, version)
    return row["there"], row["incarnation"]


class _Known(NamedTuple):
    """A shard's reader, and what it was made of."""

    valkey: str
    servers: ShardServers
    reader: ShardReader


class Readers:
    """The readers of all shards, following the topology. Only shards of the own region are subscribed to."""

    def __init__(self, settings: QuerySettings, topology: TopologyWatch) -> None:
        self._settings = settings
        self._topology = topology
        self._pools = ShardPools(
            topology,
            size_max=settings.pool_size_max,
            statement_timeout_ms=settings.statement_timeout_ms,
            zone=settings.zone,
        )
        self._shards: dict[str, _Known] = {}
        self._subscriptions: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    def __getitem__(self, shard: str) -> ShardReader:
        return self._shards[shard].reader

    def start(self) -> None:
        """Make the readers and subscribe. A server that was overtaken may answer reads without an error for ever."""
        self._adopt(self._topology.current)
        self._topology.on_change(self._adopt)
        self._watching = asyncio.get_running_loop().create_task(self._pools.watch())

    async def close(self) -> None:
        """Stop the subscriptions and close every connection."""
        await end(*self._subscriptions.values(), *filter(None, [self._watching]))
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(known.reader.cache.close() for known in self._shards.values()))
        await asyncio.gather(*(known.reader.stop_measuring() for known in self._shards.values()))
        await self._pools.close()

    def _adopt(self, topology: Topology) -> None:
        """Follow a topology, as the pools have before. What was shown of a shard holds whoever shows it from now on."""
        for name in self._shards.keys() - topology.document.shards.keys():
            self._hang_up(name)
            del self._shards[name]
        for name, shard in topology.document.shards.items():
            known, servers = self._shards.get(name), self._pools[name]
            if known is None or (known.valkey, known.servers) != (shard.valkey, servers):
                self._shards[name] = _Known(shard.valkey, servers, self._make(name, shard, servers, known))

    def _hang_up(self, name: str) -> None:
        """Leave the Valkey of a shard, if there is one."""
        if task := self._subscriptions.pop(name, None):
            task.cancel()
        if name in self._shards:
            closing = asyncio.get_running_loop().create_task(self[name].cache.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _make(self, name: str, shard: Shard, servers: ShardServers, known: "_Known | None") -> ShardReader:
        if known and known.valkey == shard.valkey:
            cache, visible = known.reader.cache, known.reader.visible
        else:
            self._hang_up(name)
            cache, visible = self._connect(name, shard, known)
        settings = self._settings
        standby, primary = (
            Server(servers, role, lag_ms_max=settings.standby_lag_ms_max, timeout_ms=settings.statement_timeout_ms)
            for role in ("replica", "primary")
        )
        made = ShardReader(cache, visible, standby, primary)
        if known:
            made.shown = known.reader.shown
        return made

    def _connect(self, name: str, shard: Shard, known: "_Known | None") -> tuple[Cache, Announcements]:
        settings, is_ours = self._settings, shard.region == self._settings.region
        deadline_ms = settings.cache_deadline_ms if is_ours else max(settings.cache_deadline_ms, _FAR_DEADLINE_MS)
        if known:
            visible = known.reader.visible
            visible.move(shard.valkey)
        else:
            visible = Announcements(shard.valkey, waiters_max=settings.waiters_max, near_max=settings.near_members_max)
        cache = Cache(shard.valkey, deadline_ms=deadline_ms, batch_keys_max=settings.batch_keys_max, near=visible.near)
        if is_ours:
            self._subscriptions[name] = asyncio.get_running_loop().create_task(visible.run())
        return cache, visible
