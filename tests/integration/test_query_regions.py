"""A region that takes questions and answers none costs the others a part of their places, and soon no time."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from shard_router.member_id import format_member_id
from tests.conftest import eventually
from tests.engine import ValkeyServer
from tests.frozen_node import frozen
from tests.query_world import Reply, ShardPlace, World, member, open_world, project

ADA, BOB = member(1), member(2, region="us")
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]
IN_FLIGHT_MAX = 16


@pytest.fixture
async def world(tmp_path: Path, valkey_server: ValkeyServer) -> AsyncGenerator[World]:
    shards = {name: ShardPlace(NOWHERE, await valkey_server.fresh_url()) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards, in_flight_max=IN_FLIGHT_MAX) as opened:
        await project(shards["eu-1"].valkey, ADA, 1)
        yield opened


async def ask(world: World, member_id: int) -> Reply:
    path = f"/v1/members/{format_member_id(member_id)}/account"
    return await world.get(path, credential=world.keys["admin"])  # any other key has a quarter of the places itself


async def test_a_frozen_region_never_takes_the_places_of_our_own_members(world: World) -> None:
    async with frozen(world) as node:
        asking = [asyncio.create_task(ask(world, BOB)) for _ in range(2 * IN_FLIGHT_MAX)]

        async def asked() -> bool:
            return node.asked > 0 and sum(task.done() for task in asking) >= IN_FLIGHT_MAX

        await eventually(asked)
        assert node.asked == IN_FLIGHT_MAX // 4
        assert {(await ask(world, ADA)).status for _ in range(5)} == {200}
        replies = await asyncio.gather(*asking)
        assert Counter(reply.json["code"] for reply in replies) == {"shard_unavailable": len(asking)}
        assert {reply.headers["Retry-After"] for reply in replies} == {"2"}


async def test_a_region_that_does_not_answer_is_left_alone_and_found_again(world: World) -> None:
    async with frozen(world) as node:
        await ask(world, BOB)
        before = node.asked
        for _ in range(20):
            assert (await ask(world, BOB)).json["code"] == "shard_unavailable"
        assert node.asked == before, "it gets nothing but probes"
        node.thawed.set()

        async def all_are_answered() -> bool:
            return {reply.status for reply in await asyncio.gather(*(ask(world, BOB) for _ in range(4)))} == {200}

        await eventually(all_are_answered)
