"""The projector process against what can happen to it: the views always come to what the tables hold."""

import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from cdc.rebuild import read_members
from cluster.valkey import find_valkey, valkey_process
from command.migrate import create_slot
from shard_router.member_id import compose_member_id
from tests import engine
from tests.cdc_node import SLOT_OF_TESTS, CdcNode, cdc_node
from tests.conftest import eventually

MARK = "projector:eu-1"
DEADLINE_S = 30
MEMBERS = [compose_member_id(region_number=1, slot=n, unique=n * 31) for n in range(60)]
ADD_ENTRIES = """
INSERT INTO journal
    (member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail,
     account_after)
SELECT member_id, coalesce((SELECT max(version) FROM journal AS j WHERE j.member_id = asked.member_id), 0) + number,
       'purchase', 1, '2026-11-22 10:00:00.25+00', now(), 's', 1, '[]', '{}',
       json_build_object('balance', json_build_object('available', number), 'n', number)
FROM unnest($1::bigint[]) AS asked (member_id), generate_series(1, $2::integer) AS number
"""


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
async def node(tmp_path: Path, database: str, valkey_url: str) -> AsyncGenerator[CdcNode]:
    await create_slot(database, SLOT_OF_TESTS)
    async with cdc_node(tmp_path, source="pgoutput", database=database, valkey=valkey_url) as made:
        yield made


async def fill(client: asyncpg.Connection, entries: int = 3) -> None:
    await client.executemany("INSERT INTO member VALUES ($1, 1, $2, now())", [(m, f'{{"n":{m}}}') for m in MEMBERS])
    await client.executemany("INSERT INTO identifier VALUES ('card', $1, $2, 1)", [(str(m), m) for m in MEMBERS])
    await client.executemany(
        "INSERT INTO purchase VALUES ($1, 1, 1, 's', 't', 'r', '2026-11-22', '2026-11-22 10:00:00+00', '{}')",
        [(m,) for m in MEMBERS],
    )
    await client.execute(ADD_ENTRIES, MEMBERS, entries)


async def settled(client: asyncpg.Connection, valkey: Redis) -> None:
    """The views are what the tables say, key for key and byte for byte."""

    async def same() -> bool:
        return await views_of(valkey) == await wanted_views(client)

    await eventually(same, deadline_s=DEADLINE_S)


async def wanted_views(client: asyncpg.Connection) -> dict[str, object]:
    members = [row["member_id"] for row in await client.fetch("SELECT member_id FROM member")]
    operations = await read_members(client, members, 0)  # pyright: ignore[reportArgumentType]
    wanted: dict[str, object] = dict(operations.views)
    wanted |= {key: value[16:] for key, value in operations.identifiers.items()}
    for (key, version), item in operations.entries.items():
        listed = wanted.setdefault(key, {})
        assert isinstance(listed, dict)
        listed[version] = item
    return wanted


async def views_of(valkey: Redis) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in sorted([key async for key in valkey.scan_iter(count=1000)]):
        name = key.decode()
        if name.startswith("e:"):
            found[name] = {int(score): item for item, score in await valkey.zrange(key, 0, -1, withscores=True)}
        elif name.startswith("i:"):
            found[name] = (await valkey.get(key) or b"")[16:]  # it may go between the two calls
        elif name[:2] in {"a:", "m:", "p:"}:
            found[name] = await valkey.get(key)
    return found


