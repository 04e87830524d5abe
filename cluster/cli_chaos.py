"""`loyalty chaos`: breaks a system of its own, or one that runs, and says what became of what it had acknowledged."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cluster.command_line import Commands
from cluster.settings import PORT_MAX, PORT_MIN, STANDBYS_MAX

app = Commands()

PORT = 12_600
FAULTS_DEFAULT = 20


@app.command()
def chaos(  # noqa: PLR0913 - one parameter per flag
    *,
    seed: Annotated[int | None, typer.Option(help="Repeats a run; without, one is chosen and printed.")] = None,
    faults: Annotated[int, typer.Option(min=1, help="How many faults.")] = FAULTS_DEFAULT,
    duration: Annotated[float | None, typer.Option(min=0, help="Begin no fault after so many seconds.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this kind; may be given again.")] = None,
    standbys: Annotated[int, typer.Option(min=1, max=STANDBYS_MAX, help="Standbys of the system this starts.")] = 1,
    tills: Annotated[int, typer.Option(min=1, help="Tills that sell meanwhile.")] = 4,
    data: Annotated[Path | None, typer.Option(help="A running system of one region, to be broken.")] = None,
    port: Annotated[int, typer.Option(min=PORT_MIN, max=PORT_MAX, help="First port of the system this starts.")] = PORT,
) -> None:
    """Break a system in every way there is, under load, and prove that nothing acknowledged is lost; else exit 1."""
    from cluster.campaign import Campaign, run_campaign  # noqa: PLC0415 - the other commands start faster without it

    wanted = Campaign(
        seed=seed,
        faults=faults,
        duration_s=duration,
        only=tuple(only or ()),
        tills=tills,
        data=data,
        standbys=standbys,
        port=port,
    )
    raise typer.Exit(asyncio.run(run_campaign(wanted)))
