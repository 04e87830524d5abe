"""Prepares servers that something else started: `python -m cluster.setup TOPOLOGY`, once per deployment and release.

Each shard gets its schema, publication and slot, all of them one program; the documents that nodes read are written to
the data folder, which the nodes share. All of it keeps what is there, so it may run again at any time. A region that
joins, or that the document lacks from now on, has its claims and receipts moved (cluster/transition.py).
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import typer

from cdc.slot import find_primary
from cluster.document import Documents
from cluster.errors import ClusterError, in_words
from cluster.files import alone
from cluster.key import ensure_keys
from cluster.login import secure, superuser_urls
from cluster.password import Passwords, read_passwords
from cluster.postgres import keep_for_standby, wait_streaming
from cluster.respell import lines_of, respell_system
from cluster.system import ensure_program, read_program
from cluster.transition import leaving, take_over
from command.migrate import create_slot, migrate
from shard_router.errors import DocumentError
from shard_router.login import complete
from shard_router.server import SERVER_ERRORS
from shard_router.topology import TopologyDocument, read_topology

PRIMARY_DEADLINE_S = 60.0
PRIMARY_RETRY_S = 0.5


def main(  # noqa: PLR0913 - one for each option
    topology: Annotated[Path, typer.Argument(help="Topology document (JSON); its epoch is kept by the data folder.")],
    *,
    data: Annotated[Path, typer.Option(envvar="LOYALTY_DATA", help="Folder for the documents of the nodes.")],
    password: Annotated[
        str | None,
        typer.Option(envvar="LOYALTY_POSTGRES_PASSWORD", help="For every server whose address has a user alone."),
    ] = None,
    program: Annotated[
        Path | None, typer.Option(help="Program to apply; else the default where there is none.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Also make logins, database and standby slot, and wait for the standby.")
    ] = False,
    logins: Annotated[
        bool, typer.Option("--logins", help="Likewise, but somebody else keeps the standbys: Patroni, CloudNativePG.")
    ] = False,
) -> None:
    """Prepare every shard of a topology and write the documents that its nodes read."""
    try:
        documents = Documents(data)
        document = with_password(_read(topology), password)
        passwords = read_passwords(documents.secrets) if bare or logins else None
        version, words = asyncio.run(_set_up(document, program, documents, passwords, keeps_standby=not logins))
        ensure_keys(documents)
        told = asyncio.run(respell_system(documents.topology, once=True))
    except (ClusterError, DocumentError, *SERVER_ERRORS) as error:
        sys.stderr.write(f"{in_words(error)}\n")
        raise typer.Exit(1) from None
    sys.stdout.write("".join(f"{line}\n" for line in (*words, *(lines_of(told) if told else ()))))
    sys.stdout.write(f"{len(document.shards)} shards are ready, program version {version}, documents in {data}\n")


def _read(path: Path) -> TopologyDocument:
    try:
        return read_topology(path).document
    except DocumentError as error:
        raise ClusterError(str(error)) from error


def with_password(document: TopologyDocument, password: str | None) -> TopologyDocument:
    """The topology with the password in every server address that names a user and no password."""
    if password is None:
        return document
    shards = {
        name: shard.model_copy(update={"servers": [_with_password(url, password) for url in shard.servers]})
        for name, shard in document.shards.items()
    }
    return document.model_copy(update={"shards": shards})


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    if parts.username is None or parts.password is not None:
        return url
    user, _, address = parts.netloc.partition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}").geturl()


async def _set_up(
    document: TopologyDocument,
    program: Path | None,
    documents: Documents,
    passwords: Passwords | None,
    *,
    keeps_standby: bool,
) -> tuple[int, list[str]]:
    """Prepare all shards, and make the document the topology in force; the program version, and what else was done.

    ClusterError where somebody does so already: one would write down again what the other has changed since.
    """
    with alone(documents.setup_lock):
        before = leaving(documents, document)
        version = await prepare(document, program, documents, passwords, keeps_standby=keeps_standby)
        owner = documents.logins().postgres
        shards = {**(before.shards if before else {}), **document.shards}
        found = [_wait_primary(name, [complete(url, owner) for url in shard.servers]) for name, shard in shards.items()]
        primaries = dict(zip(shards, await asyncio.gather(*found), strict=True))
        return version, await take_over(documents, document, primaries)


async def prepare(
    document: TopologyDocument,
    program: Path | None,
    documents: Documents,
    passwords: Passwords | None,
    *,
    keeps_standby: bool = True,
) -> int:
    """Bring every shard to this code's schema and to one program; the program version in force.

    With the passwords of all logins, servers that have nothing but their superuser get all the rest; what a standby of
    ours needs, unless somebody else keeps the standbys.
    """
    read_program(program)
    shards = document.shards.items()
    if passwords is not None:
        await asyncio.gather(
            *(_found(name, shard.servers, passwords, keeps_standby=keeps_standby) for name, shard in shards)
        )
    urls = await asyncio.gather(*(_prepare_shard(name, shard.servers, documents) for name, shard in shards))
    return await ensure_program(list(urls), program)


async def _found(name: str, servers: Sequence[str], passwords: Passwords, *, keeps_standby: bool) -> None:
    """Make logins, database and, for a pair of ours, the standby's slot; return when the standby streams."""
    bare = await _wait_primary(name, [url for server in servers for url in superuser_urls(server, passwords)])
    superuser = await secure(bare, passwords)
    if keeps_standby and len(servers) > 1:
        await keep_for_standby(superuser)
        await wait_streaming(superuser, f"the standby of {name}")


async def _prepare_shard(name: str, servers: Sequence[str], documents: Documents) -> str:
    owner, projector = documents.logins().postgres, documents.projector().postgres
    url = await _wait_primary(name, [complete(server, owner) for server in servers])
    await migrate(url)
    place = next(server for server in servers if complete(server, owner) == url)
    await create_slot(complete(place, projector))
    return url


async def _wait_primary(name: str, servers: Sequence[str]) -> str:
    """The server that takes writes; ClusterError when none does in time."""
    deadline = asyncio.get_running_loop().time() + PRIMARY_DEADLINE_S
    while (url := await find_primary(list(servers))) is None:
        if asyncio.get_running_loop().time() > deadline:
            raise ClusterError(f"{name}: no Postgres server takes writes after {PRIMARY_DEADLINE_S:.0f} s")
        await asyncio.sleep(PRIMARY_RETRY_S)
    return url


if __name__ == "__main__":
    typer.run(main)
