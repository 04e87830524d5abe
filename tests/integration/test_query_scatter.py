"""A look-up is answered by the shard that knows, whichever others are silent."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from service.bulkhead import FAILURES_MAX
from shard_router.member_id import format_member_id
from tests.query_servers import Proxy, proxy_of
from tests.query_world import ShardPlace, World, member, open_world, write_member, write_row

CAT = member(3, region="ap")
PHONE, NOBODY = "+493012345678", "+493012345679"


@pytest.fixture
async def proxies() -> list[Proxy]:
    """What stands before the servers of us-1."""
    return []


@pytest.fixture
async def world(
    tmp_path: Path, database: str, second_database: str, valkey_url: str, proxies: list[Proxy]
) -> AsyncGenerator[World]:
    """Cat lives in ap; between that and eu lies us."""
    await write_member(second_database, CAT)
    row = {"kind": "phone", "value": PHONE, "member_id": CAT, "version": 1}
    await write_row(second_database, "identifier", row)
    async with proxy_of(database) as (before_server, server), proxy_of(valkey_url) as (before_valkey, valkey):
        proxies += before_server, before_valkey
        near, far = ShardPlace([database], valkey_url), ShardPlace([second_database], valkey_url)
        shards = {"eu-1": near, "us-1": ShardPlace([server], valkey), "ap-1": far}
        async with open_world(tmp_path, shards, deadline_ms=2_000) as opened:
            yield opened


@pytest.mark.parametrize("region", ["eu", "us"], ids=["of another region", "of its own"])
async def test_a_silent_shard_keeps_nobody_from_being_found(world: World, proxies: list[Proxy], region: str) -> None:
    for proxy in proxies:
        proxy.freeze()
    reply = await world.get(f"/v1/lookup?phone={PHONE}", region=region)
    assert (reply.status, reply.json.get("member_id")) == (200, format_member_id(CAT)), reply.body


async def test_who_may_be_on_a_silent_shard_is_not_called_unknown(world: World, proxies: list[Proxy]) -> None:
    assert (await world.get(f"/v1/lookup?phone={NOBODY}")).json["code"] == "member_not_found"
    for proxy in proxies:
        proxy.freeze()
    assert (await world.get(f"/v1/lookup?phone={NOBODY}")).json["code"] == "shard_unavailable"


async def test_a_region_that_lets_look_ups_wait_is_left_alone(world: World, proxies: list[Proxy]) -> None:
    for proxy in proxies:
        proxy.freeze()
    path = f"/v1/lookup?phone={NOBODY}"
    await asyncio.gather(*(world.get(path) for _ in range(FAILURES_MAX)))
    reply = await world.get(path)
    assert (reply.status, reply.json["detail"]) == (503, "region us does not answer")
    assert (await world.get(f"/v1/lookup?phone={PHONE}")).status == 200
