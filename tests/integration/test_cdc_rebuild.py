"""A rebuild against what the stream will not bring again, and against views of what the database has lost."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from cdc import rows
from cdc.rebuild import Rebuild, RebuildSettings
from cdc.rows import NotReady, Rows
from cdc.sink import Position, Session
from command.migrate import create_slot
from query.views import header
from shard_router.pool import Connection, ShardServers
from tests.cdc_node import SLOT_OF_TESTS, CdcNode, cdc_node
from tests.cdc_world import (
    ADD_ENTRIES,
    DEADLINE_S,
    LONG,
    MARK,
    MEMBERS,
    WatchedSession,
    fill,
    rebuilding,
    rebuilt,
    settled,
    views_of,
)
from tests.conftest import DatabasePair, eventually
from tests.engine import skip_where_settings_are_fixed
from tests.sql import replay_paused

ALICE, BOB = MEMBERS[:2]
KEY = f"m:{ALICE}"
INSERT_MEMBER = "INSERT INTO member VALUES ($1, 1, '{}', now())"
UPDATE_MEMBER = "UPDATE member SET version = $2, profile = $3 WHERE member_id = $1"


def shows(valkey: Redis, key: str, version: int) -> Callable[[], Awaitable[bool]]:
    async def shown() -> bool:
        return (await valkey.get(key) or b"").startswith(header(version))

    return shown


async def test_a_rebuild_loses_no_change_that_its_standby_has_not_replayed(
    tmp_path: Path, database_pair: DatabasePair, valkey_url: str, valkey: Redis
) -> None:
    """What was delivered runs ahead of what the slot confirms; an emptied Valkey does not get it again."""
    await create_slot(database_pair.primary, SLOT_OF_TESTS)
    client = await asyncpg.connect(database_pair.primary)
    places = {"database": database_pair.primary, "standby": database_pair.standby, "valkey": valkey_url}
    async with cdc_node(tmp_path, source="pgoutput", **places) as node:
        await client.execute(INSERT_MEMBER, ALICE)
        await node.start()
        await eventually(node.complete)
        for version in (2, 3, 4):
            async with replay_paused(database_pair.standby):
                await client.execute(UPDATE_MEMBER, ALICE, version, json.dumps({"erased": version}))
                await eventually(shows(valkey, KEY, version))
                await valkey.flushdb()
                await eventually(rebuilt(valkey), deadline_s=DEADLINE_S)
            await settled(client, valkey)
    await client.close()


async def test_a_standby_is_read_once_it_shows_all_that_was_delivered(
    database_pair: DatabasePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "STANDBY_PATIENCE_S", 0.1)
    await create_slot(database_pair.primary, SLOT_OF_TESTS)
    servers = shard_servers(database_pair.primary, database_pair.standby)
    client = await asyncpg.connect(database_pair.primary)
    reading = Rows(servers, SLOT_OF_TESTS)

    async def reads_standby() -> bool:
        async with reading.reader(bound) as connection:
            return await connection.fetchval("SELECT pg_is_in_recovery()")

    async with replay_paused(database_pair.standby):
        await client.execute(INSERT_MEMBER, ALICE)
        bound = await reading.bound()
        assert not await reads_standby()
    await eventually(reads_standby)
    await client.close()
    await servers.close()


def shard_servers(*servers: str) -> ShardServers:
    return ShardServers("eu-1", [*servers], size_max=3, statement_timeout_ms=10_000, indexed=False)


@asynccontextmanager
async def commits_waiting(database: str) -> AsyncGenerator[None]:
    """Each commit waits for a standby that does not exist: it is decoded and delivered, and does not show."""
    skip_where_settings_are_fixed()
    admin = await asyncpg.connect(database)
    await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await admin.execute("SELECT pg_reload_conf()")

    async def waits() -> bool:
        return await admin.fetchval("SHOW synchronous_standby_names") == "nobody"

    try:
        await eventually(waits)
        yield
    finally:
        await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()


async def test_a_commit_that_waits_for_a_standby_is_not_lost_by_a_rebuild_from_the_primary(
    projector: CdcNode, database: str, client: asyncpg.Connection, valkey: Redis
) -> None:
    other = await asyncpg.connect(database)
    await client.execute(INSERT_MEMBER, ALICE)
    await projector.start()
    await eventually(projector.complete)
    async with commits_waiting(database):
        update = asyncio.create_task(client.execute(UPDATE_MEMBER, ALICE, 2, "{}"))
        await eventually(shows(valkey, KEY, 2))
        await valkey.flushdb()
        insert = asyncio.create_task(other.execute(INSERT_MEMBER, BOB))  # shows the stream that Valkey is empty

        async def decided() -> bool:
            return await rebuilt(valkey)() or "rebuild_interrupted" in projector.log()

        await eventually(decided, deadline_s=DEADLINE_S)
    await asyncio.gather(update, insert)
    await settled(client, valkey)
    await other.close()


async def test_a_row_is_read_again_only_when_the_commit_of_its_change_shows(
    projector: CdcNode, database: str, client: asyncpg.Connection, valkey: Redis
) -> None:
    await client.execute(INSERT_MEMBER, ALICE)
    await client.execute(UPDATE_MEMBER, ALICE, 2, LONG)
    await projector.start()
    await eventually(shows(valkey, KEY, 2))
    async with commits_waiting(database):
        update = asyncio.create_task(client.execute("UPDATE member SET version = 3 WHERE member_id = $1", ALICE))

        async def noticed() -> bool:
            return "row_not_projected" in projector.log()

        await eventually(noticed)
    await update
    await eventually(shows(valkey, KEY, 3), deadline_s=DEADLINE_S)


async def test_a_slot_that_lost_changes_gives_no_rebuild_its_position(
    database: str, client: asyncpg.Connection
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    servers = shard_servers(database)
    await Rows(servers, SLOT_OF_TESTS).bound()
    await client.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    await client.execute("SELECT pg_reload_conf()")
    try:
        for _ in range(4):
            await client.execute("SELECT pg_switch_wal()")
            await client.execute("SELECT pg_logical_emit_message(false, 'x', repeat('y', 1000))")
        await client.execute("CHECKPOINT")
        with pytest.raises(NotReady, match="lost"):
            await Rows(servers, SLOT_OF_TESTS).bound()
    finally:
        await client.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        await client.execute("SELECT pg_reload_conf()")
        await servers.close()


class ConflictingServers(ShardServers):
    """Replay on the standby cancels the first reading."""

    conflicts = 1

    @asynccontextmanager
    async def standby(self) -> AsyncGenerator[Connection]:
        async with super().primary() as connection:
            yield connection
        if self.conflicts:
            self.conflicts -= 1
            raise asyncpg.SerializationError("canceling statement due to conflict with recovery")


async def test_a_reading_that_replay_cancels_is_tried_again(
    database: str, client: asyncpg.Connection, valkey_url: str, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc.rebuild.RETRY_S", 0.01)
    await create_slot(database, SLOT_OF_TESTS)
    await fill(client)
    session = Session(valkey_url, MARK).open(Position("one", 1))
    servers = ConflictingServers("eu-1", [database], size_max=3, statement_timeout_ms=10_000)
    rebuild = Rebuild(servers, RebuildSettings(SLOT_OF_TESTS))
    async with rebuilding(rebuild, servers, lambda: Session(valkey_url, MARK, epoch=session.epoch)):
        await settled(client, valkey)
        await eventually(rebuilt(valkey))
    session.close()
    assert servers.conflicts == 0


async def test_a_rebuild_handles_so_many_views_at_a_time_and_begins_again_where_a_write_failed(
    database: str, client: asyncpg.Connection, valkey_url: str, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member who bought every day for years weighs as much as hundreds who seldom do."""
    monkeypatch.setattr("cdc.rebuild.RETRY_S", 0.01)
    monkeypatch.setattr("cdc.rebuild.OPERATIONS_PER_CHUNK", 50)
    await create_slot(database, SLOT_OF_TESTS)
    await fill(client, entries=6)
    stream = Session(valkey_url, MARK).open(Position("one", 1))
    servers = shard_servers(database)
    sizes: list[int] = []

    def open_session() -> Session:
        session = WatchedSession(valkey_url, MARK, epoch=stream.epoch)
        session.sizes, session.breaks_at = sizes, 4
        return session

    rebuild = Rebuild(servers, RebuildSettings(SLOT_OF_TESTS, duty=1))
    async with rebuilding(rebuild, servers, open_session):
        await eventually(rebuilt(valkey))
        await settled(client, valkey)
    again = sizes[4:]
    assert sum(again) == len(MEMBERS) * 10  # all of it: account, profile, purchase, card and six entries
    assert max(again[1:]) <= 50  # of the first chunk nobody knows yet
    stream.close()


