"""Faults of a server's disk, as far as they can be had without a volume of its own.

A slow one: every process of the server but its postmaster is stopped and let go ten times a second. A full one: none of
them may make a file longer than so many bytes, so neither WAL nor tables take anything more (EFBIG where a full volume
says ENOSPC; to PostgreSQL both end a write to the WAL by a PANIC).
"""

import asyncio
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import psutil

from benchmarks.chaos_world import World

STOPPED_S, RUNNING_S = 0.08, 0.02
LASTS_S: Final = 5.0
FILE_BYTES_MAX: Final = 8192
BOUND: Final = """
import contextlib, os, resource, sys
user, group, soft, *pids = map(int, sys.argv[1:])
if user != os.geteuid():
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
for pid in pids:
    with contextlib.suppress(ProcessLookupError):
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
"""


def slow(*, standby: bool) -> Callable[[World], Awaitable[None]]:
    """A server that gets a fifth of its time."""

    async def fault(world: World) -> None:
        server = world.processes()[await world.server(standby=standby)]
        until = time.monotonic() + LASTS_S
        while time.monotonic() < until:
            below = _tell(server, signal.SIGSTOP)
            try:
                await asyncio.sleep(STOPPED_S)
            finally:
                for one in below:
                    with suppress(psutil.Error):
                        one.send_signal(signal.SIGCONT)
            await asyncio.sleep(RUNNING_S)

    return fault


def _tell(server: psutil.Process, what: signal.Signals) -> list[psutil.Process]:
    below: list[psutil.Process] = []
    with suppress(psutil.Error):
        below = server.children()
    for one in below:
        with suppress(psutil.Error):
            one.send_signal(what)
    return below


def full(*, standby: bool) -> Callable[[World], Awaitable[None]]:
    """A disk that takes nothing more, for a while; what is started anew meanwhile finds room."""

    async def fault(world: World) -> None:
        if sys.platform != "linux":
            raise LookupError("only Linux bounds the files of a running process")
        server = world.processes()[await world.server(standby=standby)]
        await _bound([server, *server.children()], FILE_BYTES_MAX)
        await asyncio.sleep(LASTS_S)
        with suppress(psutil.Error):
            await _bound([server, *server.children()], resource.RLIM_INFINITY)

    return fault


async def _bound(processes: Sequence[psutil.Process], soft: int) -> None:
    """By a process of their own account: no other may, not even root where containers are."""
    owner = processes[0].uids().real, processes[0].gids().real
    numbers = (*owner, soft, *(one.pid for one in processes))
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", BOUND, *map(str, numbers))
    if await child.wait():
        raise LookupError("the files of the server cannot be bounded")
