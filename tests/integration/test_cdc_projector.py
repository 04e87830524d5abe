"""The projector process against what can happen to it: the views always come to what the tables hold."""

import asyncio
import signal
from collections.abc import Generator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from cluster.rebuild import _rebuild
from command.migrate import create_slot
from tests import engine
from tests.cdc_node import SLOT_OF_TESTS, CdcNode, cdc_node, write_topology
from tests.cdc_world import ADD_ENTRIES, DEADLINE_S, LONG, MARK, MEMBERS, fill, settled
from tests.conftest import eventually
from tests.engine import ValkeyServer, as_superuser


async def test_without_a_slot_one_is_made_and_all_that_stood_before_is_filled_in(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await client.execute("SELECT pg_drop_replication_slot($1)", SLOT_OF_TESTS)
    await fill(client, entries=60)
    await projector.start()
    await client.execute(ADD_ENTRIES, MEMBERS[:5], 4)
    await eventually(projector.complete)
    await settled(client, valkey)
    assert await projector.end(signal.SIGTERM) == 0, projector.log()


@pytest.mark.parametrize("source", ["pgoutput", "debezium"])
async def test_killed_while_it_works_it_goes_on_without_loss_or_double(
    tmp_path: Path, database: str, valkey_url: str, client: asyncpg.Connection, valkey: Redis, source: str
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    async with cdc_node(tmp_path, source=source, database=database, valkey=valkey_url) as node:
        await node.start()
        await eventually(node.complete)
        await fill(client)
        for _ in range(30):
            await client.execute(ADD_ENTRIES, MEMBERS, 3)

        async def some_applied() -> bool:
            return bool(await valkey.exists(f"a:{MEMBERS[-1]}"))

        await eventually(some_applied, deadline_s=DEADLINE_S)
        await node.end(signal.SIGKILL)
        await client.execute(ADD_ENTRIES, MEMBERS, 2)
        await node.start()
        await settled(client, valkey)
        assert (await node.status())["rebuild"]["completed"] == 0
        assert await node.end(signal.SIGTERM) == 0, node.log()
        assert "stream_ended" not in node.log()


async def test_an_emptied_valkey_is_refilled(projector: CdcNode, client: asyncpg.Connection, valkey: Redis) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await valkey.flushdb()
    await settled(client, valkey)
    await eventually(projector.complete)
    assert await valkey.hget(MARK, "complete") == b"1"


@pytest.fixture
def own_folder() -> Generator[Path]:
    with engine.server_folder() as folder:
        yield folder


async def test_a_valkey_that_is_away_is_waited_for_and_refilled_when_it_comes_back_empty(
    tmp_path: Path, own_folder: Path, database: str, client: asyncpg.Connection
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    spec, url = engine.valkey_process(own_folder)
    url = f"{url}/0"
    places = {"source": "pgoutput", "database": database, "valkey": url}
    async with cdc_node(tmp_path, **places, silence_max_ms=1000) as node:
        async with engine.running(spec):
            await node.start()
            await fill(client)
            await eventually(node.complete)
        await client.execute(ADD_ENTRIES, MEMBERS, 1)

        async def lag_grows() -> bool:
            return ((await node.status())["lag_ms"] or 0) > 2000

        await eventually(lag_grows, deadline_s=DEADLINE_S)
        assert (await node.call("GET", "/readyz"))[0] == 503
        async with engine.running(spec), Redis.from_url(url) as valkey:
            await settled(client, valkey)
            await eventually(node.complete)
            assert await node.end(signal.SIGTERM) == 0, node.log()


async def test_a_second_projector_takes_over_and_the_first_ends(
    projector: CdcNode, tmp_path: Path, database: str, valkey_url: str, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    async with cdc_node(tmp_path / "second", source="pgoutput", database=database, valkey=valkey_url) as second:
        await second.start()
        assert await projector.ended() == 1
        await client.execute(ADD_ENTRIES, MEMBERS, 1)
        await settled(client, valkey)


async def test_a_restored_database_is_noticed_and_no_view_of_what_it_lost_stays(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    """No back-up holds the slot. The version that is newest now had other content before."""
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await projector.end(signal.SIGKILL)
    await eventually(lambda: dropped(client, restored=True), deadline_s=DEADLINE_S)
    await client.execute("DELETE FROM journal WHERE version = 3")
    await client.execute(
        "UPDATE journal SET account_after = replace(account_after::text, '2', '7')::json WHERE version = 2"
    )
    await projector.start()
    await settled(client, valkey)
    assert await client.fetchval("SELECT count(*) FROM incarnation WHERE reconciled_at IS NULL") == 1
    assert "views_of_another_database_removed" in projector.log()


async def dropped(client: asyncpg.Connection, *, restored: bool = False) -> bool:
    """Drop the slot as soon as its dead holder lets go; all slots, as where a back-up was put back."""
    try:
        query = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 OR $2"
        await client.execute(query, SLOT_OF_TESTS, restored)
    except asyncpg.ObjectInUseError:
        return False
    return True


async def test_changes_lost_with_their_slot_are_noticed_and_made_good(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await projector.end(signal.SIGKILL)
    await eventually(lambda: dropped(client), deadline_s=DEADLINE_S)
    await client.execute(ADD_ENTRIES, MEMBERS, 1)
    await client.execute("DELETE FROM identifier WHERE value = $1", str(MEMBERS[0]))
    another = "SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)"
    await client.execute(another, SLOT_OF_TESTS)  # by another hand: no one may take it for the old one
    await projector.start()
    await settled(client, valkey)
    assert "changes are missing" in projector.log()
    assert not await valkey.exists(f"i:card:{MEMBERS[0]}")


async def test_a_rebuild_on_demand_repairs_and_needs_an_admin(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await eventually(projector.complete)
    await fill(client)
    await settled(client, valkey)
    key = f"m:{MEMBERS[7]}"
    await valkey.set(key, (await valkey.get(key))[:16] + b"wrong")
    assert (await projector.call("POST", "/rebuild", key="loy_none_none"))[0] == 401
    for wrong in ("0", "1.5", "nan", "fast"):
        assert (await projector.call("POST", f"/rebuild?duty={wrong}"))[0] == 400
    assert (await projector.call("POST", "/rebuild"))[0] == 202
    await settled(client, valkey)


async def test_a_rebuild_whose_projector_dies_is_asked_for_again(
    projector: CdcNode, database: str, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await eventually(projector.complete)
    await projector.end(signal.SIGKILL)
    await projector.start()  # it finds all views there, and rebuilds nothing by itself

    async def rebuilds() -> bool:
        return bool((await projector.status()).get("rebuild", {}).get("running"))

    blocker = await asyncpg.connect(as_superuser(database))
    async with ClientSession(headers={"Authorization": f"Bearer {projector.key}"}) as session:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE member IN ACCESS EXCLUSIVE MODE")
            asking = asyncio.create_task(_rebuild(session, "eu-1", f"http://127.0.0.1:{projector.port}"))
            await eventually(rebuilds)
            await projector.end(signal.SIGKILL)
        await projector.start()
        async with asyncio.timeout(60):
            assert (await asking).shard == "eu-1"
    await blocker.close()


async def test_a_row_that_did_not_travel_whole_is_read_again(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    await client.execute("UPDATE member SET profile = $1, version = 2 WHERE member_id = $2", LONG, MEMBERS[0])
    await client.execute("UPDATE member SET version = 3 WHERE member_id = $1", MEMBERS[0])
    await settled(client, valkey)


async def test_a_poisonous_row_holds_up_nobody(projector: CdcNode, client: asyncpg.Connection, valkey: Redis) -> None:
    await projector.start()
    await client.execute(
        ADD_ENTRIES.replace("json_build_object('balance'", "json_build_object('no balance'"), MEMBERS[:1], 1
    )
    await client.execute(ADD_ENTRIES, MEMBERS[1:3], 1)

    async def passed() -> bool:
        return bool(await valkey.exists(f"a:{MEMBERS[2]}"))

    await eventually(passed)
    assert "row_not_projected" in projector.log()
    _, metrics = await projector.call("GET", "/metrics")
    assert "loyalty_cdc_failed_rows_total 1.0" in metrics


async def test_readiness_and_status_tell_what_is_so(projector: CdcNode) -> None:
    await projector.start()
    await eventually(projector.complete)
    status = await projector.status()
    assert (status["source"], status["complete"]) == ("pgoutput", True)
    assert 0 <= status["lag_ms"] < 5000
    assert await projector.call("GET", "/readyz?verbose") == (200, "[+] stream: ok\n[+] valkey: ok\n[+] views: ok\n")


@pytest.mark.parametrize("source", ["pgoutput", "debezium"])
async def test_a_message_of_another_tool_holds_up_nobody_whatever_it_holds(
    tmp_path: Path, database: str, valkey_url: str, client: asyncpg.Connection, valkey: Redis, source: str
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    async with cdc_node(tmp_path, source=source, database=database, valkey=valkey_url) as node:
        await node.start()
        for prefix in ("other tool", "loyalty.unheard of"):
            await client.execute("SELECT pg_logical_emit_message(true, $1, '\\xff'::bytea)", prefix)
        await fill(client)
        await settled(client, valkey)
        _, metrics = await node.call("GET", "/metrics")
        assert "loyalty_cdc_failed_rows_total 1.0" in metrics
        assert "row_not_projected" in node.log()


async def test_a_topology_that_gives_the_shard_another_valkey_ends_the_projector_and_the_next_fills_it(
    projector: CdcNode, tmp_path: Path, database: str, valkey_server: ValkeyServer, client: asyncpg.Connection
) -> None:
    await projector.start()
    await fill(client)
    other = await valkey_server.fresh_url()
    write_topology(tmp_path, [database], other, epoch=2)
    assert await projector.ended() == 1
    assert "shard_moved" in projector.log()
    await projector.start()
    async with Redis.from_url(other) as valkey:
        await settled(client, valkey)
    write_topology(tmp_path, [database], other, epoch=3)  # says of this shard what is so

    async def adopted() -> bool:
        return '"epoch": 3' in projector.log() or '"epoch":3' in projector.log()

    await eventually(adopted)
    assert await projector.end(signal.SIGTERM) == 0, projector.log()
