"""Scenario files, and what a flood's figures are made of."""

import math
from pathlib import Path

import pytest

from benchmarks.bench import adjusted, known_names
from benchmarks.course import flood_notes, recovery_s
from benchmarks.load import Run, Samples
from benchmarks.peer import Peak
from benchmarks.scenario import Scenario, ScenarioError, names, read_scenario
from tests.project import PROJECT


@pytest.mark.parametrize("name", names())
def test_each_scenario_that_comes_along_can_be_read(name: str) -> None:
    found, scenario = read_scenario(name)
    assert found == name
    assert scenario.text


def test_the_scenarios_of_the_readme_are_those_that_come_along() -> None:
    readme = (PROJECT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert not [name for name in known_names() if f"`{name}`" not in readme]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "text"),
        ('text = "x"', "exactly one of rates, steps, flood, grow"),
        ('text = "x"\nsteps = "command"\nflood = [3]', "here: steps, flood"),
        ('text = "x"\nrates = { command = 0 }', "rates.command"),
        ('text = "x"\nrates = { report = 1 }', "rates.report"),
        ('text = "x"\nrates = { command = 1 }\nspeed = 1', "speed"),
        ('text = "x"\nrates = { command = 1 }\n[traffic]\naway_share = 1.1', "away_share"),
        ('text = "x"\nrates = { command = 1 }\n[traffic]\ncommands = { steal = 1 }', "commands.steal"),
        ('text = "x"\nrates = { command = 1 }\nduration_s = 5\nfreeze_at_s = 5', "before the end of duration_s"),
        ('text = "x"\ngrow = [1000, 100]', "members grow"),
        ("text = ", "Invalid value"),
    ],
)
def test_a_file_that_is_none_is_told_in_words(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=why):
        read_scenario(str(path))


def test_an_unknown_name_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="no scenario nightly: there are app-morning"):
        read_scenario("nightly")
    with pytest.raises(ScenarioError, match="no scenario"):
        read_scenario(str(tmp_path / "absent.toml"))


def test_a_rate_given_keeps_the_proportion_and_drops_the_targets() -> None:
    _, mixed = read_scenario("mixed")
    assert adjusted(mixed, rate=50, duration_s=3).rates == {"command": 50, "query": 250}
    assert adjusted(mixed, rate=50, duration_s=3).targets is None
    assert adjusted(mixed, rate=None, duration_s=3).targets == mixed.targets
    _, queries = read_scenario("queries")
    assert queries.steps == "query"
    assert adjusted(queries, rate=50, duration_s=None).rates == {"query": 50}


def test_the_duration_given_bounds_the_warm_up() -> None:
    scenario = Scenario(text="x", rates={"query": 1}, warm_up_s=5)
    assert adjusted(scenario, rate=None, duration_s=2).warm_up_s == 2


def answered(samples: Samples, at_ms: int, *, took_ms: int = 1, code: str = "ok") -> None:
    samples.record(scheduled_ns=at_ms * 1_000_000, lateness_ns=0, latency_ns=took_ms * 1_000_000, code=code)


def test_goodput_is_counted_over_the_time_that_sending_took() -> None:
    samples = Samples()
    for number in range(100):
        answered(samples, number, took_ms=5, code="ok" if number < 40 else "overloaded")
    run = Run(1.0, sent_s=2.0, samples={"command": samples}, cpu={"node": 0.5, "backend": 0.1, "generator": 0.9})
    notes = flood_notes(run, Peak(25.0, "", {"node": 20_000, "backend": 4_000, "generator": 1_000}))
    assert notes["goodput_to_peak"] == 40 / 2 / 25
    assert notes["sent_to_peak"] == 100 / 2 / 25
    assert notes["refused_p99_ms"] == 5
    assert math.isclose(notes["goodput_per_cpu_to_peak"], 0.8)  # 24 ms of CPU a purchase, 30 in the flood


def test_recovery_ends_with_the_last_bad_half_second() -> None:
    samples = Samples()
    for at_ms in range(0, 3000, 10):
        answered(samples, at_ms)
    assert recovery_s(samples, slow_ms=2) == 0.0
    answered(samples, 700, took_ms=3)
    answered(samples, 710, code="overloaded")
    assert recovery_s(samples, slow_ms=2) == 1.0
    answered(samples, 2100, took_ms=3)  # one slow answer of fifty is the tail, not a queue
    assert recovery_s(samples, slow_ms=2) == 1.0
