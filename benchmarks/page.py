"""The report as one HTML page that loads nothing from elsewhere: tables, and curves as inline SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_WIDTH: Final = 640
_HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 24, 14, 34
_COLOURS: Final = {"query": "var(--query)", "command": "var(--command)", "visible": "var(--visible)"}
_PERCENTILE_TICKS: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --quiet: #68727c; --line: #dfe3e8;
  --query: #0b6bcb; --command: #c2570c; --visible: #2f7d32; --bad: #b3261e; --good: #2f7d32 }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e6e9ec; --quiet: #98a2ad; --line: #2c343c;
  --query: #62a8f0; --command: #f09a5b; --visible: #74c278; --bad: #ff8a80; --good: #74c278 } }
* { box-sizing: border-box }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 1360px;
  margin: 0 auto; padding: 24px }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem } p { margin: .3rem 0 }
.quiet { color: var(--quiet) } .good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; vertical-align: top }
th { font-weight: 600; color: var(--quiet) } th.text, td.text { text-align: left; overflow-wrap: normal }
th { overflow-wrap: normal }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px }
figure { margin: 0 } figcaption { color: var(--quiet); font-size: .87rem }
svg { width: 100%; height: auto; display: block }
svg text { fill: var(--quiet); font: 11px system-ui, sans-serif } .grid { stroke: var(--line); stroke-width: 1 }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round } .thin { stroke-width: 1.2; stroke-dasharray: 4 3 }
.limit { stroke-width: 1.6; stroke-dasharray: 2 4 }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .9em }
@media (max-width: 480px) { body { padding: 12px } th, td { padding: .25rem .35rem } svg text { font-size: 17px } }
"""


