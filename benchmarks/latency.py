"""Latencies as HdrHistograms of microseconds: recorded once, merged by adding, percentiles never averaged."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from hdrh.histogram import HdrHistogram

MICROSECONDS_MAX: Final = 60_000_000
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 99.99)
BEYOND_MIN: Final = 3
"""A percentile is told when at least so many values lie beyond it: p99 of 300, p99.9 of 3,000."""
_SIGNIFICANT_FIGURES: Final = 3
_CURVE_STEPS_PER_HALF: Final = 5


class Latency:
    """A distribution of durations from 1 us to a minute, exact to three figures."""

    def __init__(self, microseconds: Iterable[int] = ()) -> None:
        self._histogram: Any = HdrHistogram(1, MICROSECONDS_MAX, _SIGNIFICANT_FIGURES)
        for value in microseconds:
            self.record_us(value)

    def record_us(self, microseconds: int) -> None:
        """Count one duration; what is beyond a minute counts as a minute."""
        self._histogram.record_value(min(max(microseconds, 1), MICROSECONDS_MAX))

    def add(self, other: "Latency") -> None:
        """Count everything the other has counted."""
        self._histogram.add(other._histogram)  # noqa: SLF001 - the same class

    @property
    def count(self) -> int:
        """How many were counted."""
        return int(self._histogram.get_total_count())

    @property
    def max_ms(self) -> float:
        """The longest, in milliseconds; 0 when nothing was counted."""
        return float(self._histogram.get_max_value()) / 1000 if self.count else 0.0

    def at_ms(self, percentile: float) -> float:
        """The duration in milliseconds that this percentage did not exceed; 0 when nothing was counted."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1000 if self.count else 0.0

    def tells(self, percentile: float) -> bool:
        """Whether enough values lie beyond a percentile; the median is told of any."""
        return percentile <= 50 or round(self.count * (100 - percentile) / 100, 6) >= BEYOND_MIN  # noqa: PLR2004 - the median

    def summary(self) -> dict[str, float | None]:
        """`count`, `p50` ... `p99.99` and `max`, in milliseconds; None where too few lie beyond."""
        rows = {f"p{at:g}": self.at_ms(at) if self.tells(at) else None for at in PERCENTILES}
        return {"count": self.count, **rows, "max": self.max_ms}

    def curve(self) -> list[tuple[float, float]]:
        """Points (percentile, milliseconds) whose distance to 100 % halves every few steps: the HdrHistogram plot."""
        if not self.count:
            return []
        distances: list[float] = []
        distance = 100.0
        while distance * self.count >= 100 * BEYOND_MIN:
            distances.append(distance)
            distance /= 2 ** (1 / _CURVE_STEPS_PER_HALF)
        wanted = [100 - distance for distance in distances]
        values: dict[float, int] = self._histogram.get_percentile_to_value_dict(wanted)
        return [(percentile, values[percentile] / 1000) for percentile in wanted] + [(100.0, self.max_ms)]


def percentile_of(values: Sequence[int], percentile: float) -> int:
    """The nearest-rank percentile of a few values (an interval of a second); 0 of none."""
    if not values:
        return 0
    rank = max(-(-len(values) * percentile // 100), 1)
    return sorted(values)[int(rank) - 1]
