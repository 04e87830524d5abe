"""How much of a node another region may hold: some of its places, and none while it does not answer.

What is sent to a frozen region waits until its deadline. So one region gets a quarter of the places, all of them
half, and one that lets request after request wait is left alone: nobody is sent there for a moment, then a single
one, and what comes of it decides for the others.
"""

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import structlog

from shard_router.errors import ProblemError

SLOW_S: Final = 0.9
"""A failure that took as long speaks against the region. One that came sooner held up nobody: a refused connection, or
an asker in a hurry, who must not shut a region for all others."""
FAILURES_MAX: Final = 5
REST_S: Final = 2.0
"""As long as `Retry-After` says."""


@dataclass(slots=True)
class _Compartment:
    under_way: int = 0
    failures: int = 0  # slow ones in a row
    shut_until: float = 0.0


class Bulkhead:
    """The ways to the other regions, one compartment each."""

    def __init__(self) -> None:
        self._compartments = defaultdict[str, _Compartment](_Compartment)

    def through(self, region: str, *, places: int) -> "Crossing":
        """Let a request through that asks a region, of a node with so many places, until what comes of it is told.

        `shard_unavailable` at once when too many are there or the region does not answer.
        """
        compartment, began_at = self._compartments[region], time.monotonic()
        if began_at < compartment.shut_until:
            raise ProblemError("shard_unavailable", f"region {region} does not answer")
        if compartment.under_way >= max(places // 4, 1) or self._under_way() >= max(places // 2, 1):
            raise ProblemError("shard_unavailable", f"too much is under way to region {region}")
        return Crossing(region, compartment, began_at)

    def _under_way(self) -> int:
        return sum(compartment.under_way for compartment in self._compartments.values())


class Crossing:
    """A request that was let through. It is told what comes of it once, by `answered` or as the block of a `with`."""

    __slots__ = ("_began_at", "_compartment", "_on_trial", "_region")

    def __init__(self, region: str, compartment: _Compartment, began_at: float) -> None:
        self._region, self._compartment, self._began_at = region, compartment, began_at
        self._on_trial = compartment.failures >= FAILURES_MAX
        if self._on_trial:
            compartment.shut_until = math.inf
        compartment.under_way += 1

    def __enter__(self) -> None:
        """Begin what is to be counted by its end."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Count how it has ended."""
        if error is None:
            self.answered()
        else:
            self._failed(time.monotonic() - self._began_at)

    def answered(self) -> None:
        """Count an answer."""
        compartment = self._compartment
        compartment.under_way -= 1
        if compartment.failures >= FAILURES_MAX:
            structlog.get_logger().info("region_answers_again", region=self._region)
        compartment.failures, compartment.shut_until = 0, 0.0

    def _failed(self, took_s: float) -> None:
        compartment = self._compartment
        compartment.under_way -= 1
        if took_s >= SLOW_S:
            compartment.failures += 1
            if compartment.failures >= FAILURES_MAX:
                compartment.shut_until = time.monotonic() + REST_S
            if compartment.failures == FAILURES_MAX:
                structlog.get_logger().warning("region_left_alone", region=self._region)
        elif self._on_trial:
            compartment.shut_until = 0.0  # it decided nothing: the next one tries
