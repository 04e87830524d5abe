"""No query node of a member's region answers: a node of another one reads the home shard itself, by all its rules."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from query import views
from query.__main__ import build
from query.node import NODE
from query.reader import ShardReader
from service.settings import SETTINGS
from shard_router.member_id import format_member_id
from shard_router.token import format_token
from tests.conftest import DatabasePair, eventually
from tests.engine import free_port
from tests.event_stream import Stream
from tests.frozen_node import FrozenNode, frozen
from tests.http_node import NodeServer
from tests.long import long
from tests.query_servers import OwnValkey
from tests.query_world import (
    ShardPlace,
    World,
    add_entry,
    change_topology,
    member,
    open_world,
    project,
    put_view,
    replayed,
    version_in,
    write_member,
)
from tests.sql import replay_paused

ADA, BOB, EVE = member(1), member(2, region="us"), member(3, region="us")
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]
PATH = f"/v1/members/{format_member_id(BOB)}"
ACCOUNT = f"{PATH}/account"
CARD = "OLD1"


@pytest.fixture
async def world(tmp_path: Path, database_pair: DatabasePair, killable: OwnValkey) -> AsyncGenerator[World]:
    """A node in eu, and the shard of us: its nodes can be moved to where nobody listens."""
    home = ShardPlace([database_pair.primary, database_pair.standby], killable.url)
    await write_member(home.primary, BOB, versions=3)
    async with open_world(tmp_path, {"eu-1": ShardPlace(NOWHERE, killable.url), "us-1": home}) as opened:
        await eventually(lambda: replayed(far_reader(opened), BOB, 3))
        yield opened


def far_reader(world: World) -> ShardReader:
    return world.apps["eu"][NODE].readers["us-1"]


def move_home(world: World, *urls: str) -> None:
    world.apps["eu"][NODE].topology.current.document.regions["us"].query[:] = urls


def kill_home(world: World) -> int:
    """The port at which the one node of us is missed."""
    port = free_port()
    move_home(world, f"http://127.0.0.1:{port}")
    return port


@asynccontextmanager
async def home_again(world: World, port: int) -> AsyncGenerator[None]:
    settings = world.apps["us"][SETTINGS].model_copy(update={"port": port})
    server = NodeServer(build(settings), port=port)  # pyright: ignore[reportArgumentType]
    await server.start_server()
    try:
        yield
    finally:
        await server.close()


@pytest.mark.parametrize("path", [ACCOUNT, PATH, f"{PATH}/activity"])
async def test_a_region_without_nodes_is_read_from_its_views(world: World, killable: OwnValkey, path: str) -> None:
    await project(killable.url, BOB, 1, 2, 3)
    at_home = await world.get(path)
    kill_home(world)
    reply = await world.get(path)
    assert (reply.status, reply.body, reply.headers["ETag"]) == (200, at_home.body, at_home.headers["ETag"])
    assert (at_home.headers["Loyalty-Region"], reply.headers["Loyalty-Region"]) == ("us", "eu")
    assert reply.headers["Loyalty-Source"] == "cache"


async def test_without_the_view_its_standby_answers(world: World) -> None:
    kill_home(world)
    reply = await world.get(ACCOUNT)
    assert (reply.status, reply.json["version"], reply.headers["Loyalty-Source"]) == (200, 3, "replica")
    gone = await world.get(f"/v1/members/{format_member_id(EVE)}/account")
    assert (gone.status, gone.json["code"]) == (404, "member_not_found")


async def test_a_region_that_went_and_came_back_is_read_as_before(world: World) -> None:
    us: dict[str, Any] = {}

    def leave(document: dict[str, Any]) -> None:
        us.update(region=document["regions"].pop("us"), shard=document["shards"].pop("us-1"))

    def come(document: dict[str, Any]) -> None:
        document["regions"]["us"], document["shards"]["us-1"] = us["region"], us["shard"]

    change_topology(world, leave)
    change_topology(world, come)
    kill_home(world)
    reply = await world.get(ACCOUNT)
    assert (reply.status, reply.json["version"], reply.headers["Loyalty-Source"]) == (200, 3, "replica")


async def test_a_token_is_obeyed_there_too(world: World, killable: OwnValkey, database_pair: DatabasePair) -> None:
    await project(killable.url, BOB, 1, 2, 3)
    kill_home(world)
    await add_entry(database_pair.primary, BOB, 4)
    seen = await world.get(ACCOUNT, headers={"Consistency-Token": format_token(BOB, 4)})
    assert (version_in(seen), seen.headers["Loyalty-Source"] != "cache") == (4, True)
    early = await world.get(ACCOUNT, headers={"Consistency-Token": format_token(BOB, 5)})
    assert (early.status, early.json["code"]) == (503, "not_yet_visible")


async def test_two_tokens_are_two_at_home_too(world: World, killable: OwnValkey) -> None:
    await project(killable.url, BOB, 1, 2, 3)
    headers = [("Authorization", f"Bearer {world.keys['service']}")]
    headers += [("Consistency-Token", format_token(BOB, version)) for version in (2, 4)]
    async with world.session.get(world.nodes["eu"] + ACCOUNT, headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "malformed")
        assert answer.headers["Loyalty-Region"] == "us"


@pytest.mark.parametrize("path", [ACCOUNT, f"/v1/lookup?card={CARD}"])
async def test_what_the_home_region_has_answered_through_this_node_is_not_taken_back(
    world: World, killable: OwnValkey, database_pair: DatabasePair, path: str
) -> None:
    await put_view(killable.url, views.identifier_key("card", CARD), 1, views.identifier_view({"member_id": BOB}))
    async with replay_paused(database_pair.standby):
        await add_entry(database_pair.primary, BOB, 4)
        await project(killable.url, BOB, 1, 2, 3, 4)
        assert (await world.get(path)).headers["ETag"].startswith('W/"4')
        kill_home(world)
        await killable.stop()
        reply = await world.get(ACCOUNT)
        assert (version_in(reply), reply.headers["Loyalty-Source"]) == (4, "primary")


async def test_a_home_node_that_shows_less_than_the_one_before_is_not_believed(
    world: World, killable: OwnValkey, database_pair: DatabasePair
) -> None:
    async with replay_paused(database_pair.standby):
        await add_entry(database_pair.primary, BOB, 4)
        await project(killable.url, BOB, 1, 2, 3, 4)
        assert version_in(await world.get(ACCOUNT)) == 4
        await killable.stop()
        port = free_port()
        async with home_again(world, port):
            move_home(world, f"http://127.0.0.1:{port}")
            for path in (ACCOUNT, PATH, f"{PATH}/activity"):
                reply = await world.get(path)
                assert (version_in(reply), reply.headers["Loyalty-Region"]) == (4, "eu"), path


async def test_a_member_sees_what_they_may_and_nobody_else(world: World, killable: OwnValkey) -> None:
    await project(killable.url, BOB, 3)
    kill_home(world)
    assert (await world.get(ACCOUNT, credential=world.member_token(BOB))).status == 200
    for stranger in (EVE, ADA):
        reply = await world.get(ACCOUNT, credential=world.member_token(stranger))
        assert (reply.status, reply.json["code"]) == (404, "member_not_found")


async def test_the_home_region_answers_again_once_a_node_of_it_lives(world: World, killable: OwnValkey) -> None:
    await project(killable.url, BOB, 3)
    port = kill_home(world)
    assert (await world.get(ACCOUNT)).headers["Loyalty-Region"] == "eu"
    async with home_again(world, port):

        async def answers() -> bool:
            reply = await world.get(ACCOUNT)
            assert reply.status == 200
            return reply.headers["Loyalty-Region"] == "us"

        await eventually(answers)


async def test_a_frozen_home_leaves_time_to_answer_here(world: World, killable: OwnValkey) -> None:
    await project(killable.url, BOB, 3)
    async with frozen(world) as node:
        assert isinstance(node, FrozenNode)
        reply = await world.get(ACCOUNT, headers={"Loyalty-Deadline-Ms": "2000"})
        assert (reply.status, reply.headers["Loyalty-Region"], node.asked) == (200, "eu", 1)
        assert (await world.get(ACCOUNT)).status == 200
        assert node.asked == 1, "it is probed, not asked"


@long
async def test_a_stream_goes_on_here_and_home_again(world: World, killable: OwnValkey) -> None:
    await project(killable.url, BOB, 3)
    port = kill_home(world)
    headers = {"Authorization": f"Bearer {world.member_token(BOB)}", "Last-Event-ID": "2"}
    async with world.session.get(f"{world.nodes['eu']}{PATH}/events", headers=headers) as response:
        stream = Stream(response)
        assert (response.headers["Loyalty-Region"], (await stream.event())["id"]) == ("eu", "3")
        await project(killable.url, BOB, 4)
        assert (await stream.event())["id"] == "4"
        async with home_again(world, port):
            assert (await stream.event())["event"] == "moving"
            headers["Last-Event-ID"] = "3"
            async with world.session.get(f"{world.nodes['eu']}{PATH}/events", headers=headers) as at_home:
                assert (at_home.headers["Loyalty-Region"], (await Stream(at_home).event())["id"]) == ("us", "4")
