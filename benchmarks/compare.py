"""`loyalty bench compare A B`: is B better, worse, or is it noise?

Per figure the ratio B / A with a bootstrap interval (95 %). Runs are drawn first, then seconds within each (what
happens in one second hangs together), then the percentile of what was drawn is taken. An interval that holds 1 is
noise. With one run on a side it says nothing about how runs differ, and the table says so.
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.latency import percentile_of

DRAWS: Final = 1000
INTERVAL: Final = (2.5, 97.5)
PERCENTILES: Final = (50.0, 99.0)
_SEED: Final = 1

Second = Sequence[int]
"""Latencies of one second in microseconds."""


class CompareError(Exception):
    """Two sides that cannot be compared; the text says why."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of B in parts of A's."""

    what: str
    a: float
    b: float
    low: float
    high: float
    higher_is_better: bool = False

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `noise`; `one value` where there is nothing to draw from."""
        if self.low == -math.inf:
            return "one value"
        if self.low <= 1 <= self.high:
            return "noise"
        return "better" if (self.low > 1) == self.higher_is_better else "worse"


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The run of a file, or all of a folder: its own run.json, or every *.json in it."""
    files = [path]
    if path.is_dir():
        files = [path / "run.json"] if (path / "run.json").is_file() else sorted(path.glob("*.json"))
    try:
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    except (OSError, ValueError) as error:
        raise CompareError(f"{path}: {error}") from error
    if not runs or not all(isinstance(run, dict) and ("stages" in run or "figures" in run) for run in runs):
        raise CompareError(f"{path}: no run of `loyalty bench` in it")
    return runs


def compare_runs(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Every figure that both sides have; CompareError when there is none."""
    chance = random.Random(_SEED)
    ours, theirs = _latencies(a), _latencies(b)
    differences = [
        _latency(what, percentile, ours[what], theirs[what], chance)
        for what in ours
        if what in theirs
        for percentile in PERCENTILES
    ]
    figures, others = _figures(a), _figures(b)
    for what, (values, higher_is_better) in figures.items():
        if what in others:
            low, high = -math.inf, math.inf
            if min(len(values), len(others[what][0])) > 1:
                low, high = _interval(lambda side: _median(chance.choices(side, k=len(side))), values, others[what][0])
            first, second = _median(values), _median(others[what][0])
            differences.append(Difference(what, first, second, low, high, higher_is_better))
    if not differences:
        raise CompareError("the two have no stage and no figure in common")
    return differences


def table(differences: Sequence[Difference], *, runs: tuple[int, int]) -> Table:
    """For the terminal."""
    caption = f"{runs[0]} and {runs[1]} runs"
    if min(runs) == 1:
        caption += "; one run says nothing about how runs differ: compare several of each, taken in turn"
    shown = Table("figure", box=None, caption=caption, caption_justify="left")
    for name in ("A", "B", "B / A", "95 %"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("")
    for one in differences:
        ratio = f"{one.b / one.a:.2f}" if one.a else "-"
        interval = f"{one.low:.2f}-{one.high:.2f}" if math.isfinite(one.low) else "-"
        shown.add_row(one.what, f"{one.a:,.2f}", f"{one.b:,.2f}", ratio, interval, one.verdict)
    return shown


def _latency(
    what: str, percentile: float, a: Sequence[Sequence[Second]], b: Sequence[Sequence[Second]], chance: random.Random
) -> Difference:
    def drawn(side: Sequence[Sequence[Second]]) -> float:
        runs = chance.choices(side, k=len(side))
        return _percentile([second for run in runs for second in chance.choices(run, k=len(run))], percentile)

    low, high = _interval(drawn, a, b)
    first, second = (_percentile([second for run in side for second in run], percentile) for side in (a, b))
    return Difference(f"{what} p{percentile:g} ms", first / 1000, second / 1000, low, high)


def _interval(drawn: Callable[[Any], float], a: Any, b: Any) -> tuple[float, float]:
    ratios = sorted(drawn(b) / max(drawn(a), 1e-9) for _ in range(DRAWS))
    low, high = (ratios[min(int(DRAWS * percent / 100), DRAWS - 1)] for percent in INTERVAL)
    return low, high


def _percentile(seconds: Sequence[Second], percentile: float) -> float:
    return float(percentile_of([value for second in seconds for value in second], percentile))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _latencies(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[list[Second]]]:
    """Stage and group -> runs -> seconds -> latencies."""
    found: dict[str, list[list[Second]]] = {}
    for run in runs:
        for stage in run.get("stages", ()):
            for group, figures in stage["groups"].items():
                seconds = [second["sample_us"] for second in figures["seconds"] if second.get("sample_us")]
                if seconds:
                    found.setdefault(f"{stage['name']}: {group}", []).append(seconds)
    return found


def _figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], bool]]:
    """Rows of `loyalty bench targets`: name -> values of all runs, and whether more is better."""
    found: dict[str, tuple[list[float], bool]] = {}
    for run in runs:
        for row in run.get("figures", ()):
            values, _ = found.setdefault(row["what"], ([], row["higher_is_better"]))
            values.extend(row["values"])
    return {what: entry for what, entry in found.items() if entry[0]}
