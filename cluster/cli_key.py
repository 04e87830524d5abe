"""`loyalty key`, `keys` and `revoke`: API keys, made, listed and taken back while the system runs.

cluster/cli.py takes them in. Of a key only the hash is kept, so it is shown once; people know it by its id and name.
"""

import asyncio
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.command_line import Commands, Data, Json, documents_of, screen
from cluster.errors import ClusterError
from cluster.key import KEY_ROLES, add_key, read_credentials, revoke_key
from cluster.node import key_in_force
from shard_router.topology import read_topology

app = Commands()
token_app = Commands(help="Credentials for development.", no_args_is_help=True)
"""The commands below `loyalty token`: a member's is in cluster/cli.py."""


@token_app.command()
@app.command()
def key(
    role: Annotated[str, typer.Argument(help="pos, service or admin.")],
    *,
    store: Annotated[str | None, typer.Option(help="Bind a pos key to one store of the program.")] = None,
    desk: Annotated[
        bool, typer.Option("--desk", help="Let a bound key transfer points and change what members are found by.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Who is to have it; `loyalty keys` shows that.")] = None,
    data: Data = None,
) -> None:
    """Make a new API key and print it, this once, when the nodes that run know it."""
    if role not in KEY_ROLES:
        raise ClusterError(f"no role {role!r}: choose one of {', '.join(KEY_ROLES)}")
    documents = documents_of(data)
    if store is not None:
        from cluster.program import check_store  # noqa: PLC0415 - heavy, and only a bound key needs it

        if role != "pos":
            raise ClusterError("--store binds a pos key; other roles act for all stores")
        asyncio.run(check_store(documents.topology, store))
    elif desk:
        raise ClusterError("--desk is a right of a key that is bound by --store; others have it")
    nodes = read_topology(documents.topology).document if documents.topology.exists() else None
    text = add_key(documents, role, store, desk=desk, name=name)
    if nodes is not None:
        asyncio.run(key_in_force(nodes, text))
    sys.stdout.write(text + "\n")


@app.command()
def keys(*, data: Data = None, as_json: Json = False) -> None:
    """List the API keys that are in force, without their secrets."""
    records = read_credentials(documents_of(data)).keys
    if as_json:
        shown = [record.model_dump(exclude={"sha256"}) for record in records]
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return
    table = Table(box=None, padding=(0, 1))
    for column in ("id", "role", "store", "desk", "made", "name"):
        table.add_column(column, no_wrap=column not in {"store", "name"}, overflow="fold")
    for one in records:
        table.add_row(one.id, one.role, one.store, "yes" if one.desk else "", (one.created_at or "")[:10], one.name)
    screen().print(table)


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="The key's id, or the key itself.")], *, data: Data = None) -> None:
    """Take an API key back: nodes refuse it within a second."""
    key_id = key.split("_")[1] if key.startswith("loy_") and key.count("_") > 1 else key
    record = revoke_key(documents_of(data), key_id)
    Console().print(f"{record.role} key {record.id} is revoked; nodes refuse it within a second.", highlight=False)
