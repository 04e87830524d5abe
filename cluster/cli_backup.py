"""`loyalty backup` and `loyalty restore`: base backups of the embedded shards, and going back to them.

cluster/cli.py takes them in. Only words and flags are here; the work is in cluster/backup.py, imported when it runs.
"""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cluster.command_line import Commands, Data, instant_of, say
from cluster.document import plan_of

app = Commands()

Archive = Annotated[Path | None, typer.Option(help="Folder of the WAL archive, as the system was started with.")]


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Where to: a folder is made in it for each shard.")],
    shard: Annotated[list[str] | None, typer.Option(help="Only this shard; may be given many times.")] = None,
    *,
    data: Data = None,
) -> None:
    """Make a base backup of each shard while the system runs."""
    from cluster.backup import back_up  # noqa: PLC0415

    for made in asyncio.run(back_up(plan_of({"data": data}), folder.expanduser().resolve(), shard or ())):
        say(f"{made} is a base backup")


@app.command()
def restore(
    shard: Annotated[str, typer.Argument(help="The shard, for example eu-1.")],
    folder: Annotated[Path, typer.Argument(help="The folder of the backup.")],
    *,
    at: Annotated[str | None, typer.Option("--at", help="Up to this instant (RFC 3339); else to the end.")] = None,
    archive: Archive = None,
    data: Data = None,
) -> None:
    """Put a backup in the place of a shard, while nothing runs; then `loyalty up` and `loyalty reconcile`."""
    from cluster.backup import restore as put_back  # noqa: PLC0415

    plan, instant = plan_of({"data": data, "archive": archive}), instant_of(at) if at is not None else None
    say(put_back(plan, shard, folder.expanduser().resolve(), instant))
    say("Go on with `loyalty up`, then `loyalty reconcile`.")
