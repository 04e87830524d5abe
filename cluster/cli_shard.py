"""`loyalty shard`: how a region of a running system grows, and shrinks again. cluster/cli.py takes it in."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.command_line import Commands, Data, running_folder
from cluster.growth_request import Request, ask

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


def ask_supervisor(data: Path | None, request: Request) -> None:
    """Have the supervisor do it, and print what it says; ClusterError when nothing runs, or it refuses."""
    folder = running_folder(data)
    with Console(stderr=True).status(f"{request.action} {request.name} …"):
        words = ask(folder, request)
    sys.stdout.write(words + "\n")
