"""Decides, for one shard on this machine, when a standby takes the primary's place, and repairs what is left.

The supervisor is the parent of every server, so it can fence for certain: kill, look, and only then promote. That holds
for one machine; across machines Patroni or CloudNativePG decide. A commit is acknowledged when a standby has it; only a
standby that provably has all that was acknowledged (`quorum.py`) is promoted.
"""

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

from cluster.errors import ClusterError
from cluster.fence import fence, is_stopped
from cluster.login import CONNECT_TIMEOUT_S
from cluster.pair import STATEMENTS, Pair
from cluster.plan import ServerPlan
from cluster.process import kill_group
from cluster.quorum import Quorum
from cluster.supervisor import READY, Supervisor
from cluster.switchover import Outcome, is_asked, tell

LOOK_INTERVAL_S = 0.5
STOPPED_LOOKS = 3  # a stopped process is one for this many looks before it counts as frozen
SILENT_MAX_S = 11.0
PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 2.5
LATE_MAX_S = 2.0  # a loop of our own that was so late says nothing about servers
DEATHS_MAX = 2  # a server that dies so often before it is ready again does not come back by itself
AWAY_MAX_S = 30.0
HANGS = ("it is frozen", "it has not answered")  # what a start cures
FAILOVERS_MAX, FAILOVERS_WITHIN_S = 3, 600.0


@dataclass(slots=True)
class Watched:
    """What is known of one server."""

    stopped_looks: int = 0
    deaths: int = 0
    restarts_seen: int = 0
    answered_at: float = field(default_factory=time.monotonic)
    streamed_at: float = field(default_factory=time.monotonic)


