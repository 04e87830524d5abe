"""`loyalty region`: which regions there are, and how much of their traffic they take.

cluster/cli.py takes it in. All of it works on a running system, and no request fails by it.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.command_line import Commands
from cluster.door import share_traffic
from cluster.plan import read_settings
from edge.decision import WHOLE

app = Commands(help="Regions of a running system.", no_args_is_help=True)

Data = Annotated[Path | None, typer.Option("--data", help="Data folder (default .loyalty/data here).")]
Region = Annotated[str, typer.Argument(help="For example eu.")]


@app.callback()
def describe() -> None:
    """Regions of a running system."""


@app.command()
def evacuate(region: Region, *, data: Data = None) -> None:
    """Send a region's traffic to the next region, which forwards what is about the region's own members."""
    asyncio.run(share_traffic(_folder(data), region, 0))
    sys.stdout.write(f"{region} takes no traffic at the door; its shards go on. Back with `loyalty region restore`.\n")


@app.command()
def restore(region: Region, *, data: Data = None) -> None:
    """Give a region its traffic back."""
    asyncio.run(share_traffic(_folder(data), region, WHOLE))
    sys.stdout.write(f"{region} takes all of its traffic at the door.\n")


def _folder(data: Path | None) -> Path:
    return read_settings({"data": data}).data.expanduser().resolve()
