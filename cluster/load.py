"""What `replay`, `bench` and `demo` need of the cluster: bring it up, its keys, its verdict, take it down again.

What is done to the system meanwhile is in benchmarks/, which knows nothing but HTTP.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import uvloop
from rich.console import Console

from benchmarks import bench as course
from benchmarks import complete_journey, targets_report
from benchmarks import demo as tours
from benchmarks import targets as course_of_targets
from benchmarks.board import Board
from benchmarks.compare import compare_runs, read_runs, table
from benchmarks.deployment import Deployment
from benchmarks.history import check_files
from benchmarks.host import Host
from cluster import run
from cluster.bench_host import host_of, start_once
from cluster.command_line import screen, words_of
from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.files import read_json, write_atomic, write_json
from cluster.plan import ClusterPlan
from cluster.run_file import locked
from cluster.status import StatusReport, read_status
from cluster.system import DEFAULT_PROGRAM
from cluster.verdict import render_verdict
from verify.parallel import verify_side_by_side

KEY_VARIABLES = ("LOYALTY_SERVICE_KEY", "LOYALTY_ADMIN_KEY", "LOYALTY_POS_KEY")


def replay_files(plan: ClusterPlan, targets: Sequence[str] | None, files: Sequence[Path]) -> int:
    """Replay JSON Lines files; 0 when at least one purchase was accepted. When one is missing none is posted."""
    check_files(files)

    async def post() -> Board:
        return await tours.replay_files(await _deployment(targets, plan), files, Console())

    return 0 if uvloop.run(post()).purchases else 1


def replay_journey(plan: ClusterPlan, targets: Sequence[str] | None, count: int | None, last_day: date | None) -> int:
    """Replay the Complete Journey into a system that knows its stores; 0 when at least one purchase was accepted."""

    async def post() -> Board:
        return await tours.replay_known_stores(await _deployment(targets, plan), count, last_day, Console())

    return 0 if uvloop.run(post()).purchases else 1


def bench_plan(names: Sequence[str] | None, *, rate: float | None, duration_s: float | None, poisson: bool) -> Any:
    """The plan of a benchmark; ScenarioError names what is no scenario."""
    chosen = list(names or course.DEFAULT_NAMES)
    plan = course.BenchPlan(names=chosen, rate=rate, duration_s=duration_s, poisson=poisson)
    course.read_plan(plan)
    return plan


def bench(
    plan: ClusterPlan,
    flags: Mapping[str, Any],
    targets: Sequence[str] | None,
    wanted: course.BenchPlan,
    report: Path,
) -> int:
    """Run the benchmark against the targets, the system that runs here, or one brought up for it; the exit code."""
    console = Console()

    async def load() -> int:
        host = await host_of(plan) if targets is None else Host()
        return await course.bench(await _deployment(targets, plan), wanted, host, report, console)

    if targets is not None or locked(plan.data):
        return uvloop.run(load())
    with _started(plan, flags, console):
        return uvloop.run(load())


def targets(plan: ClusterPlan, flags: Mapping[str, Any], report: Path) -> int:
    """Measure the table of targets on this machine, on the system that runs here or one of its own; the exit code."""
    console = Console()
    with _doing(console, "bringing systems up on empty folders …"), _interrupted_by_sigterm():
        starts_s = [] if locked(plan.data) else [start_once(plan) for _ in range(course_of_targets.ROUNDS)]

    async def load() -> course_of_targets.Measured:
        site = course.Site(await _deployment(None, plan), await host_of(plan), console)
        return await course_of_targets.measure(site, starts_s)

    if locked(plan.data):
        measured = uvloop.run(load())
    else:
        with _started(plan, flags, console):
            measured = uvloop.run(load())
    document = targets_report.document(measured, course_of_targets.read_table(), source=plan.cdc_source)
    console.print(targets_report.markdown(document), markup=False, highlight=False, soft_wrap=True)
    console.print("written: " + "  ".join(map(str, targets_report.write(report, document))), soft_wrap=True)
    for text in (missed := targets_report.missed(document)):
        console.print(f"MISSED {text}", style="bold red", highlight=False)
    return course.EXIT_MISSED if missed else course.EXIT_MET


def compare(a: Path, b: Path) -> int:
    """Print how the runs of two folders or files differ."""
    runs = read_runs(a), read_runs(b)
    Console().print(table(compare_runs(*runs), runs=(len(runs[0]), len(runs[1]))))
    return 0


def demo(plan: ClusterPlan, flags: Mapping[str, Any], count: int | None, *, keep: bool | None) -> int:
    """Bring the system up, replay, verify, say what to try, and stay until Ctrl-C or be done; the exit code."""
    console = screen()
    if locked(plan.data):
        raise ClusterError(
            f"A system already runs on {plan.data}: stop it with `loyalty down`, or give another --data."
        )
    with _doing(console, "reading the shopping history …"):
        tour = read_tour(plan)
        program = write_program(tour, plan.data / "program.toml")
    with _started(plan, {**flags, "program": program}, console):
        stays = keep if keep is not None else sys.stdin.isatty()
        code = _tell(plan, tour, count, console, stays=stays)
        if stays:
            console.print("The system stays up. Ctrl-C stops it.", style="bold")
            with suppress(KeyboardInterrupt):
                signal.pause()
    return code


def _tell(plan: ClusterPlan, tour: tours.Tour, count: int | None, console: Console, *, stays: bool) -> int:
    """Replay, verify, and say what to try where the system `stays` up; the exit code."""

    async def post() -> tuple[Board, StatusReport]:
        board = await tours.replay_tour(await _deployment(None, plan), tour, count, console)
        return board, await read_status(plan.data)

    board, status = uvloop.run(post())
    with _doing(console, "verifying every promise on the data at rest …"):
        documents = Documents(plan.data)
        findings = asyncio.run(verify_side_by_side(documents.topology, documents.logins(), documents.verified()))
    console.print(render_verdict(findings))
    if stays and board.last_member is not None:
        _invite(status, board.last_member, console)
    return 0 if board.purchases and all(finding.ok for finding in findings) else 1


def _invite(status: StatusReport, member_id: str, console: Console) -> None:
    """What to try on a system that stays up."""
    if status.door:
        console.print(f"  [bold]{status.door.url}[/]  everything, at one address", highlight=False)
    for name, region in status.topology.regions.items():
        console.print(f"  {name}: commands {region.command[0]}  queries {region.query[0]}", highlight=False)
    console.print("Try:")
    for line in tours.curl_lines(status.document(), member_id, datetime.now(UTC)):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def read_tour(plan: ClusterPlan) -> tours.Tour:
    """The Complete Journey for this data folder, with the date its first demo had."""
    note = plan.data / "demo.json"
    known: dict[str, str] = read_json(note) or {}
    last_day = date.fromisoformat(known["last_day"]) if known else None
    pinned = tours.program_stores(DEFAULT_PROGRAM.read_text(encoding="utf-8"))
    regions = [region.name for region in plan.regions]
    journey = complete_journey.load(complete_journey.data_folder())
    tour = tours.plan_tour(journey, regions, pinned=pinned, last_day=last_day)
    write_json(note, {"last_day": tours.last_day_of(tour).isoformat()})
    return tour


def write_program(tour: tours.Tour, path: Path) -> Path:
    """Write the default program with the history's stores."""
    write_atomic(path, tours.program_with_stores(DEFAULT_PROGRAM.read_text(encoding="utf-8"), tour.stores))
    return path


