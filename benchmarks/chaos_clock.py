"""Steps the clocks of nodes, where the machine has libfaketime: they read in a file how far their clock is off.

Servers do not run under it: the primary's time is what counts, whatever the nodes take the time to be (decision 0063).
The monotonic clock is left alone, as it is by whoever sets a clock.
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
_FOLDERS: Final = (*Path("/usr/lib").glob("*/faketime"), Path("/usr/lib64/faketime"), Path("/usr/local/lib/faketime"))


def library(folders: tuple[Path, ...] = _FOLDERS) -> Path | None:
    """Where the package `libfaketime` lies; None where it does not."""
    found = (folder / "libfaketimeMT.so.1" for folder in folders)
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


def stepped(seconds: int) -> Callable[[World], Awaitable[None]]:
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
