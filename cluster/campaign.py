"""Breaks a system, of its own or one that runs, in every way there is, and looks for what it had acknowledged."""

import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import typer

from benchmarks.chaos import Result, campaign, schedule, summary
from benchmarks.chaos_clock import OF_ONE_THREAD, environment, library
from benchmarks.chaos_fault import CLOCKS, FAULTS, SERVER_CLOCKS, SKIPPED
from benchmarks.chaos_world import World
from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.run_file import locked, read_run
from shard_router.topology import read_topology

NO_FAKETIME: Final = "it takes a system of its own, and the library of the package libfaketime"
_SEEDS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is done to which system. Without `data` it is one of its own, from `port` on, with so many standbys.

    Without a seed one is drawn. No fault begins after `duration_s`. `only` names the kinds; empty: all there are.
    """

    seed: int | None
    faults: int
    duration_s: float | None
    only: tuple[str, ...]
    tills: int
    data: Path | None
    standbys: int
    port: int


async def run_campaign(wanted: Campaign) -> int:
    """Do it and tell of it; the exit code. ClusterError when it cannot begin."""
    if unknown := sorted(set(wanted.only) - FAULTS.keys()):
        raise ClusterError(f"no fault {unknown[0]!r}; there are: {', '.join(FAULTS)}")
    if wanted.data and not locked(wanted.data):
        raise ClusterError(f"nothing runs on {wanted.data}")
    if wanted.data and len(regions := read_topology(Documents(wanted.data).topology).document.regions) > 1:
        raise ClusterError(f"a campaign breaks a system of one region, and {wanted.data} has {', '.join(regions)}")
    seed = random.randrange(_SEEDS) if wanted.seed is None else wanted.seed  # noqa: S311 - no secret
    typer.echo(f"seed {seed}")
    for kind, why in SKIPPED.items():
        typer.echo(f"left out: {kind} ({why})")
    has_clock = not wanted.data and library() is not None
    if not has_clock:
        typer.echo(f"left out: {', '.join(sorted(CLOCKS))} ({NO_FAKETIME})")
    names = schedule(seed, wanted.faults, wanted.only, () if has_clock else CLOCKS)
    result = (
        await _of_a_running(wanted, wanted.data, names, seed) if wanted.data else await _of_its_own(wanted, names, seed)
    )
    typer.echo("\n".join(summary(result)))
    return 1 if result.first else 0


async def _of_a_running(wanted: Campaign, data: Path, names: list[str], seed: int) -> Result:
    world = World(data, begun_with(data))
    try:
        return await _faults(wanted, world, names, seed)
    finally:
        world.thaw()


def begun_with(data: Path) -> tuple[str, ...]:
    """The flags of the `up` by which what runs was begun; none where it was not begun so."""
    run = read_run(data)
    words = psutil.Process(run.supervisor.pid).cmdline() if run else []
    return tuple(words[words.index("up") + 1 :]) if "up" in words else ()


async def _of_its_own(wanted: Campaign, names: list[str], seed: int) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="loyalty-chaos-", dir="/var/tmp"))
    folder.chmod(0o755)  # noqa: ASYNC240 - nothing runs yet
    up = ("--regions", "eu", "--port", str(wanted.port), "--standbys", str(wanted.standbys), "--no-door")
    world = World(folder / "data", up)
    if not (CLOCKS - SERVER_CLOCKS).isdisjoint(names):  # what runs under libfaketime is slower: only what must
        world.clock = folder / "clock"
        world.under = environment(world.clock, library())
    if not SERVER_CLOCKS.isdisjoint(names):
        world.server_clocks = folder / "clocks"
        world.server_clocks.mkdir()
        world.servers_under = environment(folder / "clock-of-none", library(name=OF_ONE_THREAD))
    try:
        code, words = await world.loyalty("up", "--detach", *up)
        if code:
            raise ClusterError(words)
        result = await _faults(wanted, world, names, seed)
        known = list(world.processes().values())
    finally:
        world.thaw()
        await world.loyalty("down")
    if left := [process for process in known if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]:
        result.failures.append(f"left over: {left}")
    if result.first:
        typer.echo(f"what there was is kept in {folder}; again: loyalty chaos --seed {seed} --faults {len(names)}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return result


async def _faults(wanted: Campaign, world: World, names: list[str], seed: int) -> Result:
    return await campaign(world, names, seed=seed, tills=wanted.tills, duration_s=wanted.duration_s, tell=typer.echo)