def render_page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    host = report["machine"]
    cpu = f"{host['cpu']}, {host['cores']} cores"
    place = f"{report['at']} · {cpu} · {host['system']} · Python {host['python']}"
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    parts = [
        "<h1>Benchmark</h1>",
        *(f'<p class="quiet">{escape(line)}</p>' for line in (place, settings, versions)),
        _verdict(report),
        *(_stage(stage) for stage in report["stages"]),
        _ratios(report["ratios"]),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Benchmark {escape(report['at'])}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _verdict(report: Mapping[str, Any]) -> str:
    void = "".join(f'<p class="bad">✗ void, says nothing about the system: {escape(why)}</p>' for why in report["void"])
    lines = "".join(
        f'<p class="good">✓ {escape(target["text"])}</p>'
        if target["met"]
        else f'<p class="bad">✗ missed: {escape(target["text"])}</p>'
        for target in report["targets"]
    )
    return f"<h2>Targets</h2>{void}{lines}" if void or lines else ""


def _stage(stage: Mapping[str, Any]) -> str:
    groups: Mapping[str, Any] = stage["groups"]
    keys = "".join(f'<span class="key" style="background:{_colour(name)}"></span>{escape(name)}' for name in groups)
    curves = {name: figures["curve"] for name, figures in groups.items()}
    seconds = {name: figures["seconds"] for name, figures in groups.items()}
    limits: Mapping[str, float] = stage["limits_ms"]
    return (
        f"<h2>{escape(stage['name'])}</h2>"
        f'<p class="quiet">{stage["duration_s"]:g} s recorded · machine {stage["system_cpu"]:.0%} busy · '
        f"generator {stage['generator_cpu']:.0%} of a core{keys}</p>"
        f"{_table(groups)}{_notes(stage)}"
        f'<div class="plots"><figure>{_percentile_plot(curves, limits)}'
        "<figcaption>Latency by percentile, from the scheduled "
        "instant (ms, both axes logarithmic); dotted: the p99 that is the target</figcaption></figure>"
        f"<figure>{_second_plot(seconds, limits)}<figcaption>Each "
        "second: p99 (line) and median (dashed), ms; dotted: the target</figcaption></figure></div>"
    )


def _table(groups: Mapping[str, Any]) -> str:
    """One column per group, so that a telephone shows it whole."""
    rows = [
        ("offered/s", [f"{group['offered_per_s']:g}" if group["offered_per_s"] else "-" for group in groups.values()]),
        ("achieved/s", [f"{group['achieved_per_s']:g}" for group in groups.values()]),
    ]
    for name in ("p50", "p90", "p99", "p99.9", "p99.99", "max"):
        found = [group["latency_ms"][name] for group in groups.values()]
        if any(value is not None for value in found):
            rows.append((f"{name} ms", ["-" if value is None else f"{value:.1f}" for value in found]))
    late = [group["lateness_ms"]["p99"] for group in groups.values()]
    rows.append(("sent late p99 ms", ["-" if value is None else f"{value:.2f}" for value in late]))
    errors = [", ".join(f"{code} {count}" for code, count in group["errors"].items()) for group in groups.values()]
    rows.append(("errors", [error or "none" for error in errors]))
    head = "".join(f"<th>{escape(name)}</th>" for name in groups)
    body = "".join(
        f'<tr><td class="text">{name}</td>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return f'<table><tr><th class="text"></th>{head}</tr>{body}</table>'


def _notes(stage: Mapping[str, Any]) -> str:
    """Where the CPU went, and what a flood or a growth found besides."""
    spent = [f"{role} {share:.0%}" for role, share in stage["cpu"].items()]
    noted = [f"{name} {value:g}" for name, value in stage["notes"].items()]
    lines = [f"Of a core: {', '.join(spent)}"] * bool(spent) + [", ".join(noted)] * bool(noted)
    return "".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)


def _ratios(ratios: Sequence[Mapping[str, Any]]) -> str:
    if not ratios:
        return ""
    rows = "".join(
        f'<tr><td class="text">{escape(row["what"])}<br><small class="quiet">{escape(row["how"])}</small></td>'
        f"<td>{row['per_s']:,.0f}</td><td>{escape(str(row['ratio']))}</td></tr>"
        for row in ratios
    )
    return (
        '<h2>Beside others, in the same run</h2><table><tr><th class="text">what</th><th>per second</th>'
        f"<th>ours is</th></tr>{rows}</table>"
    )


def _limit_lines(limits: Mapping[str, float], scale: "_Scale") -> str:
    return "".join(
        f'<line class="limit" stroke="{_colour(name)}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{scale.y(ms)}" '
        f'y2="{scale.y(ms)}"><title>target of {escape(name)}: p99 {ms:g} ms</title></line>'
        f'<text x="{_WIDTH - _RIGHT}" y="{scale.y(ms) - 3}" text-anchor="end">{escape(name)} {ms:g} ms</text>'
        for name, ms in limits.items()
    )


def _percentile_plot(curves: Mapping[str, Sequence[Sequence[float]]], limits: Mapping[str, float]) -> str:
    farthest = max((_distance(point[0]) for curve in curves.values() for point in curve[:-1]), default=1.0)
    scale = _latency_scale([point[1] for curve in curves.values() for point in curve] + list(limits.values()))
    body = scale.grid() + _limit_lines(limits, scale)
    for percentile in _PERCENTILE_TICKS:
        if _distance(percentile) <= farthest:
            x = _x(_distance(percentile) / farthest)
            body += f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            body += f'<text x="{x}" y="{_HEIGHT - 14}" text-anchor="middle">{percentile:g} %</text>'
    for name, curve in curves.items():
        points = [(_x(min(_distance(p), farthest) / farthest), scale.y(ms)) for p, ms in curve]
        body += _polyline(points, name)
    return _svg(body, "latency by percentile")


def _second_plot(seconds: Mapping[str, Sequence[Mapping[str, float]]], limits: Mapping[str, float]) -> str:
    scale = _latency_scale(
        [row[key] for rows in seconds.values() for row in rows for key in ("p50", "p99") if row["count"]]
        + list(limits.values())
    )
    count = max((len(rows) for rows in seconds.values()), default=1)
    body = scale.grid() + _limit_lines(limits, scale)
    for second in range(0, count + 1, max(round(count / 6), 1)):
        body += f'<text x="{_x(second / max(count, 1))}" y="{_HEIGHT - 14}" text-anchor="middle">{second} s</text>'
    for name, rows in seconds.items():
        for key, style in (("p99", ""), ("p50", " thin")):
            points = [(_x((at + 0.5) / count), scale.y(row[key])) for at, row in enumerate(rows) if row["count"]]
            body += _polyline(points, name, style)
    return _svg(body, "latency by second")


class _Scale:
    """A logarithmic axis of milliseconds over whole decades."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def y(self, milliseconds: float) -> float:
        part = (math.log10(max(milliseconds, 10.0**self._low)) - self._low) / (self._high - self._low)
        return round(_HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM), 1)

    def grid(self) -> str:
        body = ""
        for decade in range(self._low, self._high + 1):
            y = self.y(10.0**decade)
            body += f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            body += f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_decade(decade)}</text>'
        return body


def _decade(exponent: int) -> str:
    return f"{10.0 ** (exponent - 3):g} s" if exponent >= 3 else f"{10.0**exponent:g} ms"  # noqa: PLR2004 - 1,000 ms


def _latency_scale(values: Sequence[float]) -> _Scale:
    positive = [value for value in values if value > 0] or [1.0]
    low = math.floor(math.log10(min(positive)))
    return _Scale(low, max(math.ceil(math.log10(max(positive))), low + 1))


def _distance(percentile: float) -> float:
    """Number of nines: 90 % is 1, 99 % is 2."""
    return -math.log10(max(100.0 - percentile, 1e-6) / 100.0)


def _x(part: float) -> float:
    return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)


def _colour(name: str) -> str:
    return _COLOURS.get(name, "var(--ink)")


def _polyline(points: Sequence[tuple[float, float]], name: str, style: str = "") -> str:
    text = " ".join(f"{x},{y}" for x, y in points)
    stroke = f'class="curve{style}" stroke="{_colour(name)}"'
    return f'<polyline {stroke} points="{text}"><title>{escape(name)}</title></polyline>'


def _svg(body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{body}</svg>'
