"""What another region may hold of a node: places by number, and nobody's time when it does not answer."""

import time
from contextlib import ExitStack, suppress

import pytest

from service.bulkhead import FAILURES_MAX, REST_S, SLOW_S, Bulkhead
from shard_router.errors import ProblemError

SLOW = SLOW_S + 0.1


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fail(bulkhead: Bulkhead, clock: Clock, *, after_s: float, region: str = "us") -> None:
    with suppress(TimeoutError), bulkhead.through(region, places=100):
        clock.now += after_s
        raise TimeoutError


def is_shut(bulkhead: Bulkhead, clock: Clock, region: str = "us") -> bool:
    try:
        fail(bulkhead, clock, after_s=0, region=region)
    except ProblemError as error:
        return error.code == "shard_unavailable"
    return False


def test_a_region_gets_a_quarter_of_the_places_and_all_regions_half() -> None:
    bulkhead = Bulkhead()
    with ExitStack() as under_way:
        for region in ("us", "ap"):
            for _ in range(2):
                under_way.enter_context(bulkhead.through(region, places=8))
            with pytest.raises(ProblemError), bulkhead.through(region, places=8):
                pass
        with pytest.raises(ProblemError), bulkhead.through("third", places=8):
            pass
    with bulkhead.through("us", places=8), bulkhead.through("third", places=8):
        pass


def test_a_small_node_still_asks_other_regions() -> None:
    with Bulkhead().through("us", places=1):
        pass


def test_slow_failures_in_a_row_shut_a_region_for_a_moment_and_no_other(clock: Clock) -> None:
    bulkhead = Bulkhead()
    for _ in range(FAILURES_MAX):
        assert not is_shut(bulkhead, clock)
        fail(bulkhead, clock, after_s=SLOW)
    assert is_shut(bulkhead, clock)
    assert not is_shut(bulkhead, clock, "ap")
    clock.now += REST_S
    assert not is_shut(bulkhead, clock)


def test_an_answer_in_between_begins_the_count_anew(clock: Clock) -> None:
    bulkhead = Bulkhead()
    for _ in range(FAILURES_MAX - 1):
        fail(bulkhead, clock, after_s=SLOW)
    with bulkhead.through("us", places=100):
        clock.now += 10
    fail(bulkhead, clock, after_s=SLOW)
    assert not is_shut(bulkhead, clock)


def test_quick_failures_say_nothing_about_a_region(clock: Clock) -> None:
    bulkhead = Bulkhead()
    for _ in range(10 * FAILURES_MAX):
        fail(bulkhead, clock, after_s=SLOW_S / 2)
    assert not is_shut(bulkhead, clock)


@pytest.mark.parametrize("outcome", ["answer", "slow failure", "quick failure"])
def test_one_tries_for_all(clock: Clock, outcome: str) -> None:
    bulkhead = Bulkhead()
    for _ in range(FAILURES_MAX):
        fail(bulkhead, clock, after_s=SLOW)
    clock.now += REST_S
    with suppress(TimeoutError), bulkhead.through("us", places=100):
        assert is_shut(bulkhead, clock), "the trial is under way"
        clock.now += SLOW if outcome == "slow failure" else 0.1
        if outcome != "answer":
            raise TimeoutError
    assert is_shut(bulkhead, clock) is (outcome == "slow failure")
