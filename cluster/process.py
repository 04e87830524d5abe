"""One child process: how it starts, when it is ready, how it stops.

Invariant: a child never outlives its supervisor. On Linux the kernel signals it when we die (set after any change of
account, which would clear it); elsewhere the record of run.json lets the next start find it.
"""

import asyncio
import ctypes
import os
import platform
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from cluster.errors import StartFailed
from cluster.files import write_atomic
from cluster.os_user import Account

Probe = Callable[[], Awaitable[str | None]]


class Child(Protocol):
    """A process that we have started: one of asyncio's, or a fork."""

    @property
    def pid(self) -> int:
        """Its process group, too."""
        ...

    @property
    def returncode(self) -> int | None:
        """Negative for a signal; None as long as it runs."""
        ...

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...

    def send_signal(self, signal: int, /) -> None:
        """Nothing happens when it has ended."""
        ...


PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOG_BYTES_MAX = 32 * 1024 * 1024  # about 130,000 answers
LOG_MODE = 0o640
LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 16 * 1024
ANSWERED = '"event":"answered"'  # service/access.py
PROBE_INTERVAL_S = 0.05
PROBE_TIMEOUT_S = 5.0
KILL_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run. `probe` answers None when the process is ready, otherwise why it is not yet.

    `alive`, where there is one, answers None when the process answers at all, and may take as long as that takes.
    `other_logs` are files that the process appends to itself; they are kept small like its log. `files` are what it
    reads at its start: one that is gone is written again.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    probe: Probe
    alive: Probe | None = None
    port: int | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    account: Account | None = None
    other_logs: tuple[Path, ...] = ()
    files: Mapping[Path, str] = field(default_factory=dict[Path, str])
    stop_signal: signal.Signals = signal.SIGTERM
    stop_deadline_s: float = 10.0
    ready_deadline_s: float = 60.0
    at_work: str = ""
    """What the probe says while it does something long: then the deadline is for time without progress."""
    death_signal: signal.Signals = signal.SIGKILL

    @property
    def module(self) -> str | None:
        """The Python module that it is, under our own account."""
        words = self.argv[1:4]
        return words[2] if words[:2] == ("-P", "-m") and self.account is None else None


def put_back(spec: ProcessSpec) -> None:
    """Write what a process reads at its start, where it is gone; StartFailed when that cannot be."""
    missing = {path: text for path, text in spec.files.items() if not path.exists()}
    try:
        for path, text in missing.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, text, mode=0o600)
            for made in (path.parent, path):
                if spec.account is not None:
                    spec.account.own(made)
    except OSError as error:
        raise StartFailed(spec.name, f"{error.filename}: {error.strerror}") from error


async def spawn(spec: ProcessSpec) -> asyncio.subprocess.Process:
    """Start the process in its own session, so that Ctrl-C at the terminal reaches only the supervisor."""
    argv = spec.argv if spec.account is None else spec.account.argv(spec.argv, spec.death_signal)
    try:
        with open_log(spec.log) as log:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.env),
                cwd="/",
                start_new_session=True,
                preexec_fn=prepare_child(spec.account, spec.death_signal),
            )
    except OSError as error:
        raise StartFailed(spec.name, str(error)) from error


async def run_to_end(command: tuple[str, ...], *, account: Account | None, env: Mapping[str, str]) -> tuple[int, str]:
    """Run a command that ends by itself; its exit code and what it said. Cancelled, it takes the command along."""
    argv = command if account is None else account.argv(command, signal.SIGKILL)
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(env),
        cwd="/",
        start_new_session=True,
        preexec_fn=prepare_child(account, signal.SIGKILL),
    )
    try:
        output, _ = await child.communicate()
    except asyncio.CancelledError:
        kill_group(child.pid)
        await child.wait()
        raise
    return child.returncode or 0, output.decode("utf-8", "replace")


def prepare_child(account: Account | None, death_signal: signal.Signals) -> Callable[[], None]:
    """What a child of ours does before it is executed."""
    libc = ctypes.CDLL(None, use_errno=True) if platform.system() == "Linux" else None
    parent = os.getpid()

    def prepare() -> None:
        if account is not None:
            account.switch()
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:
                os._exit(1)  # the supervisor died before the kernel knew whom to tell

    return prepare


async def wait_ready(spec: ProcessSpec, child: Child, *, log_from: int = 0) -> None:
    """Return when the probe is content; StartFailed when the process ends first or its deadline passes.

    What stands in its log before `log_from`, in bytes, is of an earlier start.
    """
    deadline, before = asyncio.get_running_loop().time() + spec.ready_deadline_s, ""
    while True:
        if child.returncode is not None:
            raise StartFailed(spec.name, describe_exit(child.returncode), log_tail(spec.log, since=log_from))
        reason = await probe(spec)
        if reason is None:
            return
        if spec.at_work and spec.at_work in reason and reason != before:
            deadline, before = asyncio.get_running_loop().time() + spec.ready_deadline_s, reason
        if asyncio.get_running_loop().time() > deadline:
            late = f"not ready after {spec.ready_deadline_s:.0f} s ({reason})"
            raise StartFailed(spec.name, late, log_tail(spec.log, since=log_from))
        await asyncio.sleep(PROBE_INTERVAL_S)


async def probe(spec: ProcessSpec) -> str | None:
    """None when ready, else the reason; a probe that hangs counts as not ready."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await spec.probe()
    except TimeoutError:
        return "no answer"


async def terminate(spec: ProcessSpec, child: Child) -> bool:
    """Ask the process to stop, then force it and its group; False when force was needed."""
    if child.returncode is not None:
        return True
    child.send_signal(spec.stop_signal)
    try:
        async with asyncio.timeout(spec.stop_deadline_s):
            await child.wait()
    except TimeoutError:
        kill_group(child.pid)
        await asyncio.wait_for(child.wait(), KILL_DEADLINE_S)
        return False
    return True


def kill_group(pid: int) -> None:
    """SIGKILL for the process and what it started; silent when it is gone."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def describe_exit(returncode: int) -> str:
    """`exited with 1` or `killed by SIGKILL`."""
    if returncode >= 0:
        return f"exited with {returncode}"
    return f"killed by {signal.Signals(-returncode).name}"


def open_log(path: Path) -> BinaryIO:
    """The log to append to, for the eyes of its owner and their group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, LOG_MODE)
    os.fchmod(handle, LOG_MODE)  # one from before may be open to all
    return open(handle, "ab")  # noqa: PTH123 - a handle; whoever asked closes it


def rotate_log(path: Path) -> None:
    """Keep one older log when the present one has grown large; whoever writes to it may go on.

    The content is copied and the file emptied, because its process holds it open (to append: it goes on at the new
    end). Lines written between the two are lost, and on a full disk what has no room even without the older log.
    """
    if not path.exists() or path.stat().st_size <= LOG_BYTES_MAX:
        return
    older = path.with_suffix(".log.1")
    older.unlink(missing_ok=True)
    try:
        with path.open("rb") as content, open_log(older) as copy:
            shutil.copyfileobj(content, copy)
    finally:
        os.truncate(path, 0)


def log_size(path: Path) -> int:
    """How long a log is, in bytes; none is 0."""
    return path.stat().st_size if path.exists() else 0


def log_tail(path: Path, lines: int = LOG_TAIL_LINES, *, since: int = 0) -> str:
    """The last lines of a log, empty when there is none. Answers tell nobody why a node does not start."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
            return "\n".join([line for line in text.splitlines() if ANSWERED not in line][-lines:])
    except OSError:
        return ""