async def test_what_is_read_to_take_views_back_shows_all_the_stream_has_brought_or_is_not_read(
    projector: CdcNode, database: str, client: asyncpg.Connection, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "SETTLE_PATIENCE_S", 0.1)
    servers = shard_servers(database)
    reading = Rows(servers, SLOT_OF_TESTS)
    await client.execute(INSERT_MEMBER, ALICE)
    await projector.start()
    async with commits_waiting(database):
        update = asyncio.create_task(client.execute(UPDATE_MEMBER, ALICE, 2, "{}"))
        await eventually(shows(valkey, KEY, 2))
        assert (await reading.truth([KEY])).views[KEY].startswith(header(1))
        assert await reading.settled_truth([KEY]) is None
    await update
    truth = await reading.settled_truth([KEY])
    assert truth is not None
    assert truth.views[KEY].startswith(header(2))
    await projector.end(signal.SIGKILL)

    async def not_where_no_stream_comes_from() -> bool:
        return await reading.settled_truth([KEY]) is None

    await eventually(not_where_no_stream_comes_from)
    await servers.close()


async def pretend_history(valkey: Redis) -> None:
    """Views of a history that the database does not have: newer ones, and some that were never made."""
    for key in (f"a:{ALICE}", KEY, f"p:{ALICE}-1"):
        await valkey.set(key, header(90) + b'{"lost":true}')
    await valkey.zadd(f"e:{ALICE}", {b'{"lost":true,"version":90}': 90})
    stranger = ALICE + 999
    for key in (f"a:{stranger}", f"m:{stranger}", f"p:{stranger}-1", f"p:{BOB}-90"):
        await valkey.set(key, header(90) + b'{"lost":true}')
    await valkey.zadd(f"e:{stranger}", {b'{"lost":true,"version":90}': 90})
    far = header(10**15)
    await valkey.set(f"i:card:{ALICE}", far + b'{"member_id":"lost"}')
    await valkey.set("i:card:never", far + b'{"member_id":"lost"}')
    await valkey.delete(f"i:card:{BOB}")
    await valkey.set(f"gone:i:card:{BOB}", far)


