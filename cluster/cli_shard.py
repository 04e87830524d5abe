"""`loyalty shard`: how a region of a running system grows, and shrinks again. cluster/cli.py takes it in."""

from typing import Annotated

import typer

from cluster.command_line import Commands, Data, ask_supervisor
from cluster.growth_request import Request

app = Commands(help="Shards of a running system.", no_args_is_help=True)


@app.callback()
def describe() -> None:
    """Shards of a running system."""


@app.command()
def add(
    shard: Annotated[str, typer.Argument(help="Its name: the region's and a number, for example eu-2.")],
    *,
    data: Data = None,
) -> None:
    """Add a shard to a region; it takes new members when this returns. Asked again, it goes on where it stopped."""
    ask_supervisor(data, Request(action="add shard", name=shard))


@app.command()
def remove(
    shard: Annotated[str, typer.Argument(help="Its name, for example eu-2.")],
    *,
    data: Data = None,
) -> None:
    """Take a shard out that was added and in which nobody ever lived. Asked again, it goes on where it stopped."""
    ask_supervisor(data, Request(action="remove shard", name=shard))
