"""`loyalty region`: which regions there are, and how much of their traffic they take.

cluster/cli.py takes it in. All of it works on a running system, and no request fails by it.
"""

import asyncio
import sys
from typing import Annotated

import typer

from cluster.command_line import Commands, Data, ask_supervisor, running_folder
from cluster.door import share_traffic
from cluster.errors import ClusterError
from cluster.growth_request import Request
from cluster.settings import REGION_NAME
from edge.decision import WHOLE

app = Commands(help="Regions of a running system.", no_args_is_help=True)

Region = Annotated[str, typer.Argument(help="For example eu.")]


@app.callback()
def describe() -> None:
    """Regions of a running system."""


@app.command()
def evacuate(region: Region, *, data: Data = None) -> None:
    """Send a region's traffic to the next region, which forwards what is about the region's own members."""
    asyncio.run(share_traffic(running_folder(data), region, 0))
    sys.stdout.write(f"{region} takes no traffic at the door; its shards go on. Back with `loyalty region restore`.\n")


@app.command()
def restore(region: Region, *, data: Data = None) -> None:
    """Give a region its traffic back."""
    asyncio.run(share_traffic(running_folder(data), region, WHOLE))
    sys.stdout.write(f"{region} takes all of its traffic at the door.\n")


@app.command()
def add(
    region: Annotated[str, typer.Argument(help="Its name, for example sa.")],
    *,
    after: Annotated[str | None, typer.Option(help="The region behind which it stands in the topology.")] = None,
    data: Data = None,
) -> None:
    """Add a region to the running system; it serves when this returns. Asked again, it goes on where it stopped."""
    if not REGION_NAME.fullmatch(region):
        raise ClusterError(f"{region!r} is no region name (2 to 16 of a-z and 0-9, a letter first)")
    ask_supervisor(data, Request(action="add", name=region, after=after))


@app.command()
def drain(region: Region, *, data: Data = None) -> None:
    """Have a region take no new members, and nothing at the door."""
    ask_supervisor(data, Request(action="drain", name=region))


@app.command()
def remove(region: Region, *, data: Data = None) -> None:
    """Take a drained region out in which nobody ever lived. Asked again, it goes on where it stopped."""
    ask_supervisor(data, Request(action="remove", name=region))
