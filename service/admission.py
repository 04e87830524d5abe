"""How much a node, or a shard, may have under way: as much as it gets done without a queue that stays.

A shard's limit follows the delay, as CoDel does (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 10(5),
2012; RFC 8289): a queue does harm not when it is long for a moment, but when even the shortest wait of an interval is
above the target. Then the limit falls by as much (halves at most), otherwise it grows by a tenth while it is pressed
against (AIMD, as in Netflix' concurrency-limits). While nobody presses it goes to where it begins, as a congestion
window does (RFC 7661): what a flood finds open is done late. Classes share it as in WeChat's DAGOR (SoCC 2018): who is
shed first finds it full first.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.trial import Tried
from shard_router.errors import ProblemError

TARGET_S: Final = 0.02
"""DAGOR's bound for the time in a queue. With CoDel's 5 ms, or half of this, less gets done (decision 0074)."""
INTERVAL_S: Final = 0.1
"""CoDel's: long enough for what comes and goes in one batch."""
_GROWTH: Final = 1.1
_CUT_MAX: Final = 0.5
_PRESSED: Final = 0.8
_SHARES: Final = (1.0, 0.85, 0.7, 0.55)
"""Of the limit, for the first class of a node and the following ones."""
_QUIET_INTERVALS: Final = 10
_NOT_LOOKED_AT: Final = 2
"""Whose credential is not known yet counts too: so many times the places, or one credential would fill the limit."""
_LOOK_S: Final = 0.005
_TURN_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Rank(IntEnum):
    """Classes of requests; the first are shed last."""

    SPEND = 0
    """Spends, holds and returns: a customer stands at the till."""
    EARN = 1
    """Earns and the rest that changes something: a till can send them later."""
    READ = 2
    REPORT = 3
    """Reads that can wait: history, lists."""


