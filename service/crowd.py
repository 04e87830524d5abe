"""Who stands before the door while one turn of the event loop has said no often enough.

Whoever is refused costs a tenth of what is done, but in a flood hundreds lie in their sockets at once. Read in one go
they made turns of 20 ms, and a batch takes many turns: it waits for its rows, its commit, its answers. So in one turn
only some are refused; who comes then waits unread, in order, and the turn goes on to what is being done.
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
        self._waiting: deque[Callable[[], None]] = deque()
        self._left = AT_ONCE
        self._comes_back = False

    @property
    def is_there(self) -> bool:
        """Whether whoever comes now has to wait."""
        return self._left <= 0

    def refused(self) -> None:
        """Count one who was refused in this turn."""
        self._left -= 1
        self._come_back()

    def join(self, ask: Callable[[], None]) -> None:
        """Have somebody ask in a later turn, after all who wait already; to be called while there is a crowd."""
        self._waiting.append(ask)

    def _come_back(self) -> None:
        if not self._comes_back:
            self._comes_back = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._comes_back = False
        self._left = max(AT_ONCE, len(self._waiting) // _PART)
        if self._waiting:
            self._come_back()
        while self._waiting and self._left > 0:
            self._waiting.popleft()()
