"""A stream that falls silent without ending is ended; one that has a reason to be silent is not."""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from command.migrate import create_slot
from tests import engine
from tests.cdc_node import SLOT_OF_TESTS, CdcNode, cdc_node
from tests.cdc_world import fill, settled
from tests.conftest import DatabasePair, eventually

SILENCE_MAX_MS = 2000
ENDED_DEADLINE_S = 30


@pytest.mark.skipif(engine.engine_name() != "embedded", reason="a container's processes are out of reach")
async def test_a_frozen_walsender_ends_the_projector_and_the_next_goes_on(
    tmp_path: Path, database: str, valkey_url: str
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    client = await asyncpg.connect(database)
    places = {"source": "pgoutput", "database": database, "valkey": valkey_url}
    async with cdc_node(tmp_path, **places, silence_max_ms=SILENCE_MAX_MS) as node:
        await node.start()
        pid = await client.fetchval("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", SLOT_OF_TESTS)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert await node.ended() == 1
        finally:
            os.kill(pid, signal.SIGCONT)
        assert "StreamSilent" in node.log()
        await fill(client)
        await node.start()
        async with Redis.from_url(valkey_url) as valkey:
            await settled(client, valkey)
    await client.close()


@asynccontextmanager
async def standby_away(pair: DatabasePair) -> AsyncGenerator[None]:
    """Commits do not wait for it; what the slot sends does."""
    primary, standby = [await asyncpg.connect(url) for url in (pair.primary, pair.standby)]
    try:
        await primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        await standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        for server in (primary, standby):
            await server.execute("SELECT pg_reload_conf()")
        yield
    finally:
        for server, setting in ((standby, "primary_conninfo"), (primary, "synchronous_standby_names")):
            await server.execute(f"ALTER SYSTEM RESET {setting}")
            await server.execute("SELECT pg_reload_conf()")
            await server.close()


async def silent_for(node: CdcNode, silence_ms: int) -> None:
    async def lags() -> bool:
        assert node.process is not None
        assert node.process.returncode is None, node.log()
        return ((await node.status()).get("lag_ms") or 0) > silence_ms

    await eventually(lags, deadline_s=ENDED_DEADLINE_S)


async def test_a_standby_that_is_away_does_not_end_the_projector(
    tmp_path: Path, database_pair: DatabasePair, valkey_url: str
) -> None:
    await create_slot(database_pair.primary, SLOT_OF_TESTS)
    client = await asyncpg.connect(database_pair.primary)
    places = {"source": "pgoutput", "database": database_pair.primary, "valkey": valkey_url}
    async with cdc_node(tmp_path, **places, silence_max_ms=SILENCE_MAX_MS) as node:
        await node.start()
        async with standby_away(database_pair):
            await silent_for(node, 3 * SILENCE_MAX_MS)
            await fill(client)
        async with Redis.from_url(valkey_url) as valkey:
            await settled(client, valkey)
        assert node.process is not None
        assert node.process.returncode is None, node.log()
    await client.close()
