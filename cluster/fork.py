"""Our nodes as forks of one process that shares what it has imported with us (`forkserver.py`): on Linux.

Nothing hangs on it: who cannot be forked, for whatever reason, is executed.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from cluster.errors import StartFailed
from cluster.forkserver import Born, Order, fork_parent
from cluster.process import Child, ProcessSpec, kill_group, open_log

MODULES: Final = ("command.__main__", "query.__main__", "cdc.__main__")
OURS: Final = ("command.migrate", "command.program", "cluster.respell", "cluster.rehearsal")
"""What a supervisor would import soon after."""
FORK_DEADLINE_S: Final = 5.0
CLOSE_DEADLINE_S: Final = 5.0
OF_INTERPRETERS: Final = ("PYTHON", "LD_", "MALLOC_")
"""Variables that only a new process would look at."""


class Forked:
    """A forked process, as asyncio has its own children."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None as long as it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await asyncio.shield(self._ended)

    def send_signal(self, signal: int, /) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal)

    def ended(self, code: int) -> None:
        """Told by its parent."""
        if not self._ended.done():
            self._ended.set_result(code)


@dataclass(slots=True)
class ForkServer:
    """The process to fork from. One that does not answer is killed with its children; after that all are executed."""

    env: Mapping[str, str]
    """What a process that is executed would have had in its environment when this one was."""
    born: Born | None
    modules: Sequence[str] = MODULES
    fork_deadline_s: float = FORK_DEADLINE_S
    _writer: asyncio.StreamWriter | None = None
    _listening: asyncio.Task[None] | None = None
    _replies: asyncio.Queue[Forked | None] = field(default_factory=lambda: asyncio.Queue[Forked | None](1))
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _children: dict[int, Forked] = field(default_factory=dict[int, Forked])

    @classmethod
    def begin(cls, env: Mapping[str, str], log: Path, rehearse: Callable[[], None] | None = None) -> "ForkServer":
        """Fork it, before there is anything that it should not inherit. Where it cannot be, nothing is forked."""
        born = None
        if sys.platform == "linux":
            with suppress(OSError):
                born = fork_parent((*OURS, *MODULES), log, rehearse)
        return cls(env, born)

    async def start(self) -> None:
        """Listen to it."""
        if self.born:
            reader, self._writer = await asyncio.open_connection(sock=self.born.connection)
            self._listening = asyncio.create_task(self._listen(self.born.pid, reader), name="listen to the fork server")

    async def fork(self, spec: ProcessSpec) -> Child | None:
        """The process as a fork, or None: then it is to be executed. StartFailed when it can have no log."""
        try:
            open_log(spec.log).close()
        except OSError as error:
            raise StartFailed(spec.name, str(error)) from error
        if f"{spec.module}.__main__" not in self.modules or _of_interpreters(spec.env) != _of_interpreters(self.env):
            return None
        async with self._asking:
            return await self._ask(spec)

    async def _ask(self, spec: ProcessSpec) -> Child | None:
        if self._writer is None or self._listening is None or self._listening.done():
            return None
        order = Order(argv=[*spec.argv], env={**spec.env}, log=str(spec.log), death_signal=int(spec.death_signal))
        ordered = asyncio.create_task(self._order(self._writer, order))
        try:
            return await asyncio.shield(ordered)
        except asyncio.CancelledError:
            while not ordered.done():  # what comes must not be taken for the answer to the next order
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((ordered,))
            if child := ordered.result():
                kill_group(child.pid)
            raise

    async def _order(self, writer: asyncio.StreamWriter, order: Order) -> Forked | None:
        """The answer to an order, within the deadline."""
        try:
            writer.write(orjson.dumps(order) + b"\n")
            return await asyncio.wait_for(self._replies.get(), self.fork_deadline_s)
        except (OSError, TimeoutError):
            await self._kill()  # it may have forked all the same: two of one name must not be
            return None

    async def _listen(self, pid: int, reader: asyncio.StreamReader) -> None:
        try:
            with suppress(ConnectionError):  # killed with an order unread
                while line := await reader.readline():
                    self._hear(orjson.loads(line))
            await _buried(pid)
        finally:
            if self._replies.empty():
                self._replies.put_nowait(None)
            for child in self._children.values():
                child.ended(-signal.SIGKILL)  # the kernel sees to it

    def _hear(self, words: dict[str, int]) -> None:
        pid = words["pid"]
        if "code" in words:
            self._children.pop(pid).ended(words["code"])
        else:
            child = Forked(pid) if pid else None
            if child:
                self._children[pid] = child
            self._replies.put_nowait(child)

    async def _kill(self) -> None:
        if self.born and self._listening is not None:
            if not self._listening.done():
                os.kill(self.born.pid, signal.SIGKILL)
            await self._listening

    async def close(self) -> None:
        """End it, once its children have ended."""
        if self._writer is None or self._listening is None:
            return
        self._writer.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listening), CLOSE_DEADLINE_S)
        await self._kill()


async def _buried(pid: int) -> None:
    """Return when a child of ours has ended."""
    handle, ended, loop = os.pidfd_open(pid), asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended


def _of_interpreters(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(OF_INTERPRETERS)}
