"""Steps clocks, where the machine has libfaketime: a process reads in a file how far its clock is off.

All nodes read one file, each server has its own: two of them may disagree when one takes over from the other. The
primary's time is what counts (decision 0063). The monotonic clock is left alone, as it is by whoever sets a clock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.chaos_world import World

LASTS_S: Final = 5.0
READ_EVERY_S: Final = 1
HOUR_S: Final = 3_600
SOME_S: Final = 5
"""Within what a node corrects; an hour is beyond it."""
Fault = Callable[[World], Awaitable[None]]
_FOLDERS: Final = (*Path("/usr/lib").glob("*/faketime"), Path("/usr/lib64/faketime"), Path("/usr/local/lib/faketime"))


OF_THREADS: Final = "libfaketimeMT.so.1"
OF_ONE_THREAD: Final = "libfaketime.so.1"
"""For servers: they ask the time in signal handlers too, where a lock might be held already."""


def library(folders: tuple[Path, ...] = _FOLDERS, name: str = OF_THREADS) -> Path | None:
    """Where the package `libfaketime` lies; None where it does not."""
    found = (folder / name for folder in folders)
    return next((path for path in found if path.is_file()), None)


def environment(file: Path, preloaded: Path | None) -> Mapping[str, str]:
    """What a process needs to go by the clock of this file; it keeps the machine's until it is stepped."""
    if preloaded is None:
        return {}
    file.write_text("+0\n", encoding="ascii")
    return {
        "LD_PRELOAD": str(preloaded),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": str(READ_EVERY_S),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Else a thread that waits for the interpreter's lock does not sleep: its waits of 5 ms end at once (0.9.10).
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
    }


def set_server(folder: Path, server: str, seconds: int) -> None:
    """Have a server's clock be off by so much, from its next look at the file on."""
    (folder / server).write_text(f"{seconds:+d}\n", encoding="ascii")


def stepped(seconds: int) -> Fault:
    """The clocks of all nodes, and of their supervisor, are off for a while, and then right again."""

    async def fault(world: World) -> None:
        if world.clock is None:
            raise LookupError("the system runs without libfaketime")
        try:
            await asyncio.to_thread(world.clock.write_text, f"{seconds:+d}\n", encoding="ascii")
            await asyncio.sleep(LASTS_S)
        finally:
            world.clock.write_text("+0\n", encoding="ascii")

    return fault


def of_server(seconds: int, *, standby: bool, then: Fault | None = None) -> Fault:
    """The clock of one server is off, and `then` something happens; a while later all clocks are right again."""

    async def fault(world: World) -> None:
        if (folder := world.server_clocks) is None:
            raise LookupError("the servers run without libfaketime")
        set_server(folder, await world.server(standby=standby), seconds)
        try:
            await asyncio.sleep(2 * READ_EVERY_S)
            if then:
                await then(world)
            await asyncio.sleep(LASTS_S)
        finally:
            for file in folder.iterdir():
                set_server(folder, file.name, 0)
        await asyncio.sleep(READ_EVERY_S + SOME_S)  # then nothing is ahead of now any more

    return fault
