"""A primary that shuts down does not wait for its projector."""

import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from command.migrate import create_slot
from tests import engine
from tests.cdc_node import SLOT_OF_TESTS, cdc_node
from tests.cdc_world import fill, settled
from tests.conftest import eventually
from tests.engine import PostgresServer, embedded_postgres, in_database

STOP_DEADLINE_S = 300  # a projector that stays is waited for without end
WITNESS = """SELECT pid FROM pg_stat_activity
WHERE application_name = 'loyalty cdc' AND datname = current_database() AND backend_type = 'client backend'"""


@pytest.fixture
async def own_server() -> AsyncGenerator[PostgresServer]:
    if engine.engine_name() == "containers":
        pytest.skip("a container's processes are out of reach")
    async with embedded_postgres() as server:
        yield server


@pytest.mark.timeout(600)  # a JVM that starts and ends beside much other work takes minutes
@pytest.mark.parametrize("source", ["pgoutput", "debezium"])
async def test_a_primary_that_shuts_down_does_not_wait_for_its_projector(
    tmp_path: Path, own_server: PostgresServer, valkey_url: str, source: str
) -> None:
    database = await own_server.create_database()
    await create_slot(database, SLOT_OF_TESTS)
    client = await asyncpg.connect(database)
    async with cdc_node(tmp_path, source=source, database=database, valkey=valkey_url) as node:
        await node.start()
        await fill(client)
        async with Redis.from_url(valkey_url) as valkey:
            await settled(client, valkey)
        postmaster = psutil.Process(await client.fetchval("SELECT pg_backend_pid()")).parent()
        assert postmaster is not None
        postmaster.send_signal(signal.SIGINT)

        async def has_stopped() -> bool:
            return not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE

        await eventually(has_stopped, deadline_s=STOP_DEADLINE_S)
        assert await node.ended() == 1
    client.terminate()


@pytest.mark.timeout(180)
async def test_a_primary_that_is_frozen_and_overtaken_is_left(tmp_path: Path, valkey_url: str) -> None:
    """No connection to it ever says so, and nobody kills it."""
    if engine.engine_name() == "containers":
        pytest.skip("a container's processes are out of reach")
    async with embedded_postgres(standby=True) as pair:
        assert pair.standby_url
        database = await pair.create_database()
        standby = in_database(pair.standby_url, database.rpartition("/")[2])
        await create_slot(database, SLOT_OF_TESTS)
        client = await asyncpg.connect(database)
        async with cdc_node(tmp_path, source="pgoutput", database=database, standby=standby, valkey=valkey_url) as node:
            await node.start()
            postmaster = psutil.Process(await client.fetchval("SELECT pg_backend_pid()")).parent()
            assert postmaster is not None
            frozen = [postmaster, *postmaster.children()]
            for process in frozen:
                process.suspend()
            try:
                promoted = await asyncpg.connect(standby)
                await promoted.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
                await promoted.execute("SELECT pg_reload_conf()")
                assert await promoted.fetchval("SELECT pg_promote()")
                assert await node.ended() == 1
                await node.start()
                await fill(promoted)
                async with Redis.from_url(valkey_url) as valkey:
                    await settled(promoted, valkey)
                await promoted.close()
            finally:
                for process in frozen:
                    process.resume()
        client.terminate()


async def test_a_projector_whose_own_connection_is_ended_stays(
    tmp_path: Path, database: str, valkey_url: str, client: asyncpg.Connection
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    async with cdc_node(tmp_path, source="pgoutput", database=database, valkey=valkey_url) as node:
        await node.start()
        ended = {row["pid"] for row in await client.fetch(WITNESS)}
        assert ended
        await client.execute(f"SELECT pg_terminate_backend(pid) FROM ({WITNESS}) AS own")  # noqa: S608

        async def replaced() -> bool:
            found = {row["pid"] for row in await client.fetch(WITNESS)}
            return bool(found - ended)

        await eventually(replaced)
        assert await node.streams()
        await fill(client)
        async with Redis.from_url(valkey_url) as valkey:
            await settled(client, valkey)
