"""Writes that may have to wait for a standby: whoever asked waits until their deadline, the write goes on.

Cancelling it instead could show rows that no standby has (see decision 0012), and a caller who never
gives up would take a till's deadline, a connection and the place of others along.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from shard_router.errors import ProblemError

Result = TypeVar("Result")

UNFINISHED_MAX: Final = 256
"""Beyond as many, a new one is refused at once: half of what a node may have under way."""


class DetachedWrites:
    """Waits for work no longer than allowed, and keeps what goes on, up to a bound."""

    def __init__(self, unfinished_max: int = UNFINISHED_MAX) -> None:
        self._unfinished_max = unfinished_max
        self._unfinished: set[asyncio.Task[Any]] = set()

    async def wait(self, work: Coroutine[Any, Any, Result], *, deadline: float, what: str) -> Result:
        """The result of the work; `shard_unavailable` when it is not there by the deadline, a monotonic instant."""
        if len(self._unfinished) >= self._unfinished_max:
            work.close()
            raise ProblemError("shard_unavailable", f"too much waits already: {what}")
        task = asyncio.get_running_loop().create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait([task], timeout=deadline - time.monotonic())
        if not task.done():
            raise ProblemError("shard_unavailable", f"not done in time: {what}")
        return task.result()

    async def idle(self) -> None:
        """Return when nothing goes on any more."""
        while self._unfinished:
            await asyncio.wait(self._unfinished)

    def _forget(self, done: asyncio.Task[Any]) -> None:
        self._unfinished.discard(done)
        if not done.cancelled():
            done.exception()  # whoever asked may be gone
