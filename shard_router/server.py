"""What a Postgres server says of itself: its role, how far behind it is, its slots, its clock and its version."""

import os
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from shard_router.statement import load_statements

CDC_SLOT: Final = "loyalty_cdc"
"""The slot from which the projector of a shard reads its changes."""
STATEMENTS: Final = load_statements(Path(__file__).with_name("server.sql"))
SERVER_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Whatever keeps a server from answering, time that is up too. The last is what asyncpg says of a connection that the
server ended between the two messages of a statement."""

_ENDED: Final = (ConnectionError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_OS_ERROR: Final = re.compile(r"\[Errno (\d+)\]")
_PORTS: Final = {"redis": 6379, "rediss": 6379}
_PORT: Final = 5432


def place_of_server(url: str) -> str:
    """Host and port of a server's address, without who connects how."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or _PORTS.get(parts.scheme, _PORT)}"


def trouble_of(error: BaseException) -> str:
    """What keeps a server from answering, in words: what a driver says is about its own state, or has numbers."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and (number := error.errno or _number_within(error)):
        return f"{error.filename}: {error.strerror}" if error.filename else os.strerror(number)
    if isinstance(error, _ENDED) and not isinstance(error, asyncpg.ClientConfigurationError):
        return "the connection ended"
    return str(error).partition("\n")[0] or type(error).__name__


def _number_within(error: OSError) -> int:
    """Of one that tells of several addresses."""
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else 0


@asynccontextmanager
async def connection_to(url: str, **settings: Any) -> AsyncGenerator[Any]:
    """A connection of one's own, closed at the end; settings are those of `asyncpg.connect`."""
    connection = await asyncpg.connect(url, **settings)
    try:
        yield connection
    finally:
        await connection.close()


async def read_server(connection: asyncpg.Connection) -> tuple[Any, float]:
    """Role, position, lag and version of the server at the other end, and how far its clock is ahead (s)."""
    statement = await connection.prepare(STATEMENTS["server"])
    began_s = time.time()
    row: Any = await statement.fetchrow()
    return row, row["clock_s"] - (began_s + time.time()) / 2


async def read_slots(connection: asyncpg.Connection) -> list[Any]:
    """Its slots, on a standby the copies of the primary's."""
    return await connection.fetch(STATEMENTS["slots"])


async def wait_for_standby(connection: Any) -> None:
    """Return, or within a transaction have its commit return, when a standby has all that is seen here.

    For steps that may be repeated: one that was cut short while it waited is there to be seen, nothing is left to be
    written, and so nobody would wait; with the primary it would be lost after others have gone on from it.
    """
    await connection.execute(STATEMENTS["wait_for_standby"])
