"""Looks go one after another, so that a server at rest keeps one session for all of them.

Each second somebody looks for what is due, and asks a server what it is. Two looks at once need two sessions, and each
keeps 3 MiB of the server for a minute. Nobody waits for a look, so it may wait; but not for long, for the one before it
may be at a server that is frozen.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

TURN_S: Final = 0.1  # a look takes 2 ms, a new session five times that


class Looks:
    """Those at one server."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Begin when no other look is under way, or when one takes too long."""
        alone = await self._alone()
        try:
            yield
        finally:
            if alone:
                self._turn.release()

    async def _alone(self) -> bool:
        try:
            async with asyncio.timeout(TURN_S):
                return await self._turn.acquire()
        except TimeoutError:
            return False
