"""Deadlines of many that wait, by one timer for all: nearly every wait ends long before its own would ring."""

import asyncio
import math
import time
from typing import Protocol


class Waiting(Protocol):
    """What waits, and can be told that its time is over."""

    def give_up(self) -> None:
        """Wait no longer."""


class Deadlines:
    """Who waits until when, by monotonic instants. Those whose time is over are told once, no sooner."""

    def __init__(self) -> None:
        self._waiting: dict[Waiting, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def add(self, waiting: Waiting, deadline: float) -> None:
        """Tell it when its time is over, unless it is removed before."""
        self._waiting[waiting] = deadline
        if deadline < self._rings_at:
            self._ring_at(deadline)

    def remove(self, waiting: Waiting) -> None:
        """Forget one, told or not. The timer stays: it rings for nobody, or is there for the next."""
        self._waiting.pop(waiting, None)

    def _ring_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = deadline
        self._timer = asyncio.get_running_loop().call_later(max(deadline - time.monotonic(), 0.0), self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, math.inf
        now = time.monotonic()
        for waiting in [waiting for waiting, deadline in self._waiting.items() if deadline <= now]:
            del self._waiting[waiting]
            waiting.give_up()
        if self._waiting:
            self._ring_at(min(self._waiting.values()))
