"""What many integration tests stand on: connections of their own, and a projector."""

from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from command.migrate import create_slot
from tests.cdc_node import SLOT_OF_TESTS, CdcNode, cdc_node
from tests.query_servers import OwnValkey, own_valkey


@pytest.fixture
async def client(database: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


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