async def test_a_rebuild_takes_back_what_the_database_has_lost(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await pretend_history(valkey)
    await projector.call("POST", "/rebuild")
    await settled(client, valkey)
    assert "views_lowered" in projector.log()
    assert "i:card:" not in projector.log(), "the rest may be somebody's phone number"
    await client.execute("UPDATE member SET version = 2 WHERE member_id = $1", ALICE)
    await client.execute("UPDATE identifier SET member_id = $1 WHERE value = $2", BOB, str(ALICE))
    await client.execute("DELETE FROM identifier WHERE value = $1", str(BOB))
    await settled(client, valkey)
    await eventually(projector.complete)


async def test_nothing_is_lost_that_the_stream_brings_while_views_are_taken_back(
    projector: CdcNode, client: asyncpg.Connection, database: str, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    writer = await asyncpg.connect(database)
    done = asyncio.Event()

    async def write() -> None:
        version = 1
        while not done.is_set():
            version += 1
            await writer.execute(ADD_ENTRIES, [MEMBERS[version % 60]], 1)
            await writer.execute("UPDATE member SET version = $1 WHERE member_id <= $2", version, MEMBERS[9])
            await writer.execute("UPDATE purchase SET changed_version = $1 WHERE member_id <= $2", version, MEMBERS[9])
            await writer.execute("UPDATE identifier SET member_id = $1 WHERE value = $2", MEMBERS[version % 60], "1")

    writing = asyncio.create_task(write())
    for _ in range(2):
        completed = (await projector.status())["rebuild"]["completed"]
        for member in MEMBERS:
            for key in (f"a:{member}", f"m:{member}", f"p:{member}-1"):
                await valkey.set(key, header(10**6) + b'{"lost":true}')
        await projector.call("POST", "/rebuild")

        async def again(completed: int = completed) -> bool:
            return (await projector.status())["rebuild"]["completed"] > completed

        await eventually(again, deadline_s=DEADLINE_S)
        views = await views_of(valkey)
        assert not [key for key, value in views.items() if isinstance(value, bytes) and b"lost" in value]
    done.set()
    await writing
    await settled(client, valkey)
    await writer.close()


async def test_views_that_are_only_ahead_of_a_standby_are_left_alone(
    tmp_path: Path, database_pair: DatabasePair, valkey_url: str, valkey: Redis
) -> None:
    await create_slot(database_pair.primary, SLOT_OF_TESTS)
    client = await asyncpg.connect(database_pair.primary)
    places = {"database": database_pair.primary, "standby": database_pair.standby, "valkey": valkey_url}
    async with cdc_node(tmp_path, source="pgoutput", **places, rebuild_members_per_chunk=1) as node:
        await node.start()
        await fill(client)
        await settled(client, valkey)
        completed = (await node.status())["rebuild"]["completed"]
        await node.call("POST", "/rebuild")
        while (await node.status())["rebuild"]["completed"] == completed:
            await client.execute(ADD_ENTRIES, MEMBERS, 1)
            await client.execute("UPDATE member SET version = version + 1")
        await settled(client, valkey)
        assert (await node.status())["rebuild"]["lowered"] == 0
    await client.close()
