"""Decides, for one shard on this machine, when a standby takes the primary's place, and repairs what is left.

The supervisor is the parent of every server, so it can fence for certain: kill, look, and only then promote. That holds
for one machine; across machines Patroni or CloudNativePG decide. A commit is acknowledged when a standby has it; only a
standby that provably has all that was acknowledged (`quorum.py`) is promoted.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial

import asyncpg

from cdc.slot import STATEMENTS as SLOTS
from cluster.errors import ClusterError
from cluster.fence import fence, is_stopped
from cluster.history import History
from cluster.login import CONNECT_TIMEOUT_S
from cluster.pair import STATEMENTS, Pair, received
from cluster.plan import ServerPlan
from cluster.quorum import Quorum
from cluster.reading import Reading, damaged_pages, pause_s
from cluster.supervisor import READY, Kept, Supervisor
from cluster.switchover import Outcome, answer, is_asked
from cluster.waking import Waking
from cluster.watched import DAMAGED, DIES, DISK_ERRORS, FULL, HANGS, SERVES, Watched, has_room, kind_of
from shard_router.ending import end
from shard_router.server import SERVER_ERRORS

LOOK_INTERVAL_S = 0.5
PROBE_INTERVAL_S, PROBE_TIMEOUT_S = 2.0, 2.5
LATE_MAX_S = 2.0  # a loop of our own that was so late says nothing about servers
AWAY_MAX_S = 30.0
PAUSE_FIRST_S, PAUSE_MAX_S = 2.0, 30.0  # between attempts at a standby that cannot be mended
FAILOVERS_MAX, FAILOVERS_WITHIN_S = 3, 600.0


class Guard:
    """Watches a pair until cancelled. `projector` is the process that must not see a primary without its slot."""

    def __init__(
        self, pair: Pair, supervisor: Supervisor, projector: str, reading_pause: Callable[[float], float] = pause_s
    ) -> None:
        self._pair = pair
        self._supervisor = supervisor
        self._projector = projector
        self._history = History(supervisor, pair.name)
        self._watched = {server.name: Watched() for server in pair.servers}
        self._failovers: deque[float] = deque()
        self._looked_at = self._probed_at = time.monotonic()
        self._quorum = Quorum(standby.standby for standby in pair.standbys)
        self._reading = Reading(pair, partial(supervisor.note, pair.name), self._found, reading_pause)
        self._waking = Waking()
        self._mending: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        """Of a standby that could not be mended: how long to leave it alone, and until when."""

    def _found(self, server: ServerPlan, pages: int) -> None:
        self._watched[server.name].found_pages = pages

    @property
    def is_covered(self) -> bool:
        """Whether a standby has all that was acknowledged, as far as is known, so that it could take over."""
        return self._quorum.has_whole and not self._mending

    async def run(self) -> None:
        """Look, decide, repair; whatever goes wrong is told and tried again."""
        try:
            while True:
                await asyncio.sleep(LOOK_INTERVAL_S)
                try:
                    await self._look()
                except Exception as error:  # noqa: BLE001 - a pair nobody watches any more would stay away unnoticed
                    self._supervisor.note(self._pair.name, f"repair failed: {type(error).__name__}: {error}")
                    if pages := damaged_pages(error):  # what was copied was the primary
                        self._found(self._pair.primary, pages)
                    await asyncio.sleep(LOOK_INTERVAL_S * 4)
        finally:
            await self._reading.stop()

    async def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at > LATE_MAX_S:
            self._forgive(now)
        await self._probe_when_due(now)
        self._looked_at = time.monotonic()
        begun = await self._care_for_primary() or await self._mend_standbys()
        if not begun and is_asked(self._supervisor.data, self._pair.name):
            await answer(self._supervisor.data, self._pair.name, self._switch_over())
        elif not begun:
            self._reading.go_on(self._pair.standbys)
        self._looked_at = time.monotonic()

    async def _care_for_primary(self) -> bool:
        """Whether it was in trouble that leaves nothing else to be done. One that serves needs its standbys."""
        primary = self._pair.primary
        why = self._trouble(primary)
        if why is None:
            self._unsay(primary)
            return False
        return await self._fail_over(why) or not why.startswith(SERVES)

    async def _mend_standbys(self) -> bool:
        """Whether any standby is in need, or under repair."""
        return any([await self._mend(standby) for standby in self._pair.standbys])

    async def _mend(self, standby: ServerPlan) -> bool:
        """Repair a standby where it is in need, beside the watch: a primary that hangs would hang its copying too.

        While one is copied the other alone acknowledges: where it hangs it is started anew at once. What would throw
        its data away waits: they may be the last that are whole.
        """
        under_repair = [name for name, mending in self._mending.items() if not mending.done()]
        if standby.name in under_repair:
            return True
        if finished := self._mending.pop(standby.name, None):
            finished.result()
        why = self._trouble(standby) or self._away(standby)
        if why in {FULL, DIES} and not has_room(standby.folder):  # a copy would find none either
            self._watched[standby.name].deaths = 0  # as soon as there is some a restart is enough
            self._say(standby, FULL)
            return False
        if why and why.startswith(DAMAGED) and self._watched[self._pair.primary.name].is_damaged:
            self._say(standby, f"{why}, and so are the primary's: not copied")  # either may have what the other lacks
            return False
        if why is None:
            self._unsay(standby)
        elif (why.startswith(HANGS) or not under_repair) and time.monotonic() >= self._rests_until(standby):
            self._mending[standby.name] = asyncio.create_task(self._mend_standby(standby, why))
        return why is not None

    def _rests_until(self, standby: ServerPlan) -> float:
        return self._pauses.get(standby.name, (0.0, 0.0))[1]

    async def _stop_mending(self) -> None:
        await end(*self._mending.values())
        self._mending.clear()

    def _forgive(self, now: float) -> None:
        """We were away ourselves: what was silent meanwhile gets all its time again."""
        for watched in self._watched.values():
            watched.forgive(now)

    async def _probe_when_due(self, now: float) -> None:
        if now - self._probed_at >= (LOOK_INTERVAL_S if self._quorum.is_open else PROBE_INTERVAL_S):
            self._probed_at = now
            await self._probe()

    def _wake(self) -> None:
        kept = [self._supervisor.kept.get(server.name) for server in self._pair.servers]
        for pid in self._waking.look([one.child.pid for one in kept if one and one.child.returncode is None]):
            self._supervisor.note(self._pair.name, f"process {pid} of a server was stopped: woken")

    async def _probe(self) -> None:
        self._wake()
        await asyncio.gather(*(self._listen(server) for server in self._pair.servers))
        now = time.monotonic()
        if now - self._watched[self._pair.primary.name].answered_at > PROBE_INTERVAL_S:
            for standby in self._pair.standbys:  # from a primary that is away nobody can stream
                self._watched[standby.name].streamed_at = now

    async def _listen(self, server: ServerPlan) -> None:
        """Ask by a fresh connection: the primary for a write that reaches the disk, the standby whether it is there."""
        watched, settings = self._watched[server.name], {"synchronous_commit": "local"}
        kept = self._supervisor.kept.get(server.name)
        if kept and is_stopped(kept.child.pid):
            return  # to wait for its answer would put off what is done about it
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                connection = await asyncpg.connect(
                    self._pair.url(server), timeout=CONNECT_TIMEOUT_S, server_settings=settings
                )
                try:
                    await self._ask(connection, watched, is_primary=server is self._pair.primary)
                    watched.damaged_pages = int(await connection.fetchval(STATEMENTS["damaged_pages"]))
                finally:
                    connection.terminate()
        except DISK_ERRORS as error:
            watched.complained(error)
        except SERVER_ERRORS:
            return
        else:
            watched.answered()

    async def _ask(self, connection: asyncpg.Connection, watched: Watched, *, is_primary: bool) -> None:
        if not is_primary:
            await connection.fetch(SLOTS["drop_stale_slots"], True)  # noqa: FBT003
            if lacks_slots := not (await received(connection)).has_slots:
                await connection.execute(STATEMENTS["reload"])
            watched.lacks_slots = lacks_slots
            return
        if any(self._watched[standby.name].lacks_slots for standby in self._pair.standbys):
            await connection.execute(STATEMENTS["log_snapshot"])
        gone = self._quorum.gone
        written = int(await connection.fetchval(STATEMENTS["write"]) or 0)
        rows = await connection.fetch(STATEMENTS["streaming"])
        streaming: dict[str, int] = {row["name"]: row["flushed"] for row in rows}
        self._quorum.heard(written, streaming, gone)
        for standby in self._pair.standbys:
            if standby.standby in streaming:
                self._watched[standby.name].streamed_at = time.monotonic()

    def _trouble(self, server: ServerPlan) -> str | None:
        return self._watched[server.name].trouble(server.folder, self._supervisor.kept.get(server.name))

    def _say(self, server: ServerPlan, words: str) -> None:
        """Tell a state, once."""
        watched = self._watched[server.name]
        if watched.told != words:
            watched.told = words
            self._history.begin("trouble", server.name, words)

    def _unsay(self, server: ServerPlan) -> None:
        """A trouble that went by itself."""
        watched, kept = self._watched[server.name], self._supervisor.kept.get(server.name)
        if watched.told and kept and kept.record.state == watched.told:
            self._supervisor.note(server.name, READY)
        watched.told = ""

    def _away(self, standby: ServerPlan) -> str | None:
        """A standby that runs and does not stream from a primary that answers: it lacks WAL, or took another way."""
        now, primary = time.monotonic(), self._watched[self._pair.primary.name]
        away_s = now - self._watched[standby.name].streamed_at
        if away_s > AWAY_MAX_S and now - primary.answered_at < 2 * PROBE_INTERVAL_S:
            return f"it has not streamed for {away_s:.0f} s"
        return None

    async def _fail_over(self, why: str) -> bool:
        """Put a standby in the primary's place, and the primary, repaired, in the standby's. Whether that was begun."""
        former, now = self._pair.primary, time.monotonic()
        if await self._chosen() is None:
            return await self._do_without(why)
        while self._failovers and now - self._failovers[0] > FAILOVERS_WITHIN_S:
            self._failovers.popleft()
        if len(self._failovers) >= FAILOVERS_MAX:
            self._say(former, f"{kind_of(why)}; {FAILOVERS_MAX} failovers in ten minutes: look at it first")
            return False
        self._failovers.append(now)
        self._history.begin("failover", former.name, why, ": a standby takes its place")
        await self._stop_mending()
        if not await self._fence(former):
            self._supervisor.note(former.name, f"{why}, and cannot be killed: nobody takes its place")
            return True
        standby = await self._chosen()  # what it had sent has arrived by now, and nothing more will
        if standby is None:  # it went away meanwhile
            return await self._do_without(why)
        projector = await self._supervisor.hold(self._projector)
        await self._change_roles(former, standby, projector, rewinds=not why.startswith(DAMAGED))
        return True

    async def _do_without(self, why: str) -> bool:
        """No standby provably has all: what hangs is started anew where it is, the primary first. It loses nothing."""
        if not why.startswith(SERVES):
            await self._stop_mending()
            for server in (self._pair.primary, *self._pair.standbys):
                reason = why if server is self._pair.primary else self._trouble(server) or ""
                is_fenced = server.name not in self._supervisor.kept
                if reason.startswith(HANGS) or (reason == DIES and is_fenced):
                    self._history.begin("restart", server.name, reason, ": started anew")
                    if await self._fence(server):
                        await self._pair.run(server)
                        self._watched[server.name] = Watched()
                        self._forgive(time.monotonic())
                        return True
        self._say(self._pair.primary, f"{kind_of(why)}; no standby with room provably has all that was acknowledged")
        return False

    async def _chosen(self, *, with_slots: bool = False) -> ServerPlan | None:
        """Who may take the primary's place, of several one with the slots; nobody where none has those asked for."""
        standbys = self._pair.standbys
        heard = dict(zip(standbys, await asyncio.gather(*map(self._pair.received, standbys)), strict=True))
        unable = {standby.standby for standby in standbys if not self._is_able(standby)}
        without = {standby.standby for standby, found in heard.items() if not (found and found.has_slots)}
        if with_slots and not {standby.standby for standby in standbys if self._streams(standby)} - unable - without:
            return None
        positions = {standby.standby: found and found.position for standby, found in heard.items()}
        name = self._quorum.choose(positions, unable, without)
        return next((standby for standby in standbys if standby.standby == name), None)

    def _streams(self, standby: ServerPlan) -> bool:
        return time.monotonic() - self._watched[standby.name].streamed_at < 2 * PROBE_INTERVAL_S

    def _is_able(self, standby: ServerPlan) -> bool:
        """Whether its disk lets it take the primary's place."""
        return has_room(standby.folder) and not self._watched[standby.name].is_damaged

    async def _change_roles(
        self, former: ServerPlan, promoted: ServerPlan, projector: Kept | None, *, rewinds: bool = True
    ) -> None:
        """Promote and follow. The projector, which does not run any more, is back once there is a slot for it."""
        await self._reading.stop()
        try:
            await self._pair.promote(promoted)
            self._history.ended(promoted.name)
            self._quorum = Quorum(standby.standby for standby in self._pair.standbys)
            self._quorum.ended(former.standby, lost=True)
            others = [standby for standby in self._pair.standbys if standby is not former]
            for other in others:
                await self._turn(other)
            if projector and await self._pair.has_projector_slot():
                self._supervisor.take_back(projector)
                projector = None
            if not rewinds:
                self._pair.set_aside(former)
            await self._watching(self._pair.follow(former, lambda: self._quorum.begins(former.standby)))
            await self._listen(self._pair.primary)  # it may be lost in the next moment
            if projector:
                await self._pair.make_projector_slot()
        finally:
            if projector:
                self._supervisor.take_back(projector)
            self._watched = {server.name: Watched() for server in self._pair.servers}
            self._pauses.clear()
        self._supervisor.note(former.name, READY)

    async def _watching(self, work: Coroutine[None, None, None]) -> None:
        """Do what needs the new primary for as long as that is well: where it hangs, the tools would hang for ever."""
        primary, task = self._pair.primary, asyncio.create_task(work)
        self._forgive(time.monotonic())
        try:
            while not (await asyncio.wait((task,), timeout=LOOK_INTERVAL_S))[0]:
                await self._probe_when_due(time.monotonic())
                if (why := self._trouble(primary)) and not why.startswith(SERVES):
                    raise ClusterError(f"{primary.name} took over, and {why}")
            task.result()
        finally:
            await end(task)

    async def _turn(self, standby: ServerPlan) -> None:
        """Have the other standby follow the new primary; one that cannot is mended like any that streams no more."""
        try:
            await self._pair.turn(standby)
        except SERVER_ERRORS as error:
            self._supervisor.note(standby.name, f"does not follow yet: {type(error).__name__}")

    async def _mend_standby(self, standby: ServerPlan, why: str) -> None:
        """Restart what hangs; copy anew what is lost, or streams no more. Commits wait meanwhile."""
        self._supervisor.note(standby.name, f"{why}: started anew")
        lost = not why.startswith(HANGS)
        if not await self._fence(standby):
            self._supervisor.note(standby.name, f"{why}, and cannot be killed")
            return
        self._quorum.ended(standby.standby, lost=lost)
        if lost:
            self._pair.set_aside(standby)
        self._watched[standby.name] = Watched()
        pause_s = min(2 * self._pauses.get(standby.name, (PAUSE_FIRST_S / 2, 0.0))[0], PAUSE_MAX_S)
        self._pauses[standby.name] = pause_s, time.monotonic() + pause_s
        await self._pair.copy(standby, lambda: self._quorum.begins(standby.standby))
        await self._listen(self._pair.primary)  # it may be lost in the next moment
        del self._pauses[standby.name]
        self._watched[standby.name] = Watched()

    async def _fence(self, server: ServerPlan) -> bool:
        kept = await self._supervisor.release(server.name)
        return kept is None or await self._gone(server, kept)

    async def _gone(self, server: ServerPlan, kept: Kept) -> bool:
        """Kill it; what cannot be killed is not forgotten, or it would count as gone the next time."""
        gone = await fence(kept.child, server.folder)
        if not gone:
            kept.tasks = ()
            self._supervisor.kept[server.name] = kept
        return gone

    async def _switch_over(self) -> Outcome:
        """Change the roles on purpose: the primary ends cleanly, so the standby has all of it."""
        former, began_at = self._pair.primary, time.monotonic()
        if await self._chosen(with_slots=True) is None:
            words = "has no standby that could take over now: it streams, or copies the slots, not yet"
            return Outcome(done=False, words=f"{self._pair.name} {words}")
        self._history.begin("switchover", former.name, "asked for", ": a standby takes its place")
        await self._pair.write_out()
        projector = await self._supervisor.hold(self._projector)  # a server that stops waits until it has all there is
        standby = None
        try:
            standby = await self._end(former)
        finally:
            if projector and standby is None:
                self._supervisor.take_back(projector)
        if standby is None:
            words = f"{former.name} is still the primary of {self._pair.name}: its standbys went away"
            return Outcome(done=False, words=words)
        await self._change_roles(former, standby, projector)
        took_s = time.monotonic() - began_at
        return Outcome(done=True, words=f"{standby.name} is the primary of {self._pair.name} (after {took_s:.1f} s)")

    async def _end(self, former: ServerPlan) -> ServerPlan | None:
        """End the primary cleanly: it sends all it has. Who takes its place; where nobody may, it runs again."""
        kept = self._supervisor.kept[former.name]
        await self._supervisor.stop([former.name])
        if not await self._gone(former, kept):
            raise ClusterError(f"{former.name} cannot be killed")
        standby = await self._chosen()
        if standby is None:
            await self._pair.run(former)
        return standby
