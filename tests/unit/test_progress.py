"""What the supervisor prints of its processes can be held against the other logs."""

import re
from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from cluster.progress import PROGRESS_LINE, Progress


def test_a_state_is_told_with_the_time_of_day() -> None:
    printed = StringIO()
    before = datetime.now(UTC).replace(microsecond=0)
    Progress(Console(file=printed)).note("eu-1-postgres-1", "it is frozen: a standby takes its place")
    told = re.fullmatch(
        r"(\S+Z) +\d+\.\d s  eu-1-postgres-1: it is frozen: a standby takes its place\n", printed.getvalue()
    )
    assert told is not None, printed.getvalue()
    assert before <= datetime.fromisoformat(told[1]) <= datetime.now(UTC)
    assert PROGRESS_LINE.match(printed.getvalue())


def test_a_long_state_stays_on_one_line() -> None:
    printed = StringIO()
    Progress(Console(file=printed, width=80)).note("eu-1-postgres-1", "its pages are damaged: " + "block 7 " * 20)
    assert printed.getvalue().count("\n") == 1
