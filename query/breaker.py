"""Lets go of a server that does not answer, and comes back to it by itself.

One failure opens the breaker: from then on nobody waits for that server. A probe in the background,
with growing pauses, closes it again; requests are never used as probes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

_PAUSE_MIN_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0


class Breaker:
    """`probe` raises as long as the server does not answer."""

    def __init__(self, name: str, probe: Callable[[], Awaitable[object]]) -> None:
        self.is_open = False
        self._name = name
        self._probe = probe
        self._recovery: asyncio.Task[None] | None = None

    def trip(self, error: BaseException) -> None:
        """Open, because of this error."""
        if self.is_open:
            return
        self.is_open = True
        structlog.get_logger().warning("breaker_open", server=self._name, error=repr(error))
        self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def close(self) -> None:
        """Stop probing; open for good."""
        self.is_open = True
        if self._recovery:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)

    async def _recover(self) -> None:
        pause_s = _PAUSE_MIN_S
        while not await self._answers():
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
        self.is_open = False
        structlog.get_logger().info("breaker_closed", server=self._name)

    async def _answers(self) -> bool:
        try:
            await self._probe()
        except Exception:  # noqa: BLE001 - whatever it is, the server does not answer, and probing must go on
            return False
        return True