class Guard:
    """Watches a pair until cancelled. `projector` is the process that must not see a primary without its slot."""

    def __init__(self, pair: Pair, supervisor: Supervisor, projector: str) -> None:
        self._pair = pair
        self._supervisor = supervisor
        self._projector = projector
        self._watched = {server.name: Watched() for server in pair.servers}
        self._failovers: deque[float] = deque()
        self._looked_at = self._probed_at = time.monotonic()
        self._quorum = Quorum(standby.standby for standby in pair.standbys)
        self._mending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look, decide, repair; whatever goes wrong is told and tried again."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - a pair that nobody watches any more would stay away unnoticed
                self._supervisor.note(self._pair.name, f"repair failed: {type(error).__name__}: {error}")
                await asyncio.sleep(LOOK_INTERVAL_S * 4)

    async def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at > LATE_MAX_S:
            self._forgive(now)
        if now - self._probed_at >= PROBE_INTERVAL_S:
            self._probed_at = now
            await self._probe()
        self._looked_at = time.monotonic()
        if why := self._trouble(self._pair.primary):
            await self._fail_over(why)
        elif not await self._mend_standbys() and is_asked(self._supervisor.data, self._pair.name):
            tell(self._supervisor.data, self._pair.name, await self._switch_over())
        self._looked_at = time.monotonic()

    async def _mend_standbys(self) -> bool:
        """Whether any standby is in need, or under repair."""
        if any(not mending.done() for mending in self._mending.values()):
            return True
        return any([await self._mend(standby) for standby in self._pair.standbys])

    async def _mend(self, standby: ServerPlan) -> bool:
        """Repair a standby where it is in need; one of two beside the watch, because the primary goes on without it."""
        if finished := self._mending.pop(standby.name, None):
            finished.result()
        why = self._trouble(standby) or self._away(standby)
        if why and len(self._pair.standbys) > 1:
            self._mending[standby.name] = asyncio.create_task(self._mend_standby(standby, why))
        elif why:
            await self._mend_standby(standby, why)
        return why is not None

    async def _stop_mending(self) -> None:
        for mending in self._mending.values():
            mending.cancel()
        await asyncio.gather(*self._mending.values(), return_exceptions=True)
        self._mending.clear()

    def _forgive(self, now: float) -> None:
        """We were away ourselves: what was silent meanwhile gets all its time again."""
        for watched in self._watched.values():
            watched.answered_at, watched.streamed_at, watched.stopped_looks = now, now, 0

    async def _probe(self) -> None:
        servers = self._pair.servers
        answers = await asyncio.gather(*(self._answers(server) for server in servers))
        for server, answer in zip(servers, answers, strict=True):
            if answer:
                self._watched[server.name].answered_at = time.monotonic()

    async def _answers(self, server: ServerPlan) -> bool:
        """Ask by a fresh connection: the primary for a write that reaches the disk, the standby whether it is there."""
        is_primary = server is self._pair.primary
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                settings = {"synchronous_commit": "local"}
                url = self._pair.url(server)
                connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
                try:
                    await self._ask(connection, is_primary=is_primary)
                finally:
                    connection.terminate()
                return True
        return False

    async def _ask(self, connection: asyncpg.Connection, *, is_primary: bool) -> None:
        if not is_primary:
            await connection.execute(STATEMENTS["drop_stale_slots"])
            return
        gone = self._quorum.gone
        written = int(await connection.fetchval(STATEMENTS["write"]) or 0)
        rows = await connection.fetch(STATEMENTS["streaming"])
        streaming: dict[str, int] = {row["name"]: row["flushed"] for row in rows}
        self._quorum.heard(written, streaming, gone)
        for standby in self._pair.standbys:
            if standby.standby in streaming:
                self._watched[standby.name].streamed_at = time.monotonic()

    def _trouble(self, server: ServerPlan) -> str | None:
        """Why a server will not come back by being restarted; None while it is well or may be."""
        watched, kept = self._watched[server.name], self._supervisor.kept.get(server.name)
        if not (server.folder / "global" / "pg_control").is_file():
            return "its data are gone"
        if kept is None:
            return "nobody keeps it"
        if kept.record.state == READY:
            watched.deaths = 0
        watched.deaths += kept.record.restarts - watched.restarts_seen
        watched.restarts_seen = kept.record.restarts
        if watched.deaths >= DEATHS_MAX:
            return "it does not stay up"
        watched.stopped_looks = watched.stopped_looks + 1 if is_stopped(kept.child.pid) else 0
        if watched.stopped_looks >= STOPPED_LOOKS:
            return "it is frozen"
        silent_s = time.monotonic() - watched.answered_at
        if kept.record.state == READY and silent_s > SILENT_MAX_S:
            return f"it has not answered for {silent_s:.0f} s"
        return None

    def _away(self, standby: ServerPlan) -> str | None:
        """A standby that runs and does not stream from a primary that answers: it lacks WAL, or took another way."""
        now, primary = time.monotonic(), self._watched[self._pair.primary.name]
        away_s = now - self._watched[standby.name].streamed_at
        if away_s > AWAY_MAX_S and now - primary.answered_at < 2 * PROBE_INTERVAL_S:
            return f"it has not streamed for {away_s:.0f} s"
        return None

    async def _fail_over(self, why: str) -> None:
        """Put a standby in the primary's place, and the primary, repaired, in the standby's."""
        former, now = self._pair.primary, time.monotonic()
        await self._stop_mending()
        if await self._chosen() is None:
            await self._do_without(why)
            return
        while self._failovers and now - self._failovers[0] > FAILOVERS_WITHIN_S:
            self._failovers.popleft()
        if len(self._failovers) >= FAILOVERS_MAX:
            self._supervisor.note(former.name, f"{why}; {FAILOVERS_MAX} failovers in ten minutes: look at it first")
            return
        self._failovers.append(now)
        self._supervisor.note(former.name, f"{why}: a standby takes its place")
        if not await self._fence(former):
            self._supervisor.note(former.name, f"{why}, and cannot be killed: nobody takes its place")
            return
        standby = await self._chosen()  # what it had sent has arrived by now, and nothing more will
        if standby is None:
            raise ClusterError(f"no standby of {self._pair.name} provably has all that was acknowledged")
        await self._change_roles(former, standby)

    async def _do_without(self, why: str) -> None:
        """No standby provably has all: what hangs is started anew where it is, the primary first. It loses nothing."""
        hangs = {server.name: why for server in self._pair.standbys if (why := self._trouble(server) or "")}
        for server in (self._pair.primary, *self._pair.standbys):
            reason = why if server is self._pair.primary else hangs.get(server.name, "")
            if reason.startswith(HANGS):
                self._supervisor.note(server.name, f"{reason}: started anew")
                if await self._fence(server):
                    await self._pair.run(server)
                    self._watched[server.name] = Watched()
                    return
        self._supervisor.note(self._pair.primary.name, f"{why}; no standby provably has all that was acknowledged")

    async def _chosen(self) -> ServerPlan | None:
        standbys = self._pair.standbys
        received = await asyncio.gather(*(self._pair.received(standby) for standby in standbys))
        names = [standby.standby for standby in standbys]
        name = self._quorum.choose(dict(zip(names, received, strict=True)))
        return next((standby for standby in standbys if standby.standby == name), None)

    async def _change_roles(self, former: ServerPlan, promoted: ServerPlan) -> None:
        """Promote and follow. The projector waits where it must: it may not meet a new primary without its slot."""
        projector = await self._supervisor.release(self._projector)
        try:
            await self._pair.promote(promoted)
            self._quorum = Quorum(standby.standby for standby in self._pair.standbys)
            self._quorum.ended(former.standby, lost=True)
            others = [standby for standby in self._pair.standbys if standby is not former]
            for other in others:
                await self._turn(other)
            if projector and await self._pair.has_projector_slot():
                self._supervisor.take_back(projector)
                projector = None
            await self._pair.follow(former, lambda: self._quorum.begins(former.standby))
            if projector:
                await self._pair.make_projector_slot()
        finally:
            if projector:
                self._supervisor.take_back(projector)
            self._watched = {server.name: Watched() for server in self._pair.servers}
        self._supervisor.note(former.name, READY)

    async def _turn(self, standby: ServerPlan) -> None:
        """Have the other standby follow the new primary; one that cannot is mended like any that streams no more."""
        try:
            await self._pair.turn(standby)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
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
            self._pair.discard(standby)
        self._watched[standby.name] = Watched()
        await self._pair.copy(standby, lambda: self._quorum.begins(standby.standby))
        self._watched[standby.name] = Watched()

    async def _fence(self, server: ServerPlan) -> bool:
        kept = await self._supervisor.release(server.name)
        return kept is None or await fence(kept.child, server.folder)

    async def _switch_over(self) -> Outcome:
        """Change the roles on purpose: the primary ends cleanly, so the standby has all of it."""
        former, began_at = self._pair.primary, time.monotonic()
        standby = await self._chosen()
        if standby is None or not await self._slots_copied(standby):
            words = (
                f"{self._pair.name} has no standby that could take over now: it streams, or copies the slots, not yet"
            )
            return Outcome(done=False, words=words)
        self._supervisor.note(former.name, f"{standby.name} takes its place, as asked")
        if projector := self._supervisor.kept.get(self._projector):
            kill_group(projector.child.pid)  # a server that stops would wait until it has all there is
        kept = self._supervisor.kept[former.name]
        await self._supervisor.stop([former.name])
        await fence(kept.child, former.folder)
        standby = await self._chosen() or standby  # it ended cleanly: it sent all it had before, to both
        await self._change_roles(former, standby)
        took_s = time.monotonic() - began_at
        return Outcome(done=True, words=f"{standby.name} is the primary of {self._pair.name} (after {took_s:.1f} s)")

    async def _slots_copied(self, standby: ServerPlan) -> bool:
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(self._pair.url(standby), timeout=CONNECT_TIMEOUT_S)
            try:
                return bool(await connection.fetchval(STATEMENTS["slots_copied"]))
            finally:
                await connection.close()
        return False
