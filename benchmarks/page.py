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
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums }
th { font-weight: 600; color: var(--quiet) } th.text, td.text { text-align: left } td.text { white-space: normal }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px }
figure { margin: 0 } figcaption { color: var(--quiet); font-size: .87rem }
svg { width: 100%; height: auto; display: block }
svg text { fill: var(--quiet); font: 11px system-ui, sans-serif } .grid { stroke: var(--line); stroke-width: 1 }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round } .thin { stroke-width: 1.2; stroke-dasharray: 4 3 }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .9em }
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
    return (
        f"<h2>{escape(stage['name'])}</h2>"
        f'<p class="quiet">{stage["duration_s"]:g} s recorded · machine {stage["system_cpu"]:.0%} busy · '
        f"generator {stage['generator_cpu']:.0%} of a core{keys}</p>"
        f"{_table(groups)}"
        f'<div class="plots"><figure>{_percentile_plot(curves)}<figcaption>Latency by percentile, from the scheduled '
        f"instant (ms, both axes logarithmic)</figcaption></figure><figure>{_second_plot(seconds)}<figcaption>Each "
        "second: p99 (line) and median (dashed), ms</figcaption></figure></div>"
    )


def _table(groups: Mapping[str, Any]) -> str:
    figures = ("p50", "p90", "p99", "p99.9", "p99.99", "max")
    head = "".join(f"<th>{name} ms</th>" for name in figures)
    rows = ""
    for name, group in groups.items():
        cells = "".join(f"<td>{group['latency_ms'][figure]:.1f}</td>" for figure in figures)
        errors = ", ".join(f"{code} {count}" for code, count in group["errors"].items()) or "none"
        offered = f"{group['offered_per_s']:g}" if group["offered_per_s"] else "sampled"
        rows += (
            f'<tr><td class="text">{escape(name)}</td><td>{offered}</td><td>{group["achieved_per_s"]:g}</td>{cells}'
            f'<td>{group["lateness_ms"]["p99"]:.2f}</td><td class="text">{escape(errors)}</td></tr>'
        )
    return (
        f'<div class="scroll"><table><tr><th class="text">what</th><th>offered/s</th><th>achieved/s</th>{head}'
        f'<th>sent late p99 ms</th><th class="text">errors</th></tr>{rows}</table></div>'
    )


def _ratios(ratios: Sequence[Mapping[str, Any]]) -> str:
    if not ratios:
        return ""
    rows = "".join(
        f'<tr><td class="text">{escape(row["what"])}</td><td>{row["per_s"]:,.0f}</td>'
        f"<td>{escape(str(row['ratio']))}</td>"
        f'<td class="text">{escape(row["how"])}</td></tr>'
        for row in ratios
    )
    return (
        '<h2>Beside others, in the same run</h2><div class="scroll"><table>'
        '<tr><th class="text">what</th><th>per second</th>'
        f'<th>ours is</th><th class="text">how</th></tr>{rows}</table></div>'
    )


def _percentile_plot(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    farthest = max((_distance(point[0]) for curve in curves.values() for point in curve[:-1]), default=1.0)
    scale = _latency_scale([point[1] for curve in curves.values() for point in curve])
    body = scale.grid()
    for percentile in _PERCENTILE_TICKS:
        if _distance(percentile) <= farthest:
            x = _x(_distance(percentile) / farthest)
            body += f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            body += f'<text x="{x}" y="{_HEIGHT - 14}" text-anchor="middle">{percentile:g} %</text>'
    for name, curve in curves.items():
        points = [(_x(min(_distance(p), farthest) / farthest), scale.y(ms)) for p, ms in curve]
        body += _polyline(points, name)
    return _svg(body, "latency by percentile")


def _second_plot(seconds: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    scale = _latency_scale(
        [row[key] for rows in seconds.values() for row in rows for key in ("p50", "p99") if row["count"]]
    )
    count = max((len(rows) for rows in seconds.values()), default=1)
    body = scale.grid()
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
