"""Percentiles, and how a run's own lateness makes it void."""

import pytest

from benchmarks.latency import MICROSECONDS_MAX, Latency, percentile_of
from benchmarks.load import NANOSECONDS, Flow, Run, Samples, constant_schedule, drive, poisson_schedule, void_reasons


def samples_of(*, latency_us: int, lateness_us: int, count: int = 1000) -> Samples:
    samples = Samples()
    for number in range(count):
        samples.record(scheduled_ns=number * 1000, lateness_ns=lateness_us * 1000, latency_ns=latency_us * 1000)
    return samples


def test_percentiles_are_within_a_thousandth_of_the_exact_ones() -> None:
    latency = Latency(range(1, 100_001))
    for percentile in (50.0, 90.0, 99.0, 99.9):
        assert latency.at_ms(percentile) == pytest.approx(percentile, rel=2e-3)
    assert latency.count == 100_000


def test_adding_two_distributions_is_recording_all_values_in_one() -> None:
    fast, slow, both = Latency(range(1, 500)), Latency(range(500, 1000)), Latency(range(1, 1000))
    fast.add(slow)
    assert fast.summary() == both.summary()


def test_nothing_recorded_is_zero_and_not_an_error() -> None:
    assert Latency().summary() == {
        "count": 0,
        "p50": 0.0,
        "p90": None,
        "p99": None,
        "p99.9": None,
        "p99.99": None,
        "max": 0,
    }
    assert Latency().curve() == []


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, ["p50"]),
        (30, ["p50", "p90"]),
        (300, ["p50", "p90", "p99"]),
        (2999, ["p50", "p90", "p99"]),
        (3000, ["p50", "p90", "p99", "p99.9"]),
    ],
)
def test_a_percentile_is_told_when_enough_lie_beyond_it(count: int, told: list[str]) -> None:
    summary = Latency([5] * count).summary()
    assert [name for name, value in summary.items() if name.startswith("p") and value is not None] == told


def test_a_duration_beyond_the_range_counts_as_the_longest() -> None:
    assert Latency([MICROSECONDS_MAX * 10]).max_ms == pytest.approx(MICROSECONDS_MAX / 1000, rel=1e-3)


def test_the_curve_ends_with_the_longest_and_never_falls() -> None:
    curve = Latency(range(1, 10_001)).curve()
    assert curve[-1] == (100.0, pytest.approx(10.0, rel=1e-3))
    assert [ms for _, ms in curve] == sorted(ms for _, ms in curve)
    assert curve[0][0] == 0.0


@pytest.mark.parametrize(
    ("values", "percentile", "expected"),
    [([], 99, 0), ([7], 50, 7), ([3, 1, 2], 50, 2), (list(range(1, 101)), 99, 99), (list(range(1, 101)), 100, 100)],
)
def test_percentile_of_a_few_values_is_the_nearest_rank(values: list[int], percentile: float, expected: int) -> None:
    assert percentile_of(values, percentile) == expected


def test_a_constant_schedule_has_even_gaps_and_does_not_drift() -> None:
    schedule = constant_schedule(3.0, 10.0)
    assert len(schedule) == 30
    assert [schedule[0], schedule[3], schedule[27]] == [0, NANOSECONDS, 9 * NANOSECONDS]


def test_a_poisson_schedule_has_the_rate_and_repeats_with_its_seed() -> None:
    schedule = poisson_schedule(1000.0, 20.0, seed=7)
    assert len(schedule) == pytest.approx(20_000, rel=0.03)
    assert schedule == poisson_schedule(1000.0, 20.0, seed=7)
    assert list(schedule) == sorted(schedule)
    assert schedule[-1] < 20 * NANOSECONDS


def test_a_run_is_void_when_the_generator_was_late_by_more_than_its_share_of_the_latency() -> None:
    late = Run(1.0, samples={"query account": samples_of(latency_us=100_000, lateness_us=6_000)})
    in_time = Run(1.0, samples={"query account": samples_of(latency_us=100_000, lateness_us=4_000)})
    assert "sent 6.00 ms late" in void_reasons(late)[0]
    assert void_reasons(in_time) == []


def test_lateness_below_a_millisecond_voids_nothing() -> None:
    assert void_reasons(Run(1.0, samples={"query": samples_of(latency_us=500, lateness_us=900)})) == []


def test_a_run_is_void_when_the_generator_used_up_its_core() -> None:
    assert void_reasons(Run(1.0, cpu={"generator": 0.81})) == ["the generator used 81% of its core"]
    assert void_reasons(Run(1.0, cpu={"generator": 0.79})) == []


def test_a_failed_request_is_an_error_and_no_latency() -> None:
    samples = Samples()
    samples.record(scheduled_ns=0, lateness_ns=0, latency_ns=5_000_000, code="overloaded")
    samples.record(scheduled_ns=0, lateness_ns=0, latency_ns=7_000_000)
    assert samples.offered == 2
    assert dict(samples.errors) == {"overloaded": 1}
    assert samples.latency().count == 1


def test_groups_gather_their_kinds() -> None:
    run = Run(1.0, samples={"command": samples_of(latency_us=9, lateness_us=0), "query account": Samples()})
    run.samples["query member"] = samples_of(latency_us=5, lateness_us=0, count=3)
    assert run.groups() == ["command", "query"]
    assert run.of("query").offered == 3


async def test_a_stall_shows_in_every_request_that_was_due_during_it() -> None:
    import asyncio  # noqa: PLC0415 - only this test drives a loop
    import time  # noqa: PLC0415

    async def shoot(index: int) -> str:
        if index == 5:
            stall_ends_at = time.monotonic() + 0.2
            while time.monotonic() < stall_ends_at:
                pass
        await asyncio.sleep(0)
        return "ok"

    run = await drive([Flow(constant_schedule(100.0, 0.5), shoot, lambda _: "query")], duration_s=0.5)
    stalled = [latency for latency in run.of("query").latency_us if latency > 20_000]
    assert len(stalled) >= 15  # 18 were due in the 180 ms that were left of it
