"""What a node has shown of a member it never takes back, whoever answers next: Valkey, a standby, the primary."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from query.announcement import Woken
from query.node import NODE
from rules.version import SPAN
from shard_router.incarnation import begin_incarnation
from shard_router.member_id import format_member_id
from tests.conftest import DatabasePair, eventually
from tests.engine import ValkeyServer, as_valkey_user
from tests.event_stream import streaming
from tests.query_servers import OwnValkey, proxy_of
from tests.query_world import (
    PROGRAM,
    START,
    ShardPlace,
    World,
    add_entry,
    change_topology,
    member,
    open_world,
    project,
    reader_of,
    replayed,
    version_in,
    write_member,
    write_row,
)
from tests.sql import replay_paused

ADA = member(1)
PATH = f"/v1/members/{format_member_id(ADA)}"
PATHS = (f"{PATH}/account", PATH, f"{PATH}/activity", f"{PATH}/rewards")


@pytest.fixture
async def world(tmp_path: Path, database_pair: DatabasePair, killable: OwnValkey) -> AsyncGenerator[World]:
    place = ShardPlace([database_pair.primary, database_pair.standby], killable.url)
    await write_row(place.primary, "program", {"version": 1, "effective_at": START, "source": PROGRAM})
    await write_member(place.primary, ADA, versions=3)
    async with open_world(tmp_path, {"eu-1": place}) as opened:
        await eventually(lambda: replayed(reader_of(opened), ADA, 3))
        await eventually(lambda: has_program(opened))
        yield opened


async def has_program(world: World) -> bool:
    return (await world.get("/v1/tiers")).status == 200


async def show_four(world: World, pair: DatabasePair, valkey: OwnValkey) -> None:
    """The primary and Valkey have version 4, the node shows it, the standby has 3."""
    await add_entry(pair.primary, ADA, 4)
    await project(valkey.url, ADA, *range(1, 5))
    assert version_in(await world.get(PATHS[0])) == 4


async def test_a_standby_that_has_not_replayed_what_was_shown_is_not_believed(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    async with replay_paused(database_pair.standby):
        await show_four(world, database_pair, killable)
        await killable.stop()
        for path in PATHS:
            reply = await world.get(path)
            assert (version_in(reply), reply.headers["Loyalty-Source"]) == (4, "primary"), path
    await eventually(lambda: replayed(reader_of(world), ADA, 4))
    reply = await world.get(PATHS[0])
    assert (version_in(reply), reply.headers["Loyalty-Source"]) == (4, "replica")


async def test_a_standby_that_has_not_replayed_what_was_announced_is_not_believed(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    """Another node may have shown it."""
    reader = reader_of(world)
    await asyncio.wait_for(reader.visible.subscribed.wait(), 10)
    async with replay_paused(database_pair.standby):
        await add_entry(database_pair.primary, ADA, 4)
        await project(killable.url, ADA, 4)

        async def heard() -> bool:
            return reader.visible.announced.of(ADA) == 4

        await eventually(heard)
        await killable.stop()
        assert version_in(await world.get(PATHS[0])) == 4


async def test_a_valkey_restored_from_an_old_dump_is_not_believed_until_it_has_caught_up(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    await project(killable.url, ADA, 1, 2, 3)
    async with Redis.from_url(killable.url) as client:
        dump = {key: await client.dump(key) for key in await client.keys("*")}
    await show_four(world, database_pair, killable)
    assert version_in(await world.get(PATHS[2])) == 4
    async with Redis.from_url(killable.url) as client:
        await client.flushdb()
        for key, value in dump.items():
            await client.restore(key, 0, value)
    for path in PATHS:
        reply = await world.get(path)
        assert version_in(reply) == 4, path
        assert reply.headers["Loyalty-Source"] != "cache"
    await project(killable.url, ADA, 4)
    for path in PATHS:
        reply = await world.get(path)
        assert (version_in(reply), reply.headers["Loyalty-Source"]) == (4, "cache")


async def test_valkey_behind_what_the_primary_has_shown_is_not_believed(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    await project(killable.url, ADA, 1, 2, 3)
    await add_entry(database_pair.primary, ADA, 4)
    token = {"Consistency-Token": f"v1.{format_member_id(ADA)}.4"}
    assert version_in(await world.get(PATHS[0], headers=token)) == 4
    for path in PATHS:
        assert version_in(await world.get(path)) == 4, path


async def test_what_was_shown_is_kept_when_the_shard_gets_another_valkey_and_other_servers(
    world: World, database_pair: DatabasePair, killable: OwnValkey, valkey_server: ValkeyServer
) -> None:
    empty = as_valkey_user(await valkey_server.fresh_url(), "query")

    def move(document: dict[str, Any]) -> None:
        shard = document["shards"]["eu-1"]
        document["shards"]["eu-1"] = shard | {"valkey": empty, "servers": shard["servers"][::-1]}

    async with replay_paused(database_pair.standby):
        await show_four(world, database_pair, killable)
        change_topology(world, move)
        for path in PATHS:
            reply = await world.get(path)
            assert (version_in(reply), reply.headers["Loyalty-Source"]) == (4, "primary"), path


async def test_who_waits_goes_on_waiting_when_the_shard_gets_another_valkey(
    world: World, valkey_server: ValkeyServer
) -> None:
    other = await valkey_server.fresh_url()
    await asyncio.wait_for(reader_of(world).visible.subscribed.wait(), 10)
    with reader_of(world).visible.watch(ADA) as watch:
        assert watch is not None
        url = as_valkey_user(other, "query")
        change_topology(world, lambda document: document["shards"]["eu-1"].update(valkey=url))
        assert await watch.wait(4, timeout_s=10) is Woken.MISSED  # what was announced before it was heard
        await project(other, ADA, 4)
        assert await watch.wait(4, timeout_s=10) is Woken.ANNOUNCED


async def test_what_was_announced_is_kept_when_the_shard_gets_another_valkey(
    world: World, database_pair: DatabasePair, valkey_server: ValkeyServer
) -> None:
    empty = as_valkey_user(await valkey_server.fresh_url(), "query")
    async with replay_paused(database_pair.standby):
        await add_entry(database_pair.primary, ADA, 4)
        reader_of(world).visible.announce(f"{ADA}:4".encode())
        change_topology(world, lambda document: document["shards"]["eu-1"].update(valkey=empty))
        assert version_in(await world.get(PATHS[0])) == 4


async def test_servers_are_asked_when_nothing_changed_but_where_they_stand(
    tmp_path: Path, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    await write_member(database_pair.primary, ADA, versions=3)
    place = ShardPlace([database_pair.primary, database_pair.standby], killable.url)
    async with open_world(tmp_path, {"eu-1": place}, zone="a") as world:
        await eventually(lambda: replayed(reader_of(world), ADA, 3))
        change_topology(world, lambda document: document["shards"]["eu-1"].update(zones=["b", "a"]))
        await asyncio.gather(*world.apps["eu"][NODE].readers._pools._closing)
        await eventually(lambda: replayed(reader_of(world), ADA, 3))


async def test_a_stream_never_begins_with_less_than_was_shown(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    async with replay_paused(database_pair.standby):
        await add_entry(database_pair.primary, ADA, 4)
        await project(killable.url, ADA, 4)
        async with streaming(world, ADA) as stream:
            assert (await stream.event())["id"] == "4"
        await killable.stop()
        async with streaming(world, ADA) as stream:
            assert (await stream.event())["id"] == "4"
            await add_entry(database_pair.primary, ADA, 5)
            await killable.start()
            await project(killable.url, ADA, 5)
            assert (await stream.event())["id"] == "5"


@pytest.mark.usefixtures("impatient")
async def test_without_anyone_who_has_it_the_shard_is_unavailable_until_the_standby_has_replayed_it(
    tmp_path: Path, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    async with proxy_of(database_pair.primary) as (proxy, primary):
        place = ShardPlace([primary, database_pair.standby], killable.url)
        async with open_world(tmp_path, {"eu-1": place}, statement_timeout_ms=200) as world:
            await write_member(database_pair.primary, ADA, versions=3)
            await eventually(lambda: replayed(reader_of(world), ADA, 3))
            async with replay_paused(database_pair.standby):
                await show_four(world, database_pair, killable)
                await killable.stop()
                proxy.freeze()
                reply = await world.get(PATHS[0])
                assert (reply.status, reply.json["code"]) == (503, "shard_unavailable")
                token = {"Consistency-Token": f"v1.{format_member_id(ADA)}.4"}
                reply = await world.get(PATHS[0], headers=token)
                assert (reply.status, reply.json["code"]) == (503, "not_yet_visible")

            async def answered() -> bool:
                return (await world.get(PATHS[0])).status == 200

            await eventually(answered)
            assert version_in(await world.get(PATHS[0])) == 4
            proxy.thaw()


async def test_what_a_restore_took_back_is_not_waited_for(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    await project(killable.url, ADA, *range(1, 10))
    assert version_in(await world.get(PATHS[0])) == 9
    connection = await asyncpg.connect(database_pair.primary)
    try:
        number = await begin_incarnation(connection, "a test restored it", "none")
    finally:
        await connection.close()
    async with Redis.from_url(killable.url) as client:
        await client.flushdb()
    for path in PATHS:
        assert version_in(await world.get(path)) == 3, path
    await add_entry(database_pair.primary, ADA, number * SPAN + 4)
    await project(killable.url, ADA, number * SPAN + 4)
    assert version_in(await world.get(PATHS[0])) == number * SPAN + 4


async def test_what_the_primary_does_not_have_is_not_waited_for(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    """Views of what was lost without anybody saying so: the projector takes them back, and the node follows."""
    await project(killable.url, ADA, *range(1, 10))
    assert version_in(await world.get(PATHS[0])) == 9
    async with Redis.from_url(killable.url) as client:
        await client.flushdb()
    async with replay_paused(database_pair.standby):
        for _ in range(2):
            assert version_in(await world.get(PATHS[0])) == 3
    await project(killable.url, ADA, 1, 2, 3)
    reply = await world.get(PATHS[0])
    assert (version_in(reply), reply.headers["Loyalty-Source"]) == (3, "cache")


async def test_a_command_that_the_standby_has_not_replayed_is_known(world: World, database_pair: DatabasePair) -> None:
    """`unknown` would have a till wait, or send again what is done."""
    stored = {
        "key": "till-1",
        "credential": "someone",
        "fingerprint": "00000000-0000-0000-0000-000000000001",
        "status": 201,
        "answer": '{"hold_id":"hld_x"}',
        "answered_at": START,
    }
    async with replay_paused(database_pair.standby):
        await write_row(database_pair.primary, "idempotency", stored)
        reply = await world.get("/v1/commands/till-1")
        assert (reply.json["status"], reply.headers["Loyalty-Source"]) == ("done", "primary")
        assert (await world.get("/v1/commands/till-2")).json == {"status": "unknown"}
