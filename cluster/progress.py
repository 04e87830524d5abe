"""What a person sees while the system comes up: one line per process, or plain lines when nobody watches."""

import re
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

PROGRESS_LINE = re.compile(r"[\dTZ:-]+ +\d+\.\d s  ")  # as `note` prints it
SETTLED = ("ready", "stopped")


class Progress:
    """A live table of process states; give `note` to a supervisor."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_at = time.monotonic()
        self._rows: dict[str, tuple[str, float]] = {}
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        """Show the table while the block runs; on a terminal only."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the table away."""
        self.finish()

    def finish(self) -> None:
        """Take the table away; later states are printed as lines."""
        self._live.stop()

    def note(self, name: str, state: str) -> None:
        """Show the state of a process."""
        after_s = time.monotonic() - self._began_at
        self._rows[name] = (state, after_s)
        if not self._live.is_started:
            line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {after_s:6.1f} s  {name}: {state}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, (state, after_s) in sorted(self._rows.items()):
            settled = state.startswith(SETTLED)
            mark = Text("●", "green") if settled else Spinner("dots", style="yellow")
            table.add_row(mark, name, Text(state, "green" if settled else "yellow"), f"{after_s:.1f} s")
        return Group(table)
