"""Makes certain that a Postgres server is gone: its postmaster, every backend, whatever still runs in its folder.

Only its parent can be so sure, and only on one machine. The postmaster is stopped first, so that it starts no more
backends while they are listed; backends have sessions of their own, so a process group does not name them all.
"""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.process import Child

GONE_DEADLINE_S = 5.0
POLL_INTERVAL_S = 0.05
_STATES = {b"T": psutil.STATUS_STOPPED, b"t": psutil.STATUS_TRACING_STOP, b"Z": psutil.STATUS_ZOMBIE}


async def fence(child: Child, folder: Path) -> bool:
    """Kill a server with all that it started. Whether nothing of it is left: a process stuck in the kernel may be."""
    postmaster = [child.pid] if child.returncode is None else []  # else its number may be a stranger's by now
    for pid in postmaster:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    doomed = {*(below for pid in postmaster for below in _below(pid)), *_within(folder)}
    for pid in (*postmaster, *doomed):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    until = asyncio.get_running_loop().time() + GONE_DEADLINE_S
    with suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), GONE_DEADLINE_S)
    while left := [pid for pid in {*doomed, *_within(folder)} if _runs(pid)]:
        if asyncio.get_running_loop().time() > until:
            return False
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(POLL_INTERVAL_S)
    return child.returncode is not None


def is_stopped(pid: int) -> bool:
    """Whether a process is frozen by a signal, or by a debugger."""
    return state_of(pid) in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}


def state_of(pid: int) -> str | None:
    """What a process does, as psutil calls it; None when there is none. Cheap: many are asked about, all the time."""
    with suppress(OSError):
        letter = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]  # proc_pid_stat(5)
        return _STATES.get(letter, psutil.STATUS_RUNNING)
    try:
        return psutil.Process(pid).status()
    except psutil.Error:
        return None


def _below(pid: int) -> list[int]:
    try:
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _within(folder: Path) -> list[int]:
    """Processes that work in the server's folder: backends whose postmaster died before them have no parent of ours."""
    found: list[int] = []
    for process in psutil.process_iter(["pid"]):
        with suppress(psutil.Error, OSError):
            if process.name() == "postgres" and Path(process.cwd()) == folder:
                found.append(process.pid)
    return found


def _runs(pid: int) -> bool:
    return state_of(pid) not in {None, psutil.STATUS_ZOMBIE}
