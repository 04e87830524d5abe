"""The commands that put the system under load: `replay`, `bench` and `demo`. cluster/cli.py takes them in.

Only words and flags are here; what they start is in cluster/load.py, imported when a command runs, because it needs
the extras `bench` and `demo`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.command_line import Commands, Data
from cluster.document import plan_of
from cluster.errors import ClusterError

app = Commands()

Port = Annotated[int | None, typer.Option(help="First port of the system this starts.")]
Cdc = Annotated[str | None, typer.Option(help="Change source of the system this starts.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="Command and query nodes of a system elsewhere; its key in LOYALTY_SERVICE_KEY."),
]
Baskets = Annotated[str, typer.Option(envvar="BASKETS", help="How many of the newest baskets, or `all`.")]
DEFAULT_BASKETS = "20000"
COMPARED = 3
"""`compare`, and the two."""


@app.command()
def replay(  # noqa: PLR0913 - one parameter per flag
    files: Annotated[list[Path] | None, typer.Argument(help="JSON Lines of purchases; none: Complete Journey.")] = None,
    *,
    target: Targets = None,
    data: Data = None,
    baskets: Baskets = DEFAULT_BASKETS,
    last_day: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day of the last basket.")] = None,
    write_program: Annotated[Path | None, typer.Option(help="Only write a program with the history's stores.")] = None,
) -> None:
    """Post real shopping history through the command API, each member's baskets in order."""
    with plain_errors():
        from cluster import load  # noqa: PLC0415 - see above

        plan = plan_of({"data": data})
        if write_program is not None:
            load.write_program(load.read_tour(plan), write_program)
            return
        if files:
            code = load.replay_files(plan, target, files)
        else:
            code = load.replay_journey(plan, target, basket_count(baskets), last_day.date() if last_day else None)
    raise typer.Exit(code)


@app.command()
def bench(  # noqa: PLR0913 - one parameter per flag
    scenarios: Annotated[list[str] | None, typer.Argument(help="Names or .toml files; see below.")] = None,
    *,
    target: Targets = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e6, help="Requests per second instead of the targets' or of steps."),
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0.1, max=3600, help="Seconds recorded per stage.")] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="Exponential gaps instead of even ones.")] = False,
    report: Annotated[Path, typer.Option(help="Folder for run.json, report.html and report.md.")] = Path(
        ".loyalty/bench"
    ),
    data: Data = None,
    port: Port = None,
    cdc: Cdc = None,
) -> None:
    """Load the system, hold it to its targets and write a report; exit 1 when one is missed or an answer was wrong.

    Scenarios: mixed, mixed-double, commands, queries, till-day, app-morning, read-your-writes, hot-member, hot-store,
    away-from-home, duplicates, flood, frozen-primary, growth, a .toml file, and ratio (ours beside others).
    `bench targets` measures the table of targets (eleven minutes, nothing else running) and writes it to --report;
    `bench compare A B` tells how the runs of two folders differ.
    """
    with plain_errors():
        from cluster import load  # noqa: PLC0415 - see above

        if scenarios and scenarios[0] == "compare":
            if len(scenarios) != COMPARED:
                raise ClusterError("bench compare needs two runs: run.json files or folders")
            raise typer.Exit(load.compare(Path(scenarios[1]), Path(scenarios[2])))
        if scenarios == ["targets"]:
            flags = {"data": data, "port": port, "cdc": cdc}
            raise typer.Exit(load.targets(plan_of(flags), flags, report))
        wanted = load.bench_plan(scenarios, rate=rate, duration_s=duration, poisson=poisson)
        flags = {"data": data, "port": port, "cdc": cdc}
        code = load.bench(plan_of(flags), flags, target, wanted, report)
    raise typer.Exit(code)


@app.command()
def demo(
    *,
    baskets: Baskets = DEFAULT_BASKETS,
    keep: Annotated[
        bool | None, typer.Option(envvar="DEMO_KEEP", help="Stay up afterwards (default: on a terminal).")
    ] = None,
    data: Data = None,
    port: Port = None,
    cdc: Cdc = None,
) -> None:
    """Bring the system up, replay a year of real shopping, verify it, and stay up until Ctrl-C."""
    count = basket_count(baskets)
    with plain_errors():
        from cluster import load  # noqa: PLC0415 - see above

        flags = {"data": data, "port": port, "cdc": cdc}
        code = load.demo(plan_of(flags), flags, count, keep=keep)
    raise typer.Exit(code)


def basket_count(text: str) -> int | None:
    """How many baskets `20000` or `all` (None) means."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ClusterError(f"{text!r} baskets: give a number or `all`")
    return int(text)


@contextmanager
def plain_errors() -> Generator[None]:
    """What went wrong under load, in words instead of a traceback."""
    try:
        from benchmarks.compare import CompareError  # noqa: PLC0415 - see above
        from benchmarks.deployment import DeploymentError  # noqa: PLC0415 - see above
        from benchmarks.history import HistoryError  # noqa: PLC0415 - see above
        from benchmarks.scenario import ScenarioError  # noqa: PLC0415 - see above
        from benchmarks.wire import WireError  # noqa: PLC0415 - see above

        load_errors = (CompareError, DeploymentError, HistoryError, ScenarioError, WireError)
        try:
            yield
        except load_errors as error:
            raise ClusterError(str(error)) from error
        except ExceptionGroup as group:  # what one of several that ran together met, ended the others
            ours = group.subgroup(load_errors)
            if ours is None:
                raise
            raise ClusterError(str(_first(ours))) from group
    except ModuleNotFoundError as error:
        raise ClusterError(f"{error}: install the extras `bench` and `demo`") from error


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first error of a group of groups."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
