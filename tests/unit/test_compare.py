"""`bench compare`: better, worse or noise; and the table of targets."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import CompareError, Difference, compare_runs, read_runs
from benchmarks.peer import Peak
from benchmarks.targets import Measured, Row, read_table
from benchmarks.targets_report import document, markdown, missed


def run(factor: float, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    seconds = [{"sample_us": [int(factor * chance.lognormvariate(8, 0.3)) for _ in range(64)]} for _ in range(20)]
    return {"stages": [{"name": "mixed", "groups": {"command": {"seconds": seconds}}}]}


def verdicts(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[str]:
    return [one.verdict for one in compare_runs(a, b)]


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "better"), (1.0, "noise"), (1.3, "worse")])
def test_a_difference_is_told_from_noise(factor: float, verdict: str) -> None:
    a = [run(1.0, seed) for seed in range(3)]
    b = [run(factor, seed) for seed in range(10, 13)]
    assert verdicts(a, b) == [verdict, verdict]  # median and p99


def test_runs_that_differ_among_themselves_are_noise() -> None:
    a = [run(0.7, 1), run(1.3, 2), run(1.0, 3)]
    b = [run(0.8, 4), run(1.4, 5), run(1.1, 6)]
    assert verdicts(a, b) == ["noise", "noise"]


def test_of_rates_more_is_better() -> None:
    def rates(*values: float) -> list[dict[str, Any]]:
        return [{"figures": [{"what": "goodput", "values": list(values), "higher_is_better": True}]}]

    assert verdicts(rates(0.5, 0.51, 0.52), rates(0.8, 0.81, 0.82)) == ["better"]
    assert verdicts(rates(0.8, 0.81, 0.82), rates(0.5, 0.51, 0.52)) == ["worse"]
    assert verdicts(rates(0.8), rates(0.5, 0.51, 0.52)) == ["one value"]
    assert Difference("x", 1, 1, low=0.9, high=1.1).verdict == "noise"


def test_a_run_is_read_from_a_file_or_a_folder(tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps(run(1.0, 1)), encoding="utf-8")
    assert len(read_runs(tmp_path)) == 2
    assert len(read_runs(tmp_path / "one.json")) == 1


@pytest.mark.parametrize("content", ["{}", "[]", "no json", None])
def test_what_is_no_run_is_told(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(CompareError, match="run"):
        read_runs(path)


def test_two_runs_with_nothing_in_common_are_told() -> None:
    other = {"stages": [{"name": "queries", "groups": {}}]}
    with pytest.raises(CompareError, match="in common"):
        compare_runs([run(1.0, 1)], [other])


def test_only_limits_in_time_are_scaled_and_only_on_a_slower_machine() -> None:
    table = read_table()
    assert table.scale(22_000) == 1.0
    assert table.scale(5_500) == 2.0
    latency = Row(key="a", what="a", at_most=10, scaled=True)
    ratio = Row(key="b", what="b", at_most=10)
    rate = Row(key="c", what="c", at_least=10)
    assert [row.met(15, 2.0) for row in (latency, ratio, rate)] == [True, False, True]
    assert Row(key="d", what="d").met(15, 2.0) is None


def test_the_table_says_what_was_measured_missed_and_not_measured() -> None:
    measured = Measured(missing={"pgbench": "LookupError: no primary"}, wrong=["token violations: m"])
    for value in (0.9, 0.5, 0.4):
        measured.add("purchases to pgbench", value)
    measured.peaks["bare aiohttp"] = [Peak(5_500, "one process", {"node": 90.0})]
    measured.add("mixed command", 49)
    report = document(measured, read_table(), source="pgoutput")
    text = markdown(report)
    assert "| 0.5 | ≥ 0.6 | **missed** |" in text
    assert "| 49 | ≤ 50 | met |" in text
    assert "2.00 times" in text
    assert "not measured: pgbench: LookupError" in text
    assert "| - | ≥ 1,200 | measured by itself" in text
    assert missed(report) == [
        next(row["what"] for row in report["rows"] if row["met"] is False) + ": 0.5",
        "token violations: m",
    ]
