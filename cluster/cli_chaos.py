"""`loyalty chaos`: breaks a system of its own, or one that runs, and says what became of what it had acknowledged."""

import asyncio
import random
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.chaos import campaign, schedule, summary
from benchmarks.chaos_clock import environment, library
from benchmarks.chaos_fault import CLOCKS, FAULTS, SKIPPED
from benchmarks.chaos_world import World
from cluster.command_line import Commands
from cluster.errors import ClusterError
from cluster.run_file import locked

app = Commands()

PORT = 12_600
FAULTS_DEFAULT = 20
NO_FAKETIME = "it takes a system of its own, and the library of the package libfaketime"


@app.command()
def chaos(  # noqa: PLR0913 - one parameter per flag
    *,
    seed: Annotated[int | None, typer.Option(help="Repeats a run; without, one is chosen and printed.")] = None,
    faults: Annotated[int, typer.Option(help="How many faults.")] = FAULTS_DEFAULT,
    duration: Annotated[float | None, typer.Option(help="Begin no fault after so many seconds.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this kind; may be given again.")] = None,
    standbys: Annotated[int, typer.Option(help="Standbys of the system this starts.")] = 1,
    tills: Annotated[int, typer.Option(help="Tills that sell meanwhile.")] = 4,
    data: Annotated[Path | None, typer.Option(help="A running system of one region, to be broken.")] = None,
    port: Annotated[int, typer.Option(help="First port of the system this starts.")] = PORT,
) -> None:
    """Break a system in every way there is, under load, and prove that nothing acknowledged is lost; else exit 1."""
    if unknown := sorted(set(only or ()) - FAULTS.keys()):
        raise ClusterError(f"no fault {unknown[0]!r}; there are: {', '.join(FAULTS)}")
    seed = random.randrange(10_000) if seed is None else seed  # noqa: S311 - no secret
    typer.echo(f"seed {seed}")
    for kind, why in SKIPPED.items():
        typer.echo(f"left out: {kind} ({why})")
    preloaded = None if data else library()
    if preloaded is None:
        typer.echo(f"left out: {', '.join(sorted(CLOCKS))} ({NO_FAKETIME})")
    names = schedule(seed, faults, only or (), CLOCKS if preloaded is None else ())
    raise typer.Exit(asyncio.run(_run(data, names, seed, duration=duration, standbys=standbys, tills=tills, port=port)))


async def _run(  # noqa: PLR0913
    data: Path | None, names: list[str], seed: int, *, duration: float | None, standbys: int, tills: int, port: int
) -> int:
    if data and not locked(data):
        raise ClusterError(f"nothing runs on {data}")
    folder = None if data else Path(tempfile.mkdtemp(prefix="loyalty-chaos-", dir="/var/tmp"))
    up = () if data else ("--regions", "eu", "--port", str(port), "--standbys", str(standbys), "--no-door")
    world = World((data or folder / "data") if folder or data else Path(), up)  # pyright: ignore[reportOptionalOperand]
    try:
        if folder:
            folder.chmod(0o755)
            if not CLOCKS.isdisjoint(names):  # the supervisor starts less surely under libfaketime: only where it must
                world.clock = folder / "clock"
                world.under = environment(world.clock, library())
            code, words = await world.loyalty("up", "--detach", *up)
            if code:
                raise ClusterError(words)
        result = await campaign(world, names, seed=seed, tills=tills, duration_s=duration, tell=typer.echo)
        known = list(world.processes().values())
    finally:
        world.thaw()
        if folder:
            await world.loyalty("down")
    left = [process for process in known if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    if folder and left:
        result.failures.append(f"left over: {left}")
    typer.echo("\n".join(summary(result)))
    if folder and not result.first:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder:
        typer.echo(f"what there was is kept in {folder}; again: loyalty chaos --seed {seed} --faults {len(names)}")
    return 1 if result.first else 0
