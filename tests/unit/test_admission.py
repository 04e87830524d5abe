"""Limits follow the delay, and the first classes are shed last: with a clock that goes when told to."""

import math

import pytest

from service.admission import INTERVAL_S, LIMIT_MIN, TARGET_S, Gate, Rank
from shard_router.errors import ProblemError

LIMIT_MAX = 512


class World:
    """A gate and its time."""

    def __init__(self, *, first: Rank = Rank.SPEND) -> None:
        self.now, self.oldest_s = 1_000.0, 0.0
        self.gate = Gate("shard", LIMIT_MAX, first=first, stuck_for=lambda: self.oldest_s, clock=lambda: self.now)

    def interval(self, *waited_s: float) -> None:
        """An interval in which so long was waited."""
        for one in waited_s:
            self.gate.note(one)
        self.now += INTERVAL_S
        self.gate.admits(Rank.SPEND)

    def fill(self, rank: Rank) -> int:
        """How many of a class get in."""
        entered = 0
        while self.gate.admits(rank):
            self.gate.enter(rank)
            entered += 1
        return entered


def test_a_queue_that_stays_halves_the_limit_each_interval_down_to_a_batch() -> None:
    world = World()
    world.fill(Rank.SPEND)
    limits: list[float] = []
    for _ in range(5):
        world.interval(1.0, 2.0)
        limits.append(world.gate.limit)
    assert limits == [256, 128, 64, LIMIT_MIN, LIMIT_MIN]


def test_a_queue_a_little_too_long_costs_a_little() -> None:
    world = World()
    world.fill(Rank.SPEND)
    world.interval(TARGET_S * 1.25)
    assert math.isclose(world.gate.limit, LIMIT_MAX * 0.8)


def test_one_who_hardly_waited_shows_that_the_queue_does_not_stay() -> None:
    world = World()
    world.fill(Rank.SPEND)
    world.interval(1.0, TARGET_S / 2, 1.0)
    assert world.gate.limit == LIMIT_MAX


def test_a_stuck_shard_is_seen_though_nothing_begins() -> None:
    world = World()
    world.fill(Rank.SPEND)
    world.oldest_s = 0.3
    for _ in range(4):
        world.interval()
    assert world.gate.limit == LIMIT_MIN


def test_the_limit_comes_back_within_five_seconds_where_it_is_asked_for() -> None:
    world = World()
    world.fill(Rank.SPEND)
    for _ in range(5):
        world.interval(1.0)
    for _ in range(int(5 / INTERVAL_S)):
        world.interval(0.0)
    assert world.gate.limit == LIMIT_MAX


def test_a_limit_that_nobody_reaches_does_not_grow() -> None:
    world = World()
    world.interval(1.0)
    for _ in range(50):
        world.interval(0.0)
    assert world.gate.limit == LIMIT_MIN


def test_the_first_to_be_shed_are_reports_and_the_last_are_spends() -> None:
    world = World()
    entered = [world.fill(rank) for rank in (Rank.REPORT, Rank.READ, Rank.EARN, Rank.SPEND)]
    assert all(entered)
    assert sum(entered) == LIMIT_MAX
    for rank in Rank:
        with pytest.raises(ProblemError, match="overloaded"):
            world.gate.enter(rank)


def test_reads_have_all_of_a_node_that_does_nothing_before_them() -> None:
    assert World(first=Rank.READ).fill(Rank.READ) == LIMIT_MAX


def test_who_leaves_makes_room() -> None:
    world = World()
    world.fill(Rank.SPEND)
    world.gate.leave()
    assert world.fill(Rank.SPEND) == 1
