"""What the bulk filler writes is a shop like any: every promise holds on it, and a node goes on from there."""

import json
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from benchmarks.fill import Place, fill
from shard_router.member_id import format_member_id
from tests.command_node import basket, running_command_node
from tests.engine import as_superuser
from tests.verify_world import Shard
from verify.verify import verify

ENTRIES = "every entry shows the account as it was then"
MEMBERS = "versions have no gap"


async def test_every_promise_holds_on_what_was_filled_in_bulk(database: str, valkey_url: str, tmp_path: Path) -> None:
    async with running_command_node(database, tmp_path) as node:
        place = Place(as_superuser(database), 1, range(4096))
        some = await fill(place, 30)
        assert len(some) == 30
        assert len(await fill(place, 20)) == 30  # there are more already
        (*_, newest) = await fill(place, 50)
        bought = await node.post("/v1/purchases", basket({"member_id": format_member_id(newest)}, "r1"))
        assert bought.status == 201, bought.body
        assert bought.json["account"]["version"] == 3
    path = tmp_path / "topology.json"
    document = json.loads(path.read_text())
    document["shards"]["eu-1"]["valkey"] = valkey_url
    path.write_text(json.dumps(document))
    shard = Shard(await asyncpg.connect(as_superuser(database)), Redis.from_url(valkey_url))
    await shard.fill_views()
    findings = {one.check: one for one in await verify(path)}
    assert not [f"{one.check}: {one.examples}" for one in findings.values() if not one.ok]
    assert (findings[MEMBERS].checked, findings[ENTRIES].checked) == (50, 101)
    await shard.connection.close()
    await shard.valkey.aclose()
