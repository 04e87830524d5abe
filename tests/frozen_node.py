"""A query node that takes questions and answers none before it thaws."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from query.node import NODE
from tests.query_world import World


class FrozenNode:
    """Takes connections and questions; answers none before it thaws."""

    def __init__(self) -> None:
        self.asked = 0
        self.thawed = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked += not head.startswith(b"GET /livez ")
                await self.thawed.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def frozen(world: World) -> AsyncGenerator[FrozenNode]:
    node = FrozenNode()
    server = await asyncio.start_server(node.take, "127.0.0.1", 0)
    nodes = world.apps["eu"][NODE].topology.current.document.regions["us"].query
    nodes[:] = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"]
    try:
        yield node
    finally:
        node.thawed.set()
        server.close()
