"""`/v1/system`: what every part says of itself; what does not answer is told, and hides nothing else."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from query.node import NODE
from query.system import SYSTEM
from query.system_shape import System
from tests.conftest import DatabasePair, eventually
from tests.engine import ValkeyServer, free_port
from tests.frozen_node import FrozenNode
from tests.query_world import Reply, ShardPlace, World, open_world, write_row

NOWHERE = "postgresql://nobody:x@127.0.0.1:1/none"


@pytest.fixture
async def world(tmp_path: Path, database_pair: DatabasePair, valkey_server: ValkeyServer) -> AsyncGenerator[World]:
    """A region with a primary, its standby and a server that is gone; and one of which nothing answers but its node."""
    shards = {
        "eu-1": ShardPlace([database_pair.primary, database_pair.standby, NOWHERE], await valkey_server.fresh_url()),
        "us-1": ShardPlace([NOWHERE], await valkey_server.fresh_url()),
    }
    door = tmp_path / "door.json"
    door.write_text(json.dumps({"url": "http://127.0.0.1:1", "admin_port": 1, "shares": {"us": 10}}))
    async with open_world(tmp_path, shards, door_state=door) as opened:
        yield opened


async def ask(world: World, *, region: str = "eu", query: str = "", **headers: str) -> Reply:
    return await world.get(f"/v1/system{query}", region=region, credential=world.keys["admin"], headers={**headers})


async def shown(world: World, *, region: str = "eu", query: str = "") -> dict[str, Any]:
    reply = await ask(world, region=region, query=query)
    assert reply.status == 200, reply.body
    System.model_validate(reply.json)
    return reply.json["regions"]


async def grown_old(world: World, *regions: str) -> None:
    """As if so much time had gone by that the next one who asks looks anew."""
    for view in (app[SYSTEM] for app in world.apps.values()):
        for name, heard in view._heard.items():  # pyright: ignore[reportPrivateUsage]
            if not regions or name in regions:
                heard.asked_at = float("-inf")


async def test_servers_are_shown_in_their_roles_with_lag_slots_clocks_and_versions(world: World) -> None:
    reply = await ask(world)
    assert (reply.headers["Loyalty-Region"], reply.json["region"], reply.json["epoch"]) == ("eu", "eu", 1)
    region = reply.json["regions"]["eu"]
    assert (region["state"], region["reachable"], region["why"], region["share"]) == ("active", True, None, 100)
    shard = region["shards"]["eu-1"]
    assert (shard["slots"], shard["claim_slots"], shard["projector"]) == ([[0, 4095]], [[0, 4095]], None)
    primary, standby, gone = shard["servers"]
    assert [one["role"] for one in (primary, standby, gone)] == ["primary", "standby", None]
    assert [one["reachable"] for one in (primary, standby, gone)] == [True, True, False]
    assert (primary["lag_bytes"], primary["lag_ms"]) == (0, 0)
    assert standby["lag_bytes"] >= 0
    assert standby["lag_ms"] is not None
    assert (primary["timeline"], standby["timeline"]) == (1, 1)
    assert all(
        abs(one["clock_offset_ms"]) < 1000 and int(one["version"].split(".")[0]) > 9 for one in (primary, standby)
    )
    assert gone["why"]
    assert gone["address"] == "127.0.0.1:1"
    assert b"nobody" not in reply.body, "who connects, and how, is nobody's business"


async def test_what_hinders_a_removal_is_shown_of_a_primary(world: World, database_pair: DatabasePair) -> None:
    async def seen() -> list[tuple[list[str] | None, bool | None]]:
        await grown_old(world)
        shard = (await shown(world))["eu"]["shards"]["eu-1"]
        return [(one["hinders"], one["receipts_fenced"]) for one in shard["servers"]]

    assert await seen() == [([], False), (None, None), (None, None)]
    move = {"move_id": uuid4(), "reward": "coffee", "quantity": 1, "receiver": "us-1"}
    now = datetime.now(UTC)
    for table, row in {
        "receipt_fence": {"fenced_at": now},
        "member": {"member_id": 1, "version": 1, "profile": "{}", "enrolled_at": now},
        "errand": {"member_id": 1, "version": 1, "kind": "x", "document": "{}", "due_at": now},
        "stock_move": move,
    }.items():
        await write_row(database_pair.primary, table, row)
    ((hinders, fenced), *others) = await seen()
    assert [words.split(":")[0] for words in hinders or ()] == [
        "holds members",
        "owes other shards something",
        "is about to give stock of a reward to another shard",
    ]
    assert (fenced, others) == (True, [(None, None), (None, None)])


async def test_a_node_tells_its_versions_and_what_is_wrong(world: World) -> None:
    regions = await shown(world)
    (node,) = regions["us"]["nodes"]
    assert (node["kind"], node["reachable"], node["version"], node["topology_epoch"]) == ("query", True, "0.1.0", 1)
    assert (node["program_version"], node["draining"], regions["us"]["share"]) == (None, False, 10)


async def test_every_region_shows_the_same_and_one_alone_may_be_asked_for(world: World) -> None:
    for region in ("eu", "us"):
        regions = await shown(world, region=region)
        assert [one["shards"].keys() for one in regions.values()] == [{"eu-1"}, {"us-1"}]
        assert all(one["reachable"] and one["age_ms"] >= 0 for one in regions.values())
    assert (await shown(world, query="?region=us")).keys() == {"us"}
    unknown = await ask(world, query="?region=mars")
    assert (unknown.status, unknown.json["code"], unknown.json["errors"][0]["pointer"]) == (400, "malformed", "/region")


@pytest.mark.parametrize("role", ["service", "pos"])
async def test_it_is_for_admins_alone(world: World, role: str) -> None:
    reply = await world.get("/v1/system", credential=world.keys[role])
    assert (reply.status, reply.json["code"]) == (403, "forbidden")


async def test_a_region_that_dies_is_shown_as_it_was_with_its_age_and_the_reason(world: World) -> None:
    before = (await shown(world))["us"]
    world.apps["eu"][NODE].topology.current.document.regions["us"].query[:] = [f"http://127.0.0.1:{free_port()}"]
    await grown_old(world)
    regions = await shown(world)
    gone = regions["us"]
    assert (gone["reachable"], gone["as_of"], gone["shards"]) == (False, before["as_of"], before["shards"])
    assert "us" in gone["why"]
    assert gone["age_ms"] >= before["age_ms"]
    assert regions["eu"]["reachable"]


async def test_of_a_region_that_was_never_heard_the_topology_tells_what_there_should_be(world: World) -> None:
    world.apps["eu"][NODE].topology.current.document.regions["us"].query[:] = [f"http://127.0.0.1:{free_port()}"]
    gone = (await shown(world))["us"]
    assert (gone["reachable"], gone["as_of"], gone["age_ms"]) == (False, None, None)
    assert [one["role"] for one in gone["shards"]["us-1"]["servers"]] == [None]


async def test_a_frozen_region_costs_its_own_time_and_nothing_of_the_others(world: World) -> None:
    frozen = FrozenNode()
    server = await asyncio.start_server(frozen.take, "127.0.0.1", 0)
    there = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    world.apps["eu"][NODE].topology.current.document.regions["us"].query[:] = [there]
    try:
        reply = await ask(world, **{"Loyalty-Deadline-Ms": "400"})
        regions = reply.json["regions"]
        assert reply.status == 200
        assert (regions["us"]["reachable"], regions["us"]["why"]) == (False, "no answer in time")
        assert regions["eu"]["reachable"]
    finally:
        frozen.thawed.set()
        server.close()


async def test_however_many_ask_everything_is_looked_at_once(world: World) -> None:
    asked = Counter[str]()
    for name, app in world.apps.items():
        status = next(
            route for route in app.router.routes() if route.resource and route.resource.canonical == "/status"
        )
        asked[name] = 0
        handler = status.handler

        async def counting(request: Any, handler: Any = handler, name: str = name) -> Any:
            asked[name] += 1
            return await handler(request)

        status._handler = counting  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    await asyncio.gather(*(shown(world, region=region) for region in ("eu", "us") for _ in range(20)))
    assert asked == {"eu": 1, "us": 1}

    async def is_asked_again() -> bool:
        await shown(world)
        return asked["eu"] > 1

    await eventually(is_asked_again)
