"""The time of a shard as a node reckons it from what the primary told."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from command.envelope import Envelope
from command.store import _dated
from rules.command import ReversePurchase
from shard_router.clock import Reading, ShardClock
from shard_router.errors import ProblemError


@dataclass
class World:
    """The true time, which is the primary's, and a node's two clocks."""

    true_s: float = 1_000.0
    ahead_s: float = 0.0
    asleep_s: float = 0.0

    def clock(self) -> ShardClock:
        return ShardClock(lambda: self.true_s + self.ahead_s, lambda: self.true_s - 500 - self.asleep_s)

    def look(self, clock: ShardClock, *, there_and_back_s: float = 0.002, slow_way_back: bool = False) -> Reading:
        begun = clock.begin()
        self.true_s += 0 if slow_way_back else there_and_back_s / 2
        told = self.true_s
        self.true_s += there_and_back_s if slow_way_back else there_and_back_s / 2
        reading = clock.read(begun, told)
        clock.heard(reading)
        return reading


def test_before_the_primary_has_told_the_node_goes_by_its_own_clock() -> None:
    world = World(ahead_s=99)
    clock = world.clock()
    assert (clock.offset_s, clock.off_s, clock.ahead()) == (None, 0.0, None)
    assert clock.now() == datetime.fromtimestamp(1_099, UTC)


@pytest.mark.parametrize("ahead_s", [-9.0, -1.5, 0.2, 8.0])
def test_a_clock_within_bounds_is_corrected_to_the_primarys(ahead_s: float) -> None:
    world = World(ahead_s=ahead_s)
    clock = world.clock()
    world.look(clock)
    assert clock.offset_s == pytest.approx(ahead_s, abs=0.001)
    assert abs((clock.now() - datetime.fromtimestamp(world.true_s, UTC)).total_seconds()) < 0.002


@pytest.mark.parametrize(("ahead_s", "slow_s", "known"), [(9.0, 0.002, True), (-9.0, 0.5, True), (0.2, 0.5, False)])
def test_how_far_two_servers_are_apart_is_told_beyond_what_measuring_may_be_wrong_by(
    ahead_s: float, slow_s: float, *, known: bool
) -> None:
    world = World(ahead_s=99)
    clock, standby = world.clock(), Reading(0, 0, 0, 0)
    assert clock.apart_s(standby) == 0.0
    world.look(clock)
    begun = clock.begin()
    world.true_s += slow_s / 2
    told_s = world.true_s + ahead_s
    world.true_s += slow_s / 2
    standby = clock.read(begun, told_s)
    assert clock.apart_s(standby) == pytest.approx(ahead_s if known else 0.0, abs=slow_s)
    assert (clock.apart_s(standby) != 0.0) is known
    assert clock.offset_s == pytest.approx(99, abs=0.01)


def test_next_to_nothing_is_not_corrected() -> None:
    world = World(ahead_s=0.04)
    clock = world.clock()
    world.look(clock)
    assert clock.ahead() is None


@pytest.mark.parametrize("ahead_s", [-3600.0, 11.0])
def test_beyond_ten_seconds_nothing_is_decided_here(ahead_s: float) -> None:
    world = World(ahead_s=ahead_s)
    clock = world.clock()
    world.look(clock)
    with pytest.raises(ProblemError) as refused:
        clock.now()
    assert (refused.value.code, refused.value.elsewhere) == ("shard_unavailable", True)


def test_a_step_shows_at_once_and_sleep_of_the_machine_too() -> None:
    world = World()
    clock = world.clock()
    world.look(clock)
    world.ahead_s = 60
    assert clock.off_s == pytest.approx(60, abs=0.01)
    world.ahead_s, world.asleep_s, world.true_s = 0, 300, world.true_s + 300
    assert clock.off_s == pytest.approx(300, abs=0.01)
    world.look(clock)
    assert clock.ahead() is None


def test_a_measurement_that_took_long_says_no_more_than_it_knows() -> None:
    world = World()
    clock = world.clock()
    world.look(clock, there_and_back_s=24, slow_way_back=True)
    assert clock.offset_s == pytest.approx(12)
    assert clock.off_s == pytest.approx(0)
    assert clock.ahead() == timedelta(seconds=12)
    world.look(clock)
    assert clock.offset_s == pytest.approx(0, abs=0.001)
    world.look(clock, there_and_back_s=2, slow_way_back=True)
    assert clock.offset_s == pytest.approx(0, abs=0.001)


def test_a_primary_that_goes_another_way_is_followed() -> None:
    world = World()
    clock = world.clock()
    world.look(clock)
    begun = clock.begin()
    clock.heard(clock.read(begun, world.true_s - 5))
    assert clock.offset_s == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("ahead_s", [5.0, 3_600.0])
def test_what_was_received_before_the_clock_was_set_back_is_not_dated_after_now(ahead_s: float) -> None:
    world = World(ahead_s=ahead_s)
    clock = world.clock()
    world.look(clock)
    received_at = datetime.fromtimestamp(world.true_s + ahead_s, UTC)
    world.true_s += 0.5
    world.ahead_s = 0.0
    command = ReversePurchase(1, received_at)
    (dated,) = _dated([Envelope(command=command, slot=0, deadline=0.0, request_id="r", credential="c")], clock)
    assert dated.command.received_at == datetime.fromtimestamp(world.true_s, UTC)
