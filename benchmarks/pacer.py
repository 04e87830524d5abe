"""Waits until an instant, precisely and without spinning.

Event-loop timers are a millisecond coarse. On Linux a timerfd wakes the loop about 0.1 ms after the instant, for a few
microseconds of CPU; elsewhere the loop's own timer serves and the lateness it causes is measured like any other.
"""

import asyncio
import ctypes
import os
import sys
import time
from typing import Any, Final, Self

NANOSECONDS: Final = 1_000_000_000
_CLOCK_MONOTONIC: Final = 1  # linux/time.h
_TFD_NONBLOCK: Final = 0o4000
_TFD_TIMER_ABSTIME: Final = 1


class Pacer:
    """A timer of the running loop; use it as a context, from one task."""

    def __init__(self) -> None:
        self._libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._timer = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)) if self._libc else -1
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        """Watch the timer."""
        if self._timer >= 0:
            asyncio.get_running_loop().add_reader(self._timer, self._wake)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the timer."""
        if self._timer >= 0:
            asyncio.get_running_loop().remove_reader(self._timer)
            os.close(self._timer)

    async def until(self, instant_ns: int, *, give_way: bool) -> None:
        """Return at the instant (time.monotonic_ns); when it is past at once, or after letting others run."""
        left_ns = instant_ns - time.monotonic_ns()
        if left_ns <= 0:
            if give_way:
                await asyncio.sleep(0)
            return
        if self._timer < 0:
            await asyncio.sleep(left_ns / NANOSECONDS)
            return
        self._waiter = asyncio.get_running_loop().create_future()
        spec = _TimerSpec(0, 0, *divmod(instant_ns, NANOSECONDS))
        self._libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)
        await self._waiter

    def _wake(self) -> None:
        os.read(self._timer, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _TimerSpec(ctypes.Structure):
    """struct itimerspec (timerfd_settime(2)); os.timerfd_create comes with Python 3.13 only."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns"))
