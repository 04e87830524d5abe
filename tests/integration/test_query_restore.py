"""Queries after a shard was restored: nothing of the lost future is taken for what holds now."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from rules.version import SPAN
from shard_router.incarnation import begin_incarnation
from shard_router.member_id import format_member_id
from shard_router.token import format_token
from tests.conftest import DatabasePair
from tests.event_stream import streaming
from tests.query_world import ShardPlace, World, add_entry, member, open_world, project, until_replayed, write_member

ADA = member(1)
TEXT = format_member_id(ADA)
ACCOUNT, ACTIVITY = f"/v1/members/{TEXT}/account", f"/v1/members/{TEXT}/activity"


@pytest.fixture
async def world(tmp_path: Path, database_pair: DatabasePair, valkey_url: str) -> AsyncGenerator[World]:
    place = ShardPlace([database_pair.primary, database_pair.standby], valkey_url)
    async with open_world(tmp_path, {"eu-1": place}, token_wait_ms=50) as opened:
        yield opened


@pytest.fixture
def eu(world: World) -> ShardPlace:
    return world.shards["eu-1"]


async def restored(dsn: str) -> int:
    """As if the rows were those of a back-up."""
    connection = await asyncpg.connect(dsn)
    try:
        return await begin_incarnation(connection, "a test restored it", "none")
    finally:
        await connection.close()


def token(version: int, member_id: int = ADA) -> dict[str, str]:
    return {"Consistency-Token": format_token(member_id, version)}


PATHS = (ACCOUNT, f"/v1/members/{TEXT}", ACTIVITY, f"/v1/purchases/pur_{TEXT}-3")


@pytest.mark.parametrize("version", [6, 9])
async def test_a_token_of_the_lost_future_is_told_so(world: World, eu: ShardPlace, version: int) -> None:
    """Before anything new is written, and after, when versions beyond it are there."""
    await write_member(eu.primary, ADA, versions=5)
    number = await restored(eu.primary)
    for place in (6, 7):
        for path in PATHS:
            reply = await world.get(path, headers=token(version))
            assert (reply.status, reply.json["code"]) == (409, "state_lost"), path
            assert not reply.json["retryable"]
        newest = number * SPAN + place
        await add_entry(eu.primary, ADA, newest)
        await project(eu.valkey, ADA, newest)


async def test_a_token_of_a_state_that_was_kept_is_as_good_as_before(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=5)
    number = await restored(eu.primary)
    await until_replayed(world, ADA, 5)
    reply = await world.get(ACCOUNT, headers=token(5))
    assert (reply.status, reply.json["version"]) == (200, 5)
    await add_entry(eu.primary, ADA, number * SPAN + 6)
    await until_replayed(world, ADA, number * SPAN + 6)
    for version in (4, 5, number * SPAN + 6):
        reply = await world.get(ACCOUNT, headers=token(version))
        assert (reply.status, reply.json["version"]) == (200, number * SPAN + 6), version


async def test_a_token_of_a_member_that_was_lost_is_told_so(world: World, eu: ShardPlace) -> None:
    await restored(eu.primary)
    assert (await world.get(ACCOUNT, headers=token(1))).json["code"] == "state_lost"
    assert (await world.get(ACCOUNT)).json["code"] == "member_not_found"


async def test_a_version_to_come_is_still_only_not_visible_yet(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=5)
    number = await restored(eu.primary)
    reply = await world.get(ACCOUNT, headers=token(number * SPAN + 6))
    assert (reply.status, reply.json["code"]) == (503, "not_yet_visible")


async def test_a_page_that_goes_on_over_the_restore_leaves_nothing_out(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=5)
    number = await restored(eu.primary)
    written = [5, 4, 3, 2, 1]
    for place in (6, 7):
        await add_entry(eu.primary, ADA, number * SPAN + place)
        written.insert(0, number * SPAN + place)
    await until_replayed(world, ADA, written[0])
    for in_view in (False, True):
        if in_view:
            await project(eu.valkey, ADA, *reversed(written))
        seen: list[int] = []
        path = f"{ACTIVITY}?page_size=2"
        while path:
            reply = await world.get(path)
            assert reply.status == 200, reply.body
            assert (reply.headers["Loyalty-Source"] == "cache") is in_view
            seen += [item["version"] for item in reply.json["items"]]
            following = reply.json.get("next_page_token")
            path = f"{ACTIVITY}?page_size=2&page_token={following}" if following else ""
        assert seen == written


async def test_a_page_of_the_lost_future_is_not_gone_on_from(world: World, eu: ShardPlace) -> None:
    await project(eu.valkey, ADA, *range(1, 10))
    first = await world.get(f"{ACTIVITY}?page_size=2")
    await write_member(eu.primary, ADA, versions=5)
    await restored(eu.primary)
    await _forget_views(eu)
    reply = await world.get(f"{ACTIVITY}?page_size=2&page_token={first.json['next_page_token']}")
    assert (reply.status, reply.json["code"]) == (409, "state_lost")


async def test_an_etag_of_the_lost_future_never_matches(world: World, eu: ShardPlace) -> None:
    await project(eu.valkey, ADA, 6)
    lost = (await world.get(ACCOUNT)).headers["ETag"]
    await write_member(eu.primary, ADA, versions=5)
    number = await restored(eu.primary)
    await add_entry(eu.primary, ADA, number * SPAN + 6)
    await _forget_views(eu)
    await until_replayed(world, ADA, number * SPAN + 6)
    reply = await world.get(ACCOUNT, headers={"If-None-Match": lost})
    assert (reply.status, reply.headers["ETag"]) == (200, f'W/"{number * SPAN + 6}"')


async def test_a_stream_tells_at_once_what_holds_now(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=5)
    await project(eu.valkey, ADA, 9)
    async with streaming(world, ADA, last="8") as stream:
        assert (await stream.event())["id"] == "9"
        await restored(eu.primary)
        await _forget_views(eu)
        async with asyncio.timeout(10):
            assert (await stream.event())["id"] == "5"
    async with streaming(world, ADA, last="9") as stream:
        assert (await stream.event())["id"] == "5"


async def _forget_views(eu: ShardPlace) -> None:
    """As the projector does when it meets another incarnation."""
    client = Redis.from_url(eu.valkey)
    await client.flushdb()
    await client.aclose()
