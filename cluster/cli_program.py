"""`loyalty program show|check|apply`: campaigns, tiers, rewards and stores as a reviewed file.

cluster/cli.py takes it in. Only words and flags are here; the work is in cluster/program.py, imported when it runs.
"""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.command_line import Commands, Data, documents_of, instant_of, say
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from cluster.program import Shards

app = Commands(help="The program: what earns points, tiers, rewards and stores.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The program file (TOML).")]
Topology = Annotated[Path | None, typer.Option("--topology", help="Topology document instead of a data folder's.")]


@app.command()
def show(
    *,
    output: Annotated[
        Path | None, typer.Option(help="Write the text to this file, whole or, when it cannot be read, not at all.")
    ] = None,
    data: Data = None,
    topology: Topology = None,
) -> None:
    """Print the text of the running version; its number goes to standard error."""
    from cluster.files import write_atomic  # noqa: PLC0415
    from cluster.program import look_at  # noqa: PLC0415 - see above

    shards = asyncio.run(look_at(_topology(data, topology)))
    if shards.running is None:
        raise ClusterError("no program runs yet: `loyalty program apply FILE`")
    sys.stderr.write(f"# program version {shards.running.number}, {shards.running.since}\n")
    for version in shards.to_come:
        sys.stderr.write(f"# version {version.number} is {version.since}\n")
    text = shards.running.source.rstrip("\n") + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomic(output, text)


@app.command()
def check(file: File, *, data: Data = None, topology: Topology = None) -> None:
    """Validate a file and show what it would change; exit 1 when it is wrong."""
    from cluster.program import changes, look_at, read_file  # noqa: PLC0415

    _, program = read_file(file)
    say(f"{file} is valid.")
    document = _topology(data, topology)
    if topology is None and not document.exists():
        say(f"There is no system in {document.parent} to compare it with.")
        return
    shards = asyncio.run(look_at(document))
    _tell_changes(shards, changes(shards.running, program))


@app.command()
def apply(
    file: File,
    *,
    at: Annotated[str | None, typer.Option("--at", help="From this instant on (RFC 3339); else at once.")] = None,
    data: Data = None,
    topology: Topology = None,
) -> None:
    """Apply a file to all shards as a new version; exit 1, and nothing changes, when it is wrong."""
    from cluster.program import apply_everywhere, changes, look_at, read_file  # noqa: PLC0415

    effective_at = _instant_ahead(at) if at is not None else None
    source, program = read_file(file)

    async def run() -> None:
        document = _topology(data, topology)
        before = await look_at(document)
        _tell_changes(before, changes(before.running, program))
        version = await apply_everywhere(before, source, effective_at)
        after = await look_at(document)
        say(f"Version {version} is on {len(after.urls)} shards, {after.versions[version].since}.")
        if version not in before.versions:
            for old in before.overtaken(effective_at):
                say(f"Version {old.number} will never start: this one is newer. Apply its file again with --at.")

    asyncio.run(run())


def _tell_changes(shards: "Shards", lines: Sequence[str]) -> None:
    running = f"the running version {shards.running.number}" if shards.running else "nothing: no program runs yet"
    say(f"Against {running}:" if lines else f"It is the same as {running}.")
    for line in lines:
        say(f"  {line}")
    for version in shards.to_come:
        say(f"Version {version.number} is {version.since}.")
    if shards.behind:
        say(f"An earlier apply was cut short; not everything is on {', '.join(shards.behind)}.")


def _topology(data: Path | None, topology: Path | None) -> Path:
    return topology or documents_of(data).topology


def _instant_ahead(text: str) -> datetime:
    """An instant still ahead: entries of the past were decided under the versions of then."""
    moment = instant_of(text)
    if moment <= datetime.now(UTC):
        raise typer.BadParameter("it lies in the past; leave it out to apply at once", param_hint="--at")
    return moment