async def _deployment(targets: Sequence[str] | None, plan: ClusterPlan) -> Deployment:
    """The system named by --target, or the one on the data folder."""
    if targets is None:
        status = await read_status(plan.data)
        if not status.running:
            raise ClusterError(f"nothing runs on {plan.data}: `loyalty up` brings it up, or name nodes with --target")
        return Deployment.of_status(status.document())
    key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
    if key is None:
        raise ClusterError(f"--target needs an API key in one of {', '.join(KEY_VARIABLES)}")
    return await Deployment.of_urls(targets, key)


@contextmanager
def _started(plan: ClusterPlan, flags: Mapping[str, Any], console: Console) -> Generator[None]:
    """A system of our own for the length of the block; Ctrl-C ends the block and stops it."""
    words = words_of(flags)
    try:
        with _interrupted_by_sigterm():
            with _doing(console, "bringing the system up …"):
                run.detach(plan, words)
            yield
    except KeyboardInterrupt:
        console.print("Stopping.")
        raise SystemExit(130) from None
    finally:
        with _doing(console, "stopping the system …"):
            stopped = run.stop_system(plan.data)
        console.print("System stopped." if stopped == "stopped" else f"System: {stopped}.", highlight=False)


@contextmanager
def _doing(console: Console, what: str) -> Generator[None]:
    """Say what is being done, as long as it takes; where nothing can move, once."""
    if not console.is_terminal:
        console.print(what, highlight=False)
    with console.status(what):
        yield


@contextmanager
def _interrupted_by_sigterm() -> Generator[None]:
    """SIGTERM ends the block as Ctrl-C does: what it has started is stopped."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
