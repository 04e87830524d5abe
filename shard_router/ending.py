"""Ends tasks for certain: a cancellation can be lost, and who waits for such a task would wait for ever."""

import asyncio
from typing import Any, Final

TOLD_AGAIN_S: Final = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended, whatever they end with.

    `asyncio.wait_for` of Python 3.11, and asyncpg's, swallow a cancellation that comes as what they wait for is done;
    so does a client of Valkey that is just connecting.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=TOLD_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
