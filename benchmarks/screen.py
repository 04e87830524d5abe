"""The live picture of a replay, and its summary: a board rendered with rich."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmarks.board import HISTORY_S, Board, Recent, RegionBoard
from benchmarks.history import Event
from benchmarks.latency import Latency
from benchmarks.replay import Replay

_REFRESH_S: Final = 0.5
_PLAIN_INTERVAL_S: Final = 5.0
_WHOLE_FROM_MS: Final = 100.0
_COLUMNS_WIDTH: Final = 84  # what everything but the sparkline takes at its widest
_BLOCKS: Final = "▁▂▃▄▅▆▇█"


async def run_shown(replay: Replay, events: Iterable[Event], board: Board, console: Console, *, title: str) -> None:
    """Run a replay under the live picture and print the summary; an interrupted one is summed up as well."""
    picture_task = asyncio.create_task(show(board, console, title))
    try:
        await replay.run(events)
    finally:
        board.finish()
        picture_task.cancel()
        with suppress(asyncio.CancelledError):
            await picture_task
        console.print(summary(board))


async def show(board: Board, console: Console, title: str) -> None:
    """Show the board until cancelled: live on a terminal, one line every five seconds elsewhere."""
    if not console.is_terminal:
        await _show_lines(board, console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(picture(board, title, width=console.width), refresh=True)
            await asyncio.sleep(_REFRESH_S)


async def _show_lines(board: Board, console: Console) -> None:
    while True:
        await asyncio.sleep(_PLAIN_INTERVAL_S)
        now = board.clock()
        rate = sum(row.rate(now) for row in board.regions.values())
        of_total = f" of {board.total:,}" if board.total else ""
        problems = sum(board.problems.values())
        console.print(
            f"{board.baskets:,}{of_total} baskets, {rate:.0f}/s, {board.enrolled:,} members, {problems} problems"
        )


def picture(board: Board, title: str, *, width: int) -> RenderableType:
    """The board now, on a terminal of this width."""
    now = board.clock()
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("region", no_wrap=True)
    for column in ("baskets/s", "command ms", "query ms", "visible ms", "forwarded"):
        table.add_column(column, justify="right", no_wrap=True)
    spark = max(width - _COLUMNS_WIDTH, 0)
    if spark:
        table.add_column(f"last {min(spark, HISTORY_S)} s", no_wrap=True)
    table.add_row("", "", *[Text("p50 / p99", style="dim")] * 3)
    top = max((max(row.rates(now), default=0) for row in board.regions.values()), default=0)
    for name, row in board.regions.items():
        lately = [Text(sparkline(row.rates(now)[-spark:], top), style="cyan")] if spark else []
        table.add_row(name, *_region_cells(row, now), *lately)
    return Panel(Group(_progress(board), Text(), table, Text(), _totals(board)), title=title, title_align="left")


def _region_cells(row: RegionBoard, now: float) -> Sequence[RenderableType]:
    return (
        f"{row.rate(now):.0f}",
        _pair(row.command, now),
        _pair(row.query, now),
        _pair(row.visible, now),
        f"{row.forwarded_share:.0%}",
    )


def _pair(recent: Recent, now: float) -> str:
    pair = recent.percentiles_ms(now)
    return f"{_short(pair[0])} / {_short(pair[1])}" if pair else "-"


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < _WHOLE_FROM_MS else f"{milliseconds:,.0f}"


def sparkline(values: Sequence[int], top: int) -> str:
    """One block character per value; the tallest for `top`."""
    return "".join(
        _BLOCKS[min(value * len(_BLOCKS) // (top + 1), len(_BLOCKS) - 1)] if value else " " for value in values
    )


def _progress(board: Board) -> RenderableType:
    rate = board.baskets / board.elapsed_s if board.elapsed_s else 0.0
    line = f" {board.baskets:,} baskets, {rate:.0f}/s, {_clock(board.elapsed_s)}"
    if board.total is None:
        return Text(line.strip())
    left_s = (board.total - board.baskets) / rate if rate else 0.0
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    bar = ProgressBar(total=board.total, completed=board.baskets)
    grid.add_row(
        bar,
        f"{line} of {board.total:,}, {_clock(left_s)} left".replace(f"{board.baskets:,} baskets", f"{board.baskets:,}"),
    )
    return grid


def _totals(board: Board) -> Text:
    text = f"{board.enrolled:,} members   {board.purchases:,} purchases   {board.returns:,} returns"
    text += f"   {board.points:,} points"
    if board.replayed:
        text += f"   {board.replayed:,} known from before"
    if board.retried:
        text += f"   {sum(board.retried.values()):,} retries"
    line = Text(text)
    if board.problems:
        line.append("   problems: " + counted(board.problems), style="yellow")
    return line


def summary(board: Board) -> RenderableType:
    """What came of the whole run."""
    rate = board.baskets / board.elapsed_s if board.elapsed_s else 0.0
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column(f"{board.baskets:,} baskets in {board.elapsed_s:.0f} s ({rate:.0f}/s)")
    for column in ("count", "p50 ms", "p99 ms", "p99.9 ms", "max ms"):
        table.add_column(column, justify="right")
    for label, name in (("commands", "command"), ("queries with token", "query"), ("commit to visible", "visible")):
        merged = Latency()
        for row in board.regions.values():
            merged.add(getattr(row, name).total)
        figures = (f"{merged.at_ms(p):.1f}" for p in (50, 99, 99.9))
        table.add_row(label, f"{merged.count:,}", *figures, f"{merged.max_ms:.1f}")
    posted = sum(row.posted for row in board.regions.values())
    forwarded = sum(row.forwarded for row in board.regions.values())
    share = f"{forwarded / posted:.1%}" if posted else "0 %"
    lines = [
        _totals(board),
        Text(f"{share} of the commands were sent away from the member's home region and forwarded"),
    ]
    if board.retried:
        lines.append(Text("retried: " + counted(board.retried)))
    return Group(table, *lines)


def counted(counter: dict[str, int]) -> str:
    """`code 3, other 1`, most frequent first."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items(), key=lambda item: -item[1]))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
