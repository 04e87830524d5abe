"""A node of a checkout as a process of its own, with one shard and no neighbours: to hold trees against each other."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import orjson

from benchmarks.wire import Client, WireError
from service.credential import new_key, new_secret
from shard_router.member_id import SLOT_COUNT

REGION: Final = "eu"
SHARD: Final = "eu-1"
START_S: Final = 30.0
_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """Where the one shard is, and a folder for documents."""

    folder: Path
    servers: Sequence[str]
    valkey: str = "redis://none"


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_topology(path: Path, place: Place, **nodes: Sequence[str]) -> None:
    """The topology of a region with this shard and these nodes."""
    shard = {"region": REGION, "slots": [[0, SLOT_COUNT - 1]], "servers": place.servers, "valkey": place.valkey}
    region = {"number": 1, "command": [], "query": []} | nodes
    path.write_bytes(orjson.dumps({"epoch": 1, "regions": {REGION: region}, "shards": {SHARD: shard}}))


def write_key(place: Place) -> str:
    """A key that all nodes of a place take: of an admin, who alone may have many requests under way."""
    key, record = new_key("admin")
    document = {"keys": [record.model_dump(exclude_none=True)], "forward_keys": [new_secret()]}
    (place.folder / "credentials.json").write_bytes(orjson.dumps(document))
    return key


@asynccontextmanager
async def node_of(
    tree: str, kind: Literal["command", "query"], place: Place, key: str, *, asked: str = "/readyz", **settings: object
) -> AsyncGenerator[tuple[Client, int]]:
    """A client of a node for the length of the block, and the node's process; it is there once `asked` is answered."""
    port = free_port()
    topology = place.folder / f"{port}.json"
    write_topology(topology, place, **{kind: [f"http://127.0.0.1:{port}"]})
    given = {"region": REGION, "topology": topology} | settings
    async with node_at(tree, kind, place, key, asked=asked, port=port, **given) as node:
        yield node


@asynccontextmanager
async def node_at(  # noqa: PLR0913 - what a node is
    tree: str, kind: Literal["command", "query"], place: Place, key: str, *, asked: str, port: int, **settings: object
) -> AsyncGenerator[tuple[Client, int]]:
    """The same of a node at a port, with these settings."""
    settings |= {"port": port, "credentials": place.folder / "credentials.json"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
    given = {f"LOYALTY_{name.upper()}": str(value) for name, value in settings.items()}
    with (place.folder / f"{port}.log").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", kind, cwd=tree, env=kept | given | {"PYTHONPATH": tree}, stderr=errors
        )
    client = Client(f"http://127.0.0.1:{port}", key)
    try:
        async with asyncio.timeout(START_S):
            while not await _answers(client, asked):  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(_PAUSE_S)
        yield client, process.pid
    finally:
        client.close()
        process.terminate()
        await process.wait()


async def _answers(client: Client, path: str) -> bool:
    try:
        return (await client.get(path)).code == "ok"
    except WireError:
        return False
