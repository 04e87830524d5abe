"""Live numbers of a replay: what the screen shows and the summary tells. One board, one event loop, no locks."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.latency import Latency, percentile_of

WINDOW_S: Final = 5
HISTORY_S: Final = 40


@dataclass(slots=True)
class Recent:
    """Durations of the last few seconds, beside the histogram of all."""

    total: Latency = field(default_factory=Latency)
    _values: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def record(self, seconds: float, now: float) -> None:
        """Count a duration."""
        microseconds = int(seconds * 1_000_000)
        self.total.record_us(microseconds)
        self._values.append((now, microseconds))

    def percentiles_ms(self, now: float) -> tuple[float, float] | None:
        """Median and 99th percentile of the last seconds; None when nothing happened."""
        while self._values and self._values[0][0] < now - WINDOW_S:
            self._values.popleft()
        values = [value for _, value in self._values]
        return (percentile_of(values, 50) / 1000, percentile_of(values, 99) / 1000) if values else None


@dataclass(slots=True)
class RegionBoard:
    """One region: where the shop is, not where the member lives."""

    posted: int = 0
    forwarded: int = 0
    command: Recent = field(default_factory=Recent)
    query: Recent = field(default_factory=Recent)
    visible: Recent = field(default_factory=Recent)
    per_second: deque[tuple[int, int]] = field(default_factory=lambda: deque[tuple[int, int]](maxlen=HISTORY_S))
    """(second, baskets posted in it), oldest first; quiet seconds are absent."""

    @property
    def forwarded_share(self) -> float:
        """Part of the commands that another region decided."""
        return self.forwarded / self.posted if self.posted else 0.0

    def rate(self, now: float) -> float:
        """Baskets per second over the last full seconds."""
        second = int(now)
        return sum(count for at, count in self.per_second if second - WINDOW_S <= at < second) / WINDOW_S

    def rates(self, now: float) -> list[int]:
        """Baskets of each of the last seconds, the unfinished one left out."""
        counts = dict(self.per_second)
        second = int(now)
        return [counts.get(at, 0) for at in range(second - HISTORY_S + 1, second)]


class Board:
    """What happened so far."""

    def __init__(self, regions: Iterable[str], total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.regions = {region: RegionBoard() for region in regions}
        self.total = total
        self.clock = clock
        self.started_at = clock()
        self._finished_at: float | None = None
        self.baskets = 0
        self.purchases = 0
        self.returns = 0
        self.enrolled = 0
        self.replayed = 0
        self.points = 0
        self.last_member: str | None = None
        """Member id of somebody whose purchase was accepted, to try things with."""
        self.problems: Counter[str] = Counter()
        """By code: commands refused or given up, and, marked `read:`, looks that failed."""
        self.retried: Counter[str] = Counter()

    @property
    def elapsed_s(self) -> float:
        """Since the board was made, until it was finished."""
        return (self._finished_at or self.clock()) - self.started_at

    def finish(self) -> None:
        """Stop the clock."""
        self._finished_at = self.clock()

    def posted(self, region: str, seconds: float, *, decided_in: str | None) -> None:
        """A command was answered with yes."""
        now = self.clock()
        row = self.regions[region]
        row.posted += 1
        row.forwarded += decided_in != region
        row.command.record(seconds, now)
        second = int(now)
        count = row.per_second.pop()[1] if row.per_second and row.per_second[-1][0] == second else 0
        row.per_second.append((second, count + 1))

    def read(self, region: str, seconds: float) -> None:
        """A query was answered."""
        self.regions[region].query.record(seconds, self.clock())

    def seen(self, region: str, seconds: float) -> None:
        """A committed version showed in the view of its home region."""
        self.regions[region].visible.record(seconds, self.clock())
