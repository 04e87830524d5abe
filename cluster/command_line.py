"""What the commands of `loyalty` have in common: how they describe themselves, what they ask, and how they answer."""

import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.growth_request import Request, ask
from cluster.run_file import locked
from cluster.settings import read_settings

WIDE = 160  # the longest row of `status` or `verify`, some more
Data = Annotated[Path | None, typer.Option("--data", help="Data folder (default .loyalty/data here).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _with_plain_flags(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _with_plain_flags(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _with_plain_flags(super().get_params(ctx))


class Commands(typer.Typer):
    """A group of commands. A flag of theirs has a name, and no `<bool>` beside it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Take a function in as a command."""
        return super().command(name, cls=_Command, **settings)


def words_of(flags: Mapping[str, Any]) -> list[str]:
    """The flags as they are typed; None: not given."""
    words: list[str] = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def documents_of(data: Path | None) -> Documents:
    """The documents of the data folder that a flag, a variable or the settings name."""
    return Documents(read_settings({"data": data}).data.expanduser().resolve())


def running_folder(data: Path | None) -> Path:
    """The data folder; ClusterError when no supervisor runs on it."""
    folder = documents_of(data).data
    if not locked(folder):
        raise ClusterError(f"nothing runs on {folder}: `loyalty up` brings it up")
    return folder


def ask_supervisor(data: Path | None, request: Request) -> None:
    """Have the supervisor do it, and print what it says; ClusterError when nothing runs, or it refuses."""
    folder = running_folder(data)
    with Console(stderr=True).status(escape(f"{request.action} {request.name} …")):
        words = ask(folder, request)
    sys.stdout.write(words + "\n")


def instant_of(text: str) -> datetime:
    """The instant that `--at` names; wrong usage without a zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter("write the instant with its zone, like 2026-12-01T00:00:00Z", param_hint="--at")
    return moment


def screen() -> Console:
    """The terminal; a file, which has no width of its own, is as wide as the rows of our tables."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


def say(text: str) -> None:
    """Print a line as it is, however long."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
