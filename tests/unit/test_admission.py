"""Limits follow the delay, and the first classes are shed last: with a clock that goes when told to."""

import math

import pytest

from service.admission import INTERVAL_S, TARGET_S, Gate, Rank
from shard_router.errors import ProblemError

LIMIT_MAX, CALM = 512, 128


class World:
    """A gate and its time."""

    def __init__(self, *, calm: int | None = None, first: Rank = Rank.SPEND) -> None:
        self.now, self.oldest_s = 1_000.0, 0.0
        self.gate = Gate(
            "shard", LIMIT_MAX, calm=calm, first=first, stuck_for=lambda: self.oldest_s, clock=lambda: self.now
        )

    def interval(self, *waited_s: float) -> None:
        """An interval in which so long was waited."""
        for one in waited_s:
            self.gate.note(one)
        self.now += INTERVAL_S
        self.gate.note(math.inf)

    def fill(self, rank: Rank) -> int:
        """How many of a class get in."""
        entered = 0
        while self.gate.admits(rank):
            self.gate.enter(rank)
            entered += 1
        return entered

    def grow(self) -> None:
        """Press against the limit until it is the highest."""
        while self.gate.limit < LIMIT_MAX:
            self.fill(Rank.SPEND)
            self.interval(0.0)


def test_a_queue_that_stays_halves_the_limit_each_interval_down_to_the_calm_one() -> None:
    world = World(calm=CALM)
    world.grow()
    limits: list[float] = []
    for _ in range(4):
        world.fill(Rank.SPEND)
        world.interval(1.0, 2.0)
        limits.append(world.gate.limit)
    assert limits == [LIMIT_MAX / 2, CALM, CALM, CALM]


def test_a_queue_that_stays_is_no_flood_while_nobody_is_refused() -> None:
    """The closed loop of some clients waits for itself: refused, they would only ask again."""
    world = World(calm=CALM)
    for _ in range(CALM // 2):
        world.gate.enter(Rank.SPEND)
    for _ in range(5):
        world.interval(1.0)
    assert world.gate.limit == CALM


def test_a_limit_that_has_grown_falls_to_the_calm_one_where_a_queue_stays() -> None:
    world = World(calm=CALM)
    world.grow()
    for _ in range(5):
        world.interval(1.0)
    assert world.gate.limit == CALM


def test_a_queue_a_little_too_long_costs_a_little() -> None:
    world = World(calm=CALM)
    world.grow()
    world.fill(Rank.SPEND)
    world.interval(TARGET_S * 1.25)
    assert math.isclose(world.gate.limit, LIMIT_MAX * 0.8)


def test_one_who_hardly_waited_shows_that_the_queue_does_not_stay() -> None:
    world = World()
    world.fill(Rank.SPEND)
    world.interval(1.0, TARGET_S / 2, 1.0)
    assert world.gate.limit == LIMIT_MAX


def test_a_stuck_shard_is_seen_though_nothing_begins() -> None:
    world = World(calm=CALM)
    world.grow()
    world.oldest_s = 0.3
    for _ in range(4):
        world.fill(Rank.SPEND)
        world.interval()
    assert world.gate.limit == CALM


def test_the_limit_comes_back_within_five_seconds_where_it_is_asked_for() -> None:
    world = World(calm=CALM)
    for _ in range(5):
        world.fill(Rank.SPEND)
        world.interval(1.0)
    for _ in range(int(5 / INTERVAL_S)):
        world.fill(Rank.SPEND)
        world.interval(0.0)
    assert world.gate.limit == LIMIT_MAX


def test_a_flood_that_is_over_leaves_no_low_limit_to_those_who_wait_for_themselves() -> None:
    world = World(calm=CALM)
    for _ in range(5):
        entered = world.fill(Rank.SPEND)
        world.interval(1.0)
        for _ in range(entered - 1):
            world.gate.leave()
    for _ in range(20):
        world.interval(1.0)
    assert world.gate.limit == CALM


@pytest.mark.parametrize("waited_s", [0.0, 1.0], ids=["high", "low"])
def test_a_limit_that_nobody_reaches_goes_to_the_calm_one(waited_s: float) -> None:
    """What a flood finds open is done late: so much is let in before anybody sees that it is one."""
    world = World(calm=CALM)
    for _ in range(50):
        entered = world.fill(Rank.SPEND)
        world.interval(waited_s)
        for _ in range(entered):
            world.gate.leave()
    assert world.gate.limit == (CALM if waited_s else LIMIT_MAX)
    for _ in range(50):
        world.interval(0.0)
    assert world.gate.limit == CALM


def test_a_limit_is_the_calm_one_after_a_second_in_which_nobody_asked() -> None:
    world = World(calm=CALM)
    for _ in range(5):
        entered = world.fill(Rank.SPEND)
        world.interval(1.0)
        for _ in range(entered):
            world.gate.leave()
    world.now += 2.0
    assert world.fill(Rank.SPEND) == CALM


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
