"""The table of targets as a document for programs (`compare` reads it) and as Markdown to put into the docs."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.report import machine, versions
from benchmarks.targets import Measured, Table, medians

NOT_HERE: Final = {
    "growth": "measured by itself: `loyalty bench growth`",
    "real year": "measured by itself: `BASKETS=all make demo`",
}
_BARE: Final = "bare aiohttp"


def document(measured: Measured, table: Table, *, source: str) -> dict[str, Any]:
    """All that was measured. `figures` are the rows with a value, as `bench compare` takes them."""
    bare_per_s = _median_rate(measured, _BARE)
    scale = table.scale(bare_per_s)
    values = medians(measured)
    rows = [
        {
            "what": row.what,
            "value": values.get(row.key),
            "target": row.limit(scale),
            "higher_is_better": row.at_least is not None,
            "met": row.met(values[row.key], scale) if row.key in values else None,
            "values": measured.values.get(row.key, []),
            "why": NOT_HERE.get(row.key, "") if row.key not in values else "",
        }
        for row in table.row
    ]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cdc": source,
        "machine": {name: value for name, value in machine().items() if name != "system"},
        "versions": versions(),
        "bare_per_s": bare_per_s,
        "scale": scale,
        "rows": rows,
        "figures": [row for row in rows if row["values"]],
        "per_s": {name: _median_rate(measured, name) for name in measured.peaks},
        "how": {name: peaks[-1].how for name, peaks in measured.peaks.items()},
        "cpu_us": {name: _cpu(measured, name) for name in measured.peaks},
        "busy": measured.busy,
        "sent_x10": values.get("sent x10"),
        "missing": measured.missing,
        "wrong": measured.wrong,
        "errors": measured.errors,
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Two tables: what is demanded, and where the CPU of a request goes."""
    host = report["machine"]
    scale = report["scale"]
    said = "" if scale == 1 else f", so limits in ms are {scale:.2f} times those of the table of targets"
    where = f"{report['at']}, {report['cdc']}, {host['cpu']}, {host['cores']} cores"
    yardstick = f"Bare aiohttp gave {report['bare_per_s']:,.0f}/s{said}."
    lines = [
        f"{where}; medians of the rounds, each beside its yardsticks. {yardstick}",
        "",
        "| figure | measured | target | |",
        "|---|---:|---:|---|",
        *(_row(row) for row in report["rows"]),
        "",
        "| microseconds of CPU per request | per second | " + " | ".join(_roles(report)) + " |",
        "|---|---:|" + "---:|" * len(_roles(report)),
        *(_peak(report, name) for name in report["per_s"]),
        "",
    ]
    for name, shares in report["busy"].items():
        spent = ", ".join(f"{role} {share:.0%}" for role, share in shares.items() if share >= 0.005)  # noqa: PLR2004
        lines.append(f"- `{name}`, of a core: {spent}")
    if report["sent_x10"]:
        lines.append(f"- the generator sent {report['sent_x10']:.1f} times the peak in the flood of 10 times")
    lines += [f"- not measured: {name}: {why}" for name, why in report["missing"].items()]
    lines += [f"- errors: {', '.join(f'{code} {n}' for code, n in report['errors'].items())}"] * bool(report["errors"])
    wrong = report["wrong"]
    lines.append(f"- **wrong answers**: {'; '.join(wrong)}" if wrong else "- no wrong answer; `verify` holds")
    return "\n".join(lines) + "\n"


def write(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write both files; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"json": json.dumps(report, indent=1, ensure_ascii=False) + "\n", "md": markdown(report)}
    paths = [folder / f"targets-{report['cdc']}.{ending}" for ending in contents]
    for path, text in zip(paths, contents.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def missed(report: Mapping[str, Any]) -> list[str]:
    """What is not as demanded, in words."""
    found = [f"{row['what']}: {_number(row['value'])}" for row in report["rows"] if row["met"] is False]
    return found + list(report["wrong"])


def _row(row: Mapping[str, Any]) -> str:
    sign = "≥" if row["higher_is_better"] else "≤"
    target = "" if row["target"] is None else f"{sign} {_number(row['target'])}"
    verdict = row["why"] if row["value"] is None else {True: "met", False: "**missed**", None: ""}[row["met"]]
    return f"| {row['what']} | {_number(row['value'])} | {target} | {verdict} |"


def _peak(report: Mapping[str, Any], name: str) -> str:
    spent = report["cpu_us"][name]
    cells = " | ".join(f"{spent[role]:,.0f}" if spent.get(role) else "" for role in _roles(report))
    return f"| {name} ({report['how'][name]}) | {report['per_s'][name]:,.0f} | {cells} |"


def _roles(report: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(role for spent in report["cpu_us"].values() for role in spent))


def _median_rate(measured: Measured, name: str) -> float:
    return _median(peak.per_s for peak in measured.peaks.get(name, []))


def _cpu(measured: Measured, name: str) -> dict[str, float]:
    roles = dict.fromkeys(role for peak in measured.peaks[name] for role in peak.cpu_us)
    return {role: _median(peak.cpu_us.get(role, 0.0) for peak in measured.peaks[name]) for role in roles}


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return median(found) if found else 0.0


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three figures