async def test_without_a_slot_one_is_made_and_all_that_stood_before_is_filled_in(
    node: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await client.execute("SELECT pg_drop_replication_slot($1)", SLOT_OF_TESTS)
    await fill(client, entries=60)
    await node.start()
    await client.execute(ADD_ENTRIES, MEMBERS[:5], 4)
    await eventually(node.complete)
    await settled(client, valkey)
    assert await node.end(signal.SIGTERM) == 0, node.log()


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


async def test_an_emptied_valkey_is_refilled(node: CdcNode, client: asyncpg.Connection, valkey: Redis) -> None:
    await node.start()
    await fill(client)
    await settled(client, valkey)
    await valkey.flushdb()
    await settled(client, valkey)
    await eventually(node.complete)
    assert await valkey.hget(MARK, "complete") == b"1"


async def test_a_valkey_that_is_away_is_waited_for_and_refilled_when_it_comes_back_empty(
    tmp_path: Path, database: str, client: asyncpg.Connection
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    port = engine.free_port()
    spec = valkey_process(name="valkey", program=find_valkey(None), port=port, log=tmp_path / "valkey.log")
    url = f"redis://127.0.0.1:{port}/0"
    async with cdc_node(tmp_path, source="pgoutput", database=database, valkey=url) as node:
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
    node: CdcNode, tmp_path: Path, database: str, valkey_url: str, client: asyncpg.Connection, valkey: Redis
) -> None:
    await node.start()
    await fill(client)
    async with cdc_node(tmp_path / "second", source="pgoutput", database=database, valkey=valkey_url) as second:
        await second.start()
        assert await node.ended() == 1
        await client.execute(ADD_ENTRIES, MEMBERS, 1)
        await settled(client, valkey)


async def test_changes_lost_with_their_slot_are_noticed_and_made_good(
    node: CdcNode, client: asyncpg.Connection, valkey: Redis, database: str
) -> None:
    await node.start()
    await fill(client)
    await settled(client, valkey)
    await node.end(signal.SIGKILL)

    async def dropped() -> bool:
        try:
            await client.execute("SELECT pg_drop_replication_slot($1)", SLOT_OF_TESTS)
        except asyncpg.ObjectInUseError:
            return False
        return True

    await eventually(dropped, deadline_s=DEADLINE_S)
    await client.execute(ADD_ENTRIES, MEMBERS, 1)
    await client.execute("DELETE FROM identifier WHERE value = $1", str(MEMBERS[0]))
    await create_slot(database, SLOT_OF_TESTS)  # by another hand: no one may take it for the old one
    await node.start()
    await settled(client, valkey)
    assert "changes are missing" in node.log()
    assert not await valkey.exists(f"i:card:{MEMBERS[0]}")


async def test_a_rebuild_on_demand_repairs_and_needs_an_admin(
    node: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await node.start()
    await eventually(node.complete)
    await fill(client)
    await settled(client, valkey)
    key = f"m:{MEMBERS[7]}"
    await valkey.set(key, (await valkey.get(key))[:16] + b"wrong")
    assert (await node.call("POST", "/rebuild", key="loy_none_none"))[0] == 401
    assert (await node.call("POST", "/rebuild"))[0] == 202
    await settled(client, valkey)


async def test_a_row_that_did_not_travel_whole_is_read_again(
    node: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    long = orjson.dumps("".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(20_000))).decode()
    await node.start()
    await fill(client)
    await client.execute("UPDATE member SET profile = $1, version = 2 WHERE member_id = $2", long, MEMBERS[0])
    await client.execute("UPDATE member SET version = 3 WHERE member_id = $1", MEMBERS[0])
    await settled(client, valkey)


async def test_a_poisonous_row_holds_up_nobody(node: CdcNode, client: asyncpg.Connection, valkey: Redis) -> None:
    await node.start()
    await client.execute(
        ADD_ENTRIES.replace("json_build_object('balance'", "json_build_object('no balance'"), MEMBERS[:1], 1
    )
    await client.execute(ADD_ENTRIES, MEMBERS[1:3], 1)

    async def passed() -> bool:
        return bool(await valkey.exists(f"a:{MEMBERS[2]}"))

    await eventually(passed)
    assert "row_not_projected" in node.log()
    _, metrics = await node.call("GET", "/metrics")
    assert "loyalty_cdc_failed_rows_total 1.0" in metrics


async def test_readiness_and_status_tell_what_is_so(node: CdcNode) -> None:
    await node.start()
    await eventually(node.complete)
    status = await node.status()
    assert (status["source"], status["complete"]) == ("pgoutput", True)
    assert 0 <= status["lag_ms"] < 5000
    assert await node.call("GET", "/readyz?verbose") == (200, "[+] stream: ok\n[+] valkey: ok\n[+] views: ok\n")
