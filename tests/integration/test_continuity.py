"""A slot that is lost is made anew; only a database that was put back, or lost what views show, counts as restored."""

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
from tests.cdc_world import ADD_ENTRIES, DEADLINE_S, MARK, MEMBERS, fill, settled
from tests.conftest import eventually
from tests.engine import PostgresServer, embedded_postgres, in_database

INCARNATIONS = "SELECT count(*) FROM incarnation WHERE reconciled_at IS NULL"
PROVEN = "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical' AND starts_with(slot_name, $1 || '_')"


async def lose_slot(node: CdcNode, client: asyncpg.Connection) -> None:
    """End the projector and drop its slot by hand."""
    await node.end(signal.SIGKILL)

    async def dropped() -> bool:
        try:
            await client.execute("SELECT pg_drop_replication_slot($1)", SLOT_OF_TESTS)
        except asyncpg.ObjectInUseError:  # its dead holder does not let go yet
            return False
        return True

    await eventually(dropped, deadline_s=DEADLINE_S)


async def test_a_slot_dropped_by_hand_costs_a_rebuild_and_no_incarnation(
    projector: CdcNode, database: str, client: asyncpg.Connection, valkey: Redis
) -> None:
    await client.execute("INSERT INTO reward_stock (reward, allotted, redeemed) VALUES ('mug', 10, 3)")
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await lose_slot(projector, client)
    await client.execute(ADD_ENTRIES, MEMBERS, 1)
    await create_slot(database, SLOT_OF_TESTS)
    await projector.start()
    await settled(client, valkey)
    await eventually(projector.complete)
    assert await client.fetchval(INCARNATIONS) == 0
    assert await client.fetchval("SELECT allotted FROM reward_stock") == 10


async def test_a_journal_that_was_replaced_is_restored_though_the_server_is_the_same(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await client.execute("CREATE TABLE dump AS TABLE journal")
    await lose_slot(projector, client)
    await client.execute("TRUNCATE journal CASCADE; INSERT INTO journal SELECT * FROM dump WHERE version < 3")
    await projector.start()
    await eventually(projector.complete, deadline_s=DEADLINE_S)
    assert await client.fetchval(INCARNATIONS) == 1


async def test_a_server_without_what_views_show_is_restored_though_it_was_one_of_the_shard(
    projector: CdcNode, database: str, client: asyncpg.Connection, valkey: Redis
) -> None:
    """A standby that was behind, and promoted by hand; setup may come first."""
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await lose_slot(projector, client)
    await valkey.hset(MARK, "watermark", 2**52)  # pyright: ignore[reportGeneralTypeIssues]
    await create_slot(database, SLOT_OF_TESTS)
    await projector.start()
    await eventually(projector.complete, deadline_s=DEADLINE_S)
    assert await client.fetchval(INCARNATIONS) == 1


@asynccontextmanager
async def followed(folder: Path, pair: PostgresServer, valkey_url: str) -> AsyncGenerator[tuple[CdcNode, str, str]]:
    """A projector of two servers, of which the standby copies no slots; the node and the database on each."""
    assert pair.standby_url
    database = await pair.create_database()
    standby = in_database(pair.standby_url, database.rpartition("/")[2])
    connection = await asyncpg.connect(pair.standby_url)
    await connection.execute("ALTER SYSTEM SET sync_replication_slots = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    await create_slot(database, SLOT_OF_TESTS)
    async with cdc_node(folder, source="pgoutput", database=database, standby=standby, valkey=valkey_url) as node:
        yield node, database, standby


@pytest.mark.timeout(180)
async def test_a_standby_promoted_without_the_slot_costs_a_rebuild_and_no_incarnation(
    tmp_path: Path, valkey_url: str
) -> None:
    if engine.engine_name() == "containers":
        pytest.skip("the standby a commit waits for is fixed on the container's command line")
    async with (
        embedded_postgres(standby=True) as pair,
        followed(tmp_path, pair, valkey_url) as (node, database, standby),
        Redis.from_url(valkey_url) as valkey,
    ):
        await node.start()
        client = await asyncpg.connect(database)
        await fill(client)
        await settled(client, valkey)
        promoted = await asyncpg.connect(standby)

        async def proven() -> bool:
            return await promoted.fetchval(PROVEN, SLOT_OF_TESTS) == 1

        await eventually(proven, deadline_s=DEADLINE_S)
        await node.end(signal.SIGKILL)
        client.terminate()
        await promoted.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        await promoted.execute("SELECT pg_reload_conf()")
        assert await promoted.fetchval("SELECT pg_promote()")
        assert not await promoted.fetchval(
            "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)", SLOT_OF_TESTS
        )
        await promoted.execute(ADD_ENTRIES, MEMBERS, 1)
        await node.start()
        await settled(promoted, valkey)
        assert await promoted.fetchval(INCARNATIONS) == 0
        await promoted.close()
