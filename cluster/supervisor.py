"""Keeps processes running: starts them when asked, restarts what dies or falls silent, stops them in order.

Invariant: run.json always names every process that may be alive; on a full disk it is written as soon as it can be.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster.errors import StartFailed
from cluster.fork import ForkServer
from cluster.process import (
    KILL_DEADLINE_S,
    Child,
    Probe,
    ProcessSpec,
    describe_exit,
    kill_group,
    log_size,
    probe,
    put_back,
    rotate_log,
    spawn,
    terminate,
    wait_ready,
)
from cluster.run_file import Identity, ProcessRecord, RunRecord
from cluster.silence import Questions
from shard_router.ending import end

READY = "ready"
BACK_OFF_FIRST_S = 0.2
BACK_OFF_MAX_S = 10.0
HEALTHY_AFTER_S = 30.0  # a process that ran this long starts again at once
READY_POLL_S = 0.2
SILENT_MAX_S = 10.0
ASK_INTERVAL_S = 2.0
UPKEEP_S = 30.0  # a log overshoots its bound by what its process writes in this time

Listener = Callable[[str, str], None]
"""Told (process name, state) on every change."""


@dataclass(slots=True)
class Kept:
    """A process under supervision."""

    spec: ProcessSpec
    child: Child
    record: ProcessRecord
    started_at: float
    tasks: tuple[asyncio.Task[None], ...] = ()


@dataclass(slots=True)
class Supervisor:
    """Owner of all processes of one data folder; used under the folder's lock, from one event loop."""

    data: Path
    run: RunRecord
    on_change: Listener = lambda _name, _state: None
    kept: dict[str, Kept] = field(default_factory=dict[str, Kept])
    forks: ForkServer | None = None
    upkeep_s: float = UPKEEP_S
    silent_max_s: float = SILENT_MAX_S
    ask_interval_s: float = ASK_INTERVAL_S
    _unsaved: bool = False

    def note(self, name: str, state: str) -> None:
        """Tell a state: to run.json for a kept process, to the listener for any name. Raises neither's trouble."""
        if name in self.run.processes:
            self.run.processes[name].state = state
            self.save()
        self._tell(name, state)

    def save(self) -> None:
        """Write run.json, as soon as there is room for it."""
        try:
            self.run.save(self.data)
        except OSError as error:
            self._unsaved = True
            self._tell("run.json", f"not written: {error}")
        else:
            self._unsaved = False

    def _tell(self, name: str, state: str) -> None:
        with suppress(Exception):  # a terminal that went away must not end the keeping
            self.on_change(name, state)

    async def start(self, spec: ProcessSpec) -> None:
        """Start a process and keep it; returns when it is ready, StartFailed when it does not come up."""
        self._bound_log(spec.name, spec.log)
        log_from = log_size(spec.log)
        child = await self._born(spec)
        record = ProcessRecord("starting", str(spec.log), port=spec.port, stop_signal=int(spec.stop_signal))
        kept = Kept(spec, child, record, self._now())
        self.kept[spec.name] = kept
        self.run.processes[spec.name] = record
        self._remember(kept)
        await wait_ready(spec, child, log_from=log_from)
        self.note(spec.name, READY)
        self._keep(kept)

    async def _born(self, spec: ProcessSpec) -> Child:
        put_back(spec)
        forked = await self.forks.fork(spec) if self.forks and spec.module else None
        return forked or await spawn(spec)

    async def _for_ever(self, work: Callable[[Kept], Awaitable[None]], kept: Kept) -> None:
        """Until cancelled: what goes wrong meanwhile is told and tried again."""
        while True:
            try:
                await work(kept)
            except Exception as error:  # noqa: BLE001 - a process nobody keeps any more would stay away unnoticed
                self.note(kept.spec.name, f"{type(error).__name__}: {error}")
                await asyncio.sleep(BACK_OFF_MAX_S)

    async def _end_when_silent(self, kept: Kept, alive: Probe) -> None:
        """Kill it when nothing that it was asked for so long was answered; then it is restarted like what died."""
        asked = Questions()
        child, heard_at = kept.child, self._now()
        try:
            while True:
                asked.ask(alive)
                asked_at = self._now()
                await asyncio.sleep(self.ask_interval_s)
                if child is not kept.child:
                    asked.forget()
                    child, heard_at = kept.child, self._now()
                was_away = self._now() - asked_at > self.silent_max_s / 2  # asleep with the machine, or starved
                if asked.take_answer() or was_away or child.returncode is not None:
                    heard_at = self._now()
                silent_s = self._now() - heard_at
                if silent_s >= (self.silent_max_s if kept.record.state == READY else kept.spec.ready_deadline_s):
                    self.note(kept.spec.name, f"silent for {silent_s:.0f} s ({asked.last_words}), killed")
                    kill_group(child.pid)
                    heard_at = self._now()
        finally:
            asked.forget()

    async def _restart_again_and_again(self, kept: Kept) -> None:
        pause_s = 0.0
        while True:
            code = await self._ended(kept)
            kept.record.identity = None
            kept.record.last_exit = describe_exit(code)
            if self._now() - kept.started_at >= HEALTHY_AFTER_S:
                pause_s = 0.0
            self.note(kept.spec.name, f"{kept.record.last_exit}, restart in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            pause_s = min(max(pause_s * 2, BACK_OFF_FIRST_S), BACK_OFF_MAX_S)
            await self._restart(kept)

    async def _ended(self, kept: Kept) -> int:
        """Its exit code, once it has ended; until then its log is kept small."""
        ended = asyncio.create_task(kept.child.wait())
        try:
            while not (await asyncio.wait({ended}, timeout=self.upkeep_s))[0]:
                for log in (kept.spec.log, *kept.spec.other_logs):
                    self._bound_log(kept.spec.name, log)
                self._bound_log("supervisor", self.log)
                if self._unsaved:
                    self.save()
        finally:
            ended.cancel()
        return ended.result()

    @property
    def log(self) -> Path:
        """Its own log, where it runs in the background."""
        return self.data / "logs" / "supervisor.log"

    def _bound_log(self, name: str, log: Path) -> None:
        try:
            rotate_log(log)
        except OSError as error:
            self._tell(name, f"log not rotated: {error}")

    async def _restart(self, kept: Kept) -> None:
        self._bound_log(kept.spec.name, kept.spec.log)
        try:
            kept.child = await self._born(kept.spec)
        except StartFailed as failure:
            self.note(kept.spec.name, failure.reason)
            return
        kept.started_at = self._now()
        kept.record.restarts += 1
        self._remember(kept)
        while kept.child.returncode is None and (reason := await probe(kept.spec)) is not None:
            self._bound_log(kept.spec.name, kept.spec.log)  # what is never ready may say so often
            if kept.record.state != reason:
                self.note(kept.spec.name, "restarting")
            await asyncio.sleep(READY_POLL_S)
        if kept.child.returncode is None:
            self.note(kept.spec.name, READY)

    def _remember(self, kept: Kept) -> None:
        kept.record.identity = Identity.of(kept.child.pid)
        self.note(kept.spec.name, "starting")

    async def release(self, name: str) -> Kept | None:
        """Keep a process no more, and leave it as it is; None when it is not kept. run.json still names it."""
        kept = self.kept.pop(name, None)
        if kept is None:
            return None
        await end(*kept.tasks)
        return kept

    async def hold(self, name: str) -> Kept | None:
        """Keep a process no more, and end it at once; None when it is not kept. TimeoutError when it does not end."""
        kept = await self.release(name)
        if kept is not None and kept.child.returncode is None:
            kill_group(kept.child.pid)
            try:
                await asyncio.wait_for(kept.child.wait(), KILL_DEADLINE_S)
            except BaseException:
                self.take_back(kept)
                raise
        return kept

    def take_back(self, kept: Kept) -> None:
        """Keep a released process again; one that has ended meanwhile is restarted."""
        self.kept[kept.spec.name] = kept
        self._keep(kept)

    def _keep(self, kept: Kept) -> None:
        works: list[Callable[[Kept], Awaitable[None]]] = [self._restart_again_and_again]
        if kept.spec.alive is not None:
            works.append(partial(self._end_when_silent, alive=kept.spec.alive))
        kept.tasks = tuple(
            asyncio.create_task(self._for_ever(work, kept), name=f"keep {kept.spec.name}") for work in works
        )

    async def stop(self, names: Iterable[str]) -> None:
        """Stop these processes together, whatever state they are in."""
        await asyncio.gather(*(self._stop(self.kept[name]) for name in names if name in self.kept))

    def forget(self, names: Iterable[str]) -> None:
        """Take processes that were stopped for good out of run.json."""
        for name in names:
            if name not in self.kept:
                self.run.processes.pop(name, None)
        self.save()

    async def _stop(self, kept: Kept) -> None:
        await end(*kept.tasks)
        self.note(kept.spec.name, "stopping")
        gently = await terminate(kept.spec, kept.child)
        kept.record.identity = None
        del self.kept[kept.spec.name]
        self.note(kept.spec.name, "stopped" if gently else "killed after its deadline")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
