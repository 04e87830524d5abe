"""What many integration tests stand on: connections of their own, and a projector."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from command.migrate import create_slot
from query import announcement, replica
from service import forward, health
from shard_router import pool
from tests.cdc_node import SLOT_OF_TESTS, CdcNode, cdc_node
from tests.engine import PostgresServer, ValkeyServer
from tests.query_servers import OwnValkey, own_valkey
from tests.query_world import ShardPlace

PATIENCE_S = 5.0
USUAL: dict[tuple[Any, str], float] = {
    (pool, "PROBE_TIMEOUT_S"): pool.PROBE_TIMEOUT_S,
    (pool, "ACQUIRE_TIMEOUT_S"): pool.ACQUIRE_TIMEOUT_S,
    (replica, "_MEASURE_TIMEOUT_S"): replica._MEASURE_TIMEOUT_S,
    (announcement, "_CONNECT_TIMEOUT_S"): announcement._CONNECT_TIMEOUT_S,
    (forward, "_CONNECT_TIMEOUT_S"): forward._CONNECT_TIMEOUT_S,
    (health, "_CHECK_TIMEOUT_S"): health._CHECK_TIMEOUT_S,
}


@pytest.fixture(scope="module", autouse=True)
def patient() -> Generator[None]:
    """Have nodes of this process wait for a server for longer than the machine stands still."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in USUAL:
            patch.setattr(module, name, PATIENCE_S)
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in production, for tests that ask what a silent server costs."""
    for (module, name), usual in USUAL.items():
        monkeypatch.setattr(module, name, usual)


@pytest.fixture
async def client(database: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def second_database(postgres_server: PostgresServer) -> AsyncGenerator[str]:
    """Another fresh migrated database, of another shard."""
    dsn = await postgres_server.create_database()
    yield dsn
    await postgres_server.drop_database(dsn)


@pytest.fixture
async def two_shards(database: str, second_database: str, valkey_server: ValkeyServer) -> dict[str, ShardPlace]:
    """A shard in each of two regions, in which nobody lives."""
    databases = {"eu-1": database, "us-1": second_database}
    return {name: ShardPlace([dsn], await valkey_server.fresh_url()) for name, dsn in databases.items()}


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncGenerator[Redis]:
    async with Redis.from_url(valkey_url) as connection:
        yield connection


@pytest.fixture
async def projector(tmp_path: Path, database: str, valkey_url: str) -> AsyncGenerator[CdcNode]:
    """A projector of its own, not yet started, with its slot."""
    await create_slot(database, SLOT_OF_TESTS)
    async with cdc_node(tmp_path, source="pgoutput", database=database, valkey=valkey_url) as made:
        yield made


@pytest.fixture
async def killable() -> AsyncGenerator[OwnValkey]:
    """A Valkey of the test's own."""
    async with own_valkey() as server:
        yield server
