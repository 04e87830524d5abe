"""How far this node's clock is from that of a shard's primary, whose time dates what the shard decides.

Measured with the look at roles each second: half of the way there and back is how wrong a measurement may be. Between
two looks the primary's time is reckoned by the monotonic clock, so a step of the node's clock shows at once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from shard_router.errors import ProblemError

SAID_FROM_S: Final = 1.0
REFUSED_FROM_S: Final = 10.0
CORRECTED_FROM_S: Final = 0.05  # nodes of one machine, and those whose clocks are kept, never come so far

Now = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Reading:
    """The time of a server, most often the primary, and the node's two clocks in the middle of the question."""

    primary_s: float
    wall_s: float
    monotonic_s: float
    error_s: float


class ShardClock:
    """The time of one shard, as this node knows it."""

    def __init__(self, wall: Now = time.time, monotonic: Now = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._reading: Reading | None = None

    def begin(self) -> tuple[float, float]:
        """Both clocks of the node, to be handed to `read` when the primary has told its time."""
        return self._wall(), self._monotonic()

    def read(self, begun: tuple[float, float], primary_s: float) -> Reading:
        """A measurement that ends now."""
        (wall_s, began_s), ended_s = begun, self._monotonic()
        half_s = (ended_s - began_s) / 2
        return Reading(primary_s, wall_s + half_s, began_s + half_s, half_s)

    def heard(self, reading: Reading) -> None:
        """Go by a measurement of the primary, unless what was reckoned agrees with it as well as it is known."""
        known = self._reading
        if known:
            apart_s = reading.primary_s - known.primary_s - (reading.monotonic_s - known.monotonic_s)
            if abs(apart_s) <= reading.error_s and known.error_s <= reading.error_s:
                return
        self._reading = reading

    def apart_s(self, reading: Reading) -> float:
        """How far the clock of another server of the shard is ahead of the primary's; 0.0 within what can be told."""
        known = self._reading
        if known is None:
            return 0.0
        apart_s = reading.primary_s - known.primary_s - (reading.monotonic_s - known.monotonic_s)
        return apart_s if abs(apart_s) > reading.error_s + known.error_s else 0.0

    @property
    def offset_s(self) -> float | None:
        """How far the node's clock is ahead of the primary's now; None before the first measurement."""
        known = self._reading
        if known is None:
            return None
        return self._wall() - known.primary_s - (self._monotonic() - known.monotonic_s)

    @property
    def off_s(self) -> float:
        """By how much the node's clock is wrong for certain, whichever way."""
        offset_s, known = self.offset_s, self._reading
        return 0.0 if offset_s is None or known is None else max(0.0, abs(offset_s) - known.error_s)

    def ahead(self) -> timedelta | None:
        """What to take off the node's time; None for next to nothing. `shard_unavailable`, elsewhere, beyond bounds."""
        offset_s = self.offset_s or 0.0
        if abs(offset_s) < CORRECTED_FROM_S:
            return None
        if self.off_s > REFUSED_FROM_S:
            detail = f"the clock of this node is {abs(offset_s):.0f} s off; nothing was done, another node may take it"
            raise ProblemError("shard_unavailable", detail, elsewhere=True)
        return timedelta(seconds=offset_s)

    def now(self) -> datetime:
        """The primary's time; `shard_unavailable` as of `ahead`."""
        return datetime.fromtimestamp(self._wall(), UTC) - (self.ahead() or timedelta())
