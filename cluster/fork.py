"""Our nodes as forks of one process that has imported them (`forkserver.py`), where the kernel lets us: on Linux.

Nothing hangs on it: who cannot be forked, for whatever reason, is executed.
"""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from cluster.errors import StartFailed
from cluster.forkserver import PADDING, Order
from cluster.process import Child, ProcessSpec, kill_group, open_log, prepare_child

MODULES: Final = ("command.__main__", "query.__main__", "cdc.__main__")
IMPORT_DEADLINE_S: Final = 30.0  # a second on a quiet machine
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
    log: Path
    modules: Sequence[str] = MODULES
    fork_deadline_s: float = FORK_DEADLINE_S
    _process: Process | None = None
    _writer: asyncio.StreamWriter | None = None
    _listening: asyncio.Task[None] | None = None
    _replies: asyncio.Queue[Forked | None] = field(default_factory=lambda: asyncio.Queue[Forked | None](1))
    _imported: asyncio.Event = field(default_factory=asyncio.Event)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _children: dict[int, Forked] = field(default_factory=dict[int, Forked])

    async def start(self) -> None:
        """Start it; it imports while others start. Where it cannot be, nothing is forked."""
        if sys.platform != "linux":
            return
        ours, theirs = socket.socketpair()
        with theirs, suppress(OSError), open_log(self.log) as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "cluster.forkserver", str(theirs.fileno()), ",".join(self.modules)),
                PADDING,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.env),
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                preexec_fn=prepare_child(None, signal.SIGKILL),
            )
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._listening = asyncio.create_task(self._listen(reader), name="listen to the fork server")

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
        try:
            await asyncio.wait_for(self._imported.wait(), IMPORT_DEADLINE_S)
        except TimeoutError:
            await self._kill()
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

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            with suppress(ConnectionError):  # killed with an order unread
                while line := await reader.readline():
                    self._hear(orjson.loads(line))
        finally:
            self._imported.set()
            if self._replies.empty():
                self._replies.put_nowait(None)
            for child in self._children.values():
                child.ended(-signal.SIGKILL)  # the kernel sees to it

    def _hear(self, words: dict[str, int]) -> None:
        pid = words.get("pid")
        if pid is None:
            self._imported.set()
        elif "code" in words:
            self._children.pop(pid).ended(words["code"])
        else:
            child = Forked(pid) if pid else None
            if child:
                self._children[pid] = child
            self._replies.put_nowait(child)

    async def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._listening is not None:
            await self._listening

    async def close(self) -> None:
        """End it, once its children have ended."""
        if self._writer is None or self._process is None:
            return
        self._writer.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), CLOSE_DEADLINE_S)
        await self._kill()
        await self._process.wait()  # one that nobody waits for is complained of when the loop has closed


def _of_interpreters(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(OF_INTERPRETERS)}
