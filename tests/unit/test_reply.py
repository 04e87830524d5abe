"""Who answers at all, as the supervisor asks: each time by a connection of its own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from cluster import node, valkey


@asynccontextmanager
async def server(answer: bytes) -> AsyncGenerator[str]:
    """Says the same to everybody, and hangs up."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "node_lives", "valkey_lives"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nok", True, False, id="a node"),
        pytest.param(b"HTTP/1.1 500 Internal Server Error\r\n\r\n", True, False, id="a node with a fault"),
        pytest.param(b"+PONG\r\n", False, True, id="a Valkey that lets anybody in"),
        pytest.param(b"-NOAUTH Authentication required.\r\n", False, True, id="a Valkey that wants a password"),
        pytest.param(b"-LOADING Valkey is loading\r\n", False, False, id="a Valkey that cannot serve"),
        pytest.param(b"HTTP/1.1 200", False, False, id="an answer cut short"),
        pytest.param(b"-" * 100_000, False, False, id="a line without an end"),
        pytest.param(b"", False, False, id="no word"),
    ],
)
async def test_who_answers_lives(answer: bytes, *, node_lives: bool, valkey_lives: bool) -> None:
    async with server(answer) as place:
        assert (await node.alive(f"http://{place}") is None) == node_lives
        assert (await valkey.alive(f"redis://user:secret@{place}") is None) == valkey_lives


async def test_who_refuses_connections_does_not_live() -> None:
    async with server(b"") as place:
        pass
    assert await node.alive(f"http://{place}") == "ConnectionRefusedError"
    assert await valkey.alive(f"redis://{place}") == "ConnectionRefusedError"
