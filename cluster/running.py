"""Whether anything runs where a command of the command line wants to look: told in one line when nothing does."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from cluster.document import Documents
from cluster.errors import ClusterError
from shard_router.errors import DocumentError
from shard_router.topology import TopologyDocument, read_topology

CONNECT_TIMEOUT_S = 1.0


async def running_topology(path: Path) -> TopologyDocument:
    """The topology of a system of which at least one Postgres server takes connections; ClusterError otherwise."""
    document = _read(path)
    servers = [url for shard in document.shards.values() for url in shard.servers]
    if not any(await asyncio.gather(*map(_listens, servers))):
        raise ClusterError(
            f"nothing runs here: none of the {len(servers)} Postgres servers of {path} takes connections."
            " `loyalty up` brings the system up."
        )
    return document


def _read(path: Path) -> TopologyDocument:
    if not path.exists():
        raise ClusterError(
            f"nothing was ever started in {path.parent}: `loyalty up` brings a system up, --data names another folder"
        )
    try:
        return read_topology(path, Documents(path.parent).logins()).document
    except DocumentError as error:
        raise ClusterError(str(error)) from error


async def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 5432)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
