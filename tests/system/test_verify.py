"""`loyalty verify` finds what was tampered with, says which promise it broke, and exits with 1."""

import asyncio
import json
import re
import subprocess

import pytest
import redis.asyncio

from cluster.verdict import EXIT_UNSEEN
from query.views import account_key, header
from shard_router.member_id import parse_member_id
from tests.conftest import eventually
from tests.system.conftest import loyalty
from tests.system.till import REGIONS, System, basket

# Only tables that are not published: what CDC carried to the views would stay there after the row is as it was.
TAMPERING = {
    "a balance": (
        "UPDATE account SET available = available + 1, issued = issued + 1 WHERE member_id = $1",
        "UPDATE account SET available = available - 1, issued = issued - 1 WHERE member_id = $1",
        "balance and lots equal the fold of the journal",
    ),
    "a version": (
        "UPDATE account SET version = 9 WHERE member_id = $1",
        "UPDATE account SET version = 2 WHERE member_id = $1",
        "versions have no gap",
    ),
    "a stored answer": (
        """UPDATE idempotency SET answer = '{"points_earned": 99}' WHERE member_id = $1 AND version = 2""",
        "UPDATE idempotency SET answer = '{}' WHERE member_id = $1 AND version = 2",
        "every stored answer matches its entry",
    ),
}


async def verdict(system: System) -> dict[str, int]:
    """What is broken, once all could be looked at: on a busy machine a server may not answer for a while."""
    told: list[subprocess.CompletedProcess[str]] = []

    async def all_was_looked_at() -> bool:
        told[:] = [await asyncio.to_thread(loyalty, system.data, "verify", "--json")]
        return told[0].returncode != EXIT_UNSEEN

    await eventually(all_was_looked_at, deadline_s=60)
    (done,) = told
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1)
    broken = [check for check in document["checks"] if check["violations"]]
    assert all(check["examples"] for check in broken)
    return {check["check"]: check["violations"] for check in broken}


@pytest.mark.parametrize("what", TAMPERING)
async def test_a_changed_row_is_found(system: System, what: str) -> None:
    change, restore, check = TAMPERING[what]
    member = await system.enrol("eu")
    await system.post("eu", "/v1/purchases", basket(member, "eu", f"tamper-{what}"))
    connection = await system.primary("eu")
    member_id = parse_member_id(member)
    await connection.execute(change, member_id)
    try:
        assert check in await verdict(system)
        told = await asyncio.to_thread(loyalty, system.data, "verify")
        assert told.returncode == 1
        assert f"eu-1: {check}: " in " ".join(told.stdout.split())
    finally:
        await connection.execute(restore, member_id)
        await connection.close()


async def test_a_view_that_shows_something_else_is_found(system: System) -> None:
    member = await system.enrol("us")
    client = redis.asyncio.from_url(system.status["regions"]["us"]["shards"]["us-1"]["valkey"])
    key = account_key(parse_member_id(member))

    async def there() -> bool:
        return await client.get(key) is not None

    await eventually(there)
    kept = await client.get(key)
    await client.set(key, header(1) + b'{"points": 1000000}')
    try:
        assert "the account view equals the row" in await verdict(system)
    finally:
        await client.set(key, kept)
        await client.aclose()


async def test_rebuild_tells_in_a_line_per_shard_what_was_rebuilt(system: System) -> None:
    await system.enrol("eu")
    told = await asyncio.to_thread(loyalty, system.data, "rebuild", "--region", "eu")
    assert told.returncode == 0, told.stderr
    assert re.fullmatch(r"eu-1: rebuilt, [1-9][0-9,]* members in \d+\.\d s\n", told.stdout), told.stdout


async def test_a_stock_shared_by_three_regions_is_sold_exactly(system: System) -> None:
    """Every region sells at once until all are told that it is out."""
    members = {region: await system.enrol(region) for region in REGIONS}
    for region, member in members.items():
        body = {"member": {"member_id": member}, "points": 1_000, "reason": "test"}
        assert (await system.post(region, "/v1/adjustments", body)).status == 201

    async def sell(region: str) -> int:
        body = {"member": {"member_id": members[region]}, "reward": "scarce", "quantity": 5}
        sold = 0
        while (reply := await system.post(region, "/v1/redemptions", body)).status == 201:
            sold += 5
        assert reply.json["code"] == "out_of_stock", reply.body
        return sold

    sold = sum(await asyncio.gather(*(sell(region) for region in REGIONS for _ in range(4))))
    assert sold == 205
    assert await verdict(system) == {}
