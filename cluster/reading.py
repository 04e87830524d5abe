"""Reads the standbys of a pair through, one at a time and slowly: a damaged page is found before its server takes over.

Pages that nobody reads rot unseen, and a standby reads next to none. The server itself reads them, for a base backup
that goes nowhere. What that passes over is found by its header (`page.py`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from cluster import postgres
from cluster.errors import StartFailed
from cluster.memory import MIB, data_bytes
from cluster.page import impossible_pages
from cluster.pair import Pair
from cluster.plan import ServerPlan
from shard_router.ending import end

LEAST_PAUSE_S, MOST_PAUSE_S = 60.0, 3600.0
RATE_MIB = 16  # a second: a tenth of what a small disk of a cloud reads
SHARE = 20  # of its time at most one part is spent on reading a small server
SOONER = 6  # times, after one that did not come to its end
GRACE_S = 300.0  # for its checkpoint, and the files that are no tables
BEYOND = 1 << 40  # of WAL: what a server writes in months
CHECKSUM_ERROR = "pg_basebackup: error: checksum error occurred"
CHECKSUM_WARNING = "checksum verification failed in file"
USER = "postgres_standby"


def pause_s(takes_s: float) -> float:
    """How long a standby is left alone that takes so long to be read.

    While damage is unseen a shard may not outlive the loss of its primary, and a small server costs little to read.
    """
    return min(max(LEAST_PAUSE_S, SHARE * takes_s), MOST_PAUSE_S)


class Reading:
    """What is read now, and when each standby is due.

    `told` hears of a reading that did not come to its end, `found` of a server and how many of its pages are damaged.
    `pause` makes seconds that a reading takes seconds until the next.
    """

    def __init__(
        self,
        pair: Pair,
        told: Callable[[str], None],
        found: Callable[[ServerPlan, int], None],
        pause: Callable[[float], float],
    ) -> None:
        self._pair = pair
        self._told = told
        self._found = found
        self._pause = pause
        self._due_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def go_on(self, standbys: Sequence[ServerPlan]) -> None:
        """Begin with the standby whose turn it is, unless one is read. One that was never seen was copied just now."""
        now = time.monotonic()
        due = [one for one in standbys if self._due_at.setdefault(one.name, now + self._pause(0.0)) <= now]
        if due and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._read(min(due, key=lambda one: self._due_at[one.name])))

    async def stop(self) -> None:
        """Read no more for now."""
        if self._task:
            await end(self._task)

    async def _read(self, standby: ServerPlan) -> None:
        takes_s, sooner = 0.0, SOONER
        try:
            takes_s = await asyncio.to_thread(data_bytes, standby.folder) / (RATE_MIB * MIB)
            async with asyncio.timeout(GRACE_S + 4 * takes_s):
                if pages := await self._damaged_pages(standby):
                    self._found(standby, pages)
            sooner = 1
        except (StartFailed, OSError, TimeoutError) as error:
            self._told(f"{standby.name} was not read through: {_last_line(error)}")
        finally:
            self._due_at[standby.name] = time.monotonic() + self._pause(takes_s) / sooner

    async def _damaged_pages(self, standby: ServerPlan) -> int:
        """How many there are, as far as the first that finds any can tell."""
        try:
            await self._read_through(standby)
        except StartFailed as error:
            if pages := damaged_pages(error):
                return pages
            raise
        found = await self._impossible_pages(standby)
        # Looked at again: a page may have been just under way to the disk.
        return len(found & await self._impossible_pages(standby)) if found else 0

    async def _read_through(self, standby: ServerPlan) -> None:
        """Have it read its folder and check each page; StartFailed when it cannot, or a page is damaged."""
        tools, where = self._pair.tools, ("--host", postgres.HOST, "--port", str(standby.port))
        await postgres.run_tool(
            tools,
            standby.name,
            (tools.program("pg_basebackup"), "--target=blackhole", "--wal-method=none", f"--max-rate={RATE_MIB}M"),
            ("--checkpoint=fast", *where, f"--username={postgres.STANDBY_USER}", "--no-password"),
            password=self._pair.passwords[USER],
        )

    async def _impossible_pages(self, standby: ServerPlan) -> set[str]:
        found = await self._pair.received(standby)
        if found is None:
            raise TimeoutError(f"{standby.name} does not say where its WAL ends")
        return set(await asyncio.to_thread(impossible_pages, standby.folder, found.position + BEYOND, RATE_MIB * MIB))


def damaged_pages(error: BaseException) -> int:
    """How many pages a base backup that failed has found damaged, or more."""
    if not isinstance(error, StartFailed) or CHECKSUM_ERROR not in error.log_tail:
        return 0
    return max(1, error.log_tail.count(CHECKSUM_WARNING))


def _last_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1]
