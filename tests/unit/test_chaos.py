"""The schedule of a campaign: one seed, one order."""

from benchmarks.chaos import Result, schedule
from benchmarks.chaos_client import Log
from benchmarks.chaos_fault import FAULTS


def test_a_seed_gives_the_same_faults_in_the_same_order() -> None:
    assert schedule(7, 100) == schedule(7, 100)
    assert schedule(7, 100) != schedule(8, 100)


def test_every_kind_comes_once_before_any_comes_twice() -> None:
    assert len(FAULTS) >= 30
    assert set(schedule(1, len(FAULTS))) == set(FAULTS)


def test_the_first_divergence_is_what_a_till_saw() -> None:
    result = Result(Log(divergences=["seen"]), failures=["found later"])
    assert result.first == "seen"
    assert Result(Log()).first is None