class Gate:
    """The limit of one thing. `enter` and `leave` count, `note` tells how long something waited.

    `calm` is where it begins, and the least. `stuck_for` tells how long the oldest has waited,
    for intervals in which nothing gets done. `name` is a label.
    """

    def __init__(  # noqa: PLR0913 - all but two have defaults
        self,
        name: str,
        limit_max: int,
        *,
        calm: int | None = None,
        first: Rank = Rank.SPEND,
        stuck_for: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.taken = 0
        self._limit_max, self._calm = limit_max, float(min(calm or limit_max, limit_max))
        self.limit = self._calm
        self._shares = [_SHARES[max(rank - first, 0)] for rank in Rank]
        self.refusals = dict.fromkeys(Rank, 0)
        """By class, ever since."""
        self.target_s = TARGET_S
        self._stuck_for, self._clock = stuck_for, clock
        self._least_s = math.inf
        self._most_taken = 0
        self._ends_at = clock() + INTERVAL_S
        self._refused = 0
        self._quiet = _QUIET_INTERVALS

    def admits(self, rank: Rank) -> bool:
        """Whether there is room for one more of a class; no is counted."""
        now = self._clock()
        if now >= self._ends_at:
            self._turn(now)
        if self.taken < self.limit * self._shares[rank]:
            return True
        self._refused += 1
        self.refusals[rank] += 1
        return False

    def enter(self, rank: Rank) -> None:
        """Take room; `overloaded` when there is none for this class. Whoever enters leaves, whatever happens."""
        if not self.admits(rank):
            raise overloaded(self.name)
        self.take()

    def take(self) -> None:
        """Take room that there is."""
        self.taken += 1
        self._most_taken = max(self._most_taken, self.taken)

    def leave(self) -> None:
        """Give room back."""
        self.taken -= 1

    def note(self, waited_s: float) -> None:
        """Tell how long something that begins now has waited: of a batch, who waited longest."""
        now = self._clock()
        if now >= self._ends_at:
            self._turn(now)
        self._least_s = min(self._least_s, waited_s)

    def _turn(self, now: float) -> None:
        """End an interval: follow what it has shown."""
        waited_s = self._stuck_for() if self._least_s == math.inf else self._least_s
        late = waited_s > self.target_s
        if now - self._ends_at > _QUIET_INTERVALS * INTERVAL_S:  # nobody has asked since
            self.limit = self._calm
        elif late and self.limit > self._calm:
            base = min(self.limit, self._most_taken)
            self.limit = min(self.limit, max(base * max(self.target_s / waited_s, _CUT_MAX), self._calm))
        elif not late and (self._refused or self._most_taken >= self.limit * _PRESSED):
            self.limit = min(self.limit * _GROWTH, self._limit_max)
        else:
            self.limit = max(self.limit / _GROWTH, self._calm)
        self._tell()
        self._least_s, self._most_taken, self._refused = math.inf, self.taken, 0
        self._ends_at = now + INTERVAL_S

    def _tell(self) -> None:
        """Say once that refusing begins, and once that it is over."""
        if self._refused and self._quiet >= _QUIET_INTERVALS:
            structlog.get_logger().warning("overload_begins", limit=self.name, of=round(self.limit))
        self._quiet = 0 if self._refused else self._quiet + 1
        if self._quiet == _QUIET_INTERVALS:
            structlog.get_logger().info("overload_is_over", limit=self.name)


class Gates(Collector):
    """The limits of a node: its own, and one for each shard that it works for."""

    def __init__(
        self,
        limit_max: int,
        registry: CollectorRegistry,
        *,
        first: Rank = Rank.SPEND,
        target_s: float = TARGET_S,
    ) -> None:
        registry.register(self)
        self._limits = Gauge("loyalty_overload_limit", "Requests that may be under way.", ["limit"], registry=registry)
        self._taken = Gauge("loyalty_overload_under_way", "Requests that are.", ["limit"], registry=registry)
        self._limit_max, self._first, self._target_s = _NOT_LOOKED_AT * limit_max, first, target_s
        self._shards: dict[str, Gate] = {}
        self.node = self._show(Gate("node", self._limit_max, first=first))
        self.turns = Turns(registry)
        self.shard_of: Callable[[bytes, int], str | None] = lambda _data, _body_at: None
        """Names the shard here that a request not parsed yet most likely goes to; a node that has shards sets it."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Refusals by limit and class: a counter of its own for each would be a tenth of what a refusal costs."""
        refused = CounterMetricFamily(
            "loyalty_overload_refusals", "Requests refused because a limit was reached.", labels=["limit", "class"]
        )
        for gate in (self.node, *self._shards.values()):
            for rank, count in gate.refusals.items():
                if count:
                    refused.add_metric([gate.name, rank.name.lower()], count)
        yield refused

    def of_shard(self, name: str, stuck_for: Callable[[], float], *, calm: int) -> Gate:
        """The limit of a shard, made at the first time."""
        if name not in self._shards:
            gate = Gate(name, self._limit_max, calm=calm, first=self._first, stuck_for=stuck_for)
            self._shards[name] = self._show(gate)
        return self._shards[name]

    def enter(self, rank: Rank) -> "Pass":
        """Let a request in; `overloaded` when there is no room."""
        entered = self.ask(rank)
        if isinstance(entered, str):
            raise overloaded(entered)
        return entered

    def ask(self, rank: Rank, data: bytes = b"", body_at: int = 0) -> "Pass | str":
        """The same, and to its shard too where `data` shows it; or the name of what has no room.

        In a flood an exception is a good part of a refusal.
        """
        self.turns.look()
        node = self.node
        if not node.admits(rank):  # before anything is looked for in the bytes
            return node.name
        shard = self._shards.get(self.shard_of(data, body_at) or "") if data else None
        if shard is not None and not shard.admits(rank):
            return shard.name
        held = Pass(rank)
        held.take(node)
        if shard is not None:
            held.take(shard)
        return held

    def _show(self, gate: Gate) -> Gate:
        gate.target_s = self._target_s
        self._limits.labels(gate.name).set_function(lambda: gate.limit)
        self._taken.labels(gate.name).set_function(lambda: gate.taken)
        return gate


def overloaded(name: str) -> ProblemError:
    """What is said where the limit of this name is reached."""
    return ProblemError("overloaded", f"{name} has as much under way as it gets done in time")


class Turns:
    """How long the event loop takes for a turn: so long lie requests in their sockets, where nobody sees them.

    The node's limit does not follow it: who is refused makes a turn as long, nearly, as who is let in.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._next_at = 0.0
        self._seconds = Histogram(
            "loyalty_loop_turn_seconds", "Turns of the event loop, some of them.", buckets=_TURN_BUCKETS_S,
            registry=registry,
        )  # fmt: skip

    def look(self) -> None:
        """Measure the turn that begins now, if the last look is some time ago."""
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + _LOOK_S
            asyncio.get_running_loop().call_soon(self._turned, now)

    def _turned(self, began_at: float) -> None:
        self._seconds.observe(time.monotonic() - began_at)


class Pass:
    """What one request holds of the limits, and brings from a way that was tried before."""

    __slots__ = ("_held", "rank", "tried")

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.tried: Tried | None = None
        self._held: list[Gate] = []

    def enter(self, gate: Gate) -> None:
        """Enter one limit more, once."""
        if gate not in self._held:
            gate.enter(self.rank)
            self._held.append(gate)

    def take(self, gate: Gate) -> None:
        """Take room in one that has it."""
        gate.take()
        self._held.append(gate)

    def leave(self) -> None:
        """Leave them all; again does nothing."""
        while self._held:
            self._held.pop().leave()
