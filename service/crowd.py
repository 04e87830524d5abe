"""Who stands before the door while one turn of the event loop has said no often enough.

Whoever is refused costs a tenth of what is done, but in a flood hundreds lie in their sockets at once. Read in one go
they made turns of 20 ms, and a batch takes many turns: it waits for its rows, its commit, its answers. So in one turn
only some are refused; who comes then waits, in order and not looked at, and the turn goes on to what is being done.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

AT_ONCE: Final = 32
"""Some 0.6 ms: a batch is decided in pieces of 4 (command/turn.py)."""
_PART: Final = 4
"""Where many wait a turn refuses one in so many: all are answered within a few turns, whatever their number."""


class Crowd:
    """Those before the door of one node; used from its event loop."""

    def __init__(self) -> None:
        self.is_there = False
        """Whether whoever comes now has to wait."""
        self._waiting: deque[tuple[Callable[[bytes], None], bytes]] = deque()
        self._left = AT_ONCE
        self._comes_back = False

    def refused(self) -> None:
        """Count one who was refused in this turn."""
        self._left -= 1
        if self._left <= 0:
            self.is_there = True
        if not self._comes_back:
            self._come_back()

    def join(self, ask: Callable[[bytes], None], data: bytes) -> None:
        """Have somebody ask in a later turn, after all who wait already; to be called while there is a crowd."""
        self._waiting.append((ask, data))

    def _come_back(self) -> None:
        self._comes_back = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._comes_back = False
        waiting = self._waiting
        self._left = max(AT_ONCE, len(waiting) // _PART)
        if waiting:
            self._come_back()
        while waiting and self._left > 0:
            ask, data = waiting.popleft()
            ask(data)
        self.is_there = self._left <= 0
