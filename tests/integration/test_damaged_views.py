"""A view that cannot be parsed counts as none: a server answers, the projector writes it again, nobody else notices."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from query import views
from query.node import NODE
from shard_router.member_id import format_member_id
from tests.cdc_node import CdcNode
from tests.cdc_world import ADD_ENTRIES, DEADLINE_S, MEMBERS, fill, settled, views_of, wanted_views
from tests.conftest import eventually
from tests.query_world import (
    START,
    Reply,
    ShardPlace,
    World,
    member,
    open_world,
    project,
    put_view,
    write_member,
    write_row,
)

ADA, BEA = member(1), member(2)
TEXT = format_member_id(ADA)
PHONE = "+4930111222"
KEYS = {
    "account": views.account_key(ADA),
    "profile": views.profile_key(ADA),
    "purchase": views.purchase_key(ADA, 2),
    "identifier": views.identifier_key("phone", PHONE),
    "activity": views.activity_key(ADA),
}
HEAD = views.header(9)
GARBAGE = {
    "garbage": b"garbage",
    "nothing": b"",
    "a version alone": HEAD,
    "no version": b'{"balance":{},"lines":[],"member_id":"x"}',
    "a version with a sign": b"+000000000000009{}",
    "half of it": HEAD + b'{"balance":{"available":1',
    "no JSON within": HEAD + b"{garbage}",
    "a list": HEAD + b"[]",
    "another content": HEAD + b'{"balance":5,"lines":7,"member_id":1}',
    "no UTF-8": HEAD + b'{"balance":"\xff"}',
}
READS = {
    "account": [f"/v1/members/{TEXT}/account", f"/v1/members/{TEXT}", f"/v1/members/{TEXT}/rewards"],
    "profile": [f"/v1/members/{TEXT}"],
    "purchase": [f"/v1/purchases/pur_{TEXT}-2"],
    "identifier": [f"/v1/lookup?phone=%2B{PHONE[1:]}"],
    "activity": [f"/v1/members/{TEXT}/activity"],
}
LISTS = {
    "an item of another form": b"garbage",
    "an item without its end": b'{"version":2',
    "an item of no object": b"2",
}

Damage = Callable[[Redis], Awaitable[object]]


@dataclass
class Told:
    """A query node with all views of a member, and what it says of them to the projector."""

    world: World
    valkey: Redis
    channel: object


@pytest.fixture
async def told(tmp_path: Path, database: str, valkey_url: str) -> AsyncGenerator[Told]:
    async with open_world(tmp_path, {"eu-1": ShardPlace([database], valkey_url)}) as world:
        for one in (ADA, BEA):
            await write_member(database, one, versions=2)
            await project(valkey_url, one, 1, 2)
        await write_row(database, "program", {"version": 1, "effective_at": START, "source": PROGRAM})
        await world.apps["eu"][NODE].catalogue.refresh()
        await write_row(database, "identifier", {"kind": "phone", "value": PHONE, "member_id": ADA, "version": 1})
        row = {
            "member_id": ADA,
            "version": 2,
            "changed_version": 2,
            "store": "s",
            "till": "1",
            "receipt": "7",
            "business_date": START.date(),
            "occurred_at": START,
            "document": '{"lines": [], "returns": []}',
        }
        await write_row(database, "purchase", row)
        await put_view(valkey_url, KEYS["purchase"], 2, views.purchase_view(row))
        await put_view(valkey_url, KEYS["identifier"], 1, views.identifier_view({"member_id": ADA}))
        async with Redis.from_url(valkey_url) as valkey, valkey.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(views.DAMAGED_CHANNEL)
            await channel.get_message(timeout=5)
            yield Told(world, valkey, channel)


PROGRAM = """
[program]
code = "test"
name = "Test"
currency = "EUR"
time_zone = "Europe/Berlin"
[points]
per_unit = "1"
expiry = { kind = "none" }
[[rewards]]
code = "coffee"
name = "A coffee"
points = 10
"""


async def read(told: Told, kind: str) -> list[tuple[int, object]]:
    replies = [await answer(told, path) for path in READS[kind]]
    return [(reply.status, reply.json) for reply in replies]


async def answer(told: Told, path: str) -> Reply:
    """Ask again as clients do while the shard cannot be reached: on a slow machine its server may rest a second."""
    replies: list[Reply] = []

    async def answered() -> bool:
        replies.append(await told.world.get(path))
        return replies[-1].status != 503

    await eventually(answered)
    return replies[-1]


async def stays_whole(told: Told, kind: str, damage: Damage) -> None:
    before = await read(told, kind)
    assert {status for status, _ in before} == {200}
    await damage(told.valkey)
    assert await read(told, kind) == before
    message = await told.channel.get_message(timeout=10)  # pyright: ignore[reportAttributeAccessIssue]
    assert message["data"].decode() == KEYS[kind]
    assert await told.world.metric("loyalty_query_damaged_views_total") > 0
    assert not told.world.apps["eu"][NODE].readers["eu-1"].cache.breaker.is_open
    other = await told.world.get(f"/v1/members/{format_member_id(BEA)}/activity")
    assert (other.status, other.headers["Loyalty-Source"]) == (200, "cache")


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", ["account", "profile", "purchase", "identifier"])
async def test_a_view_that_cannot_be_parsed_counts_as_none(told: Told, kind: str, garbage: str) -> None:
    if (kind, garbage) == ("profile", "another content"):
        pytest.skip("a profile may have any content")
    await stays_whole(told, kind, lambda valkey: valkey.set(KEYS[kind], GARBAGE[garbage]))


@pytest.mark.parametrize("item", LISTS)
async def test_an_entry_that_cannot_be_parsed_makes_the_list_none(told: Told, item: str) -> None:
    await stays_whole(told, "activity", lambda valkey: valkey.zadd(KEYS["activity"], {LISTS[item]: 2}))


async def test_a_list_of_another_type_counts_as_none_and_holds_up_no_other(told: Told) -> None:
    async def damage(valkey: Redis) -> None:
        await valkey.delete(KEYS["activity"])
        await valkey.set(KEYS["activity"], b"x")

    await stays_whole(told, "activity", damage)


def keys_of(number: int) -> list[str]:
    return [
        views.account_key(number), views.profile_key(number), views.purchase_key(number, 1),
        views.identifier_key("card", str(number)), views.activity_key(number),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [*GARBAGE.values(), b"~" * 30, views.header(10**15) + b"{}", None])
async def test_the_projector_writes_it_again(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis, value: bytes | None
) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    named = [key for number in MEMBERS[:3] for key in keys_of(number)]
    damaged = [key for key in named if value is None or key[0] == "e" or not views.is_readable(key, value)]
    for key in damaged:
        await valkey.delete(key)
        await (valkey.rpush(key, "a list") if value is None else valkey.set(key, value))
    for key in ["i:card:none", "a:x", "other", "projector:eu-1", "a:" + "9" * 18, "\xff", *damaged]:
        await valkey.publish(views.DAMAGED_CHANNEL, key)

    async def mended() -> bool:
        try:
            return await views_of(valkey) == await wanted_views(client)
        except ResponseError:  # a list where a view belongs, or the other way round
            return False

    await eventually(mended, deadline_s=DEADLINE_S)
    await client.execute(ADD_ENTRIES, MEMBERS[:3], 1)
    await settled(client, valkey)
    await eventually(projector.complete)


async def test_what_is_well_is_left_alone(projector: CdcNode, client: asyncpg.Connection, valkey: Redis) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await valkey.set(views.account_key(MEMBERS[0]), b"garbage")
    other = views.account_key(MEMBERS[1])
    shown = views.header(1) + b'{"balance":{},"note":"not what Postgres says"}'
    await valkey.set(other, shown)
    for key in (other, views.account_key(MEMBERS[0])):
        await valkey.publish(views.DAMAGED_CHANNEL, key)

    async def mended() -> bool:
        return await valkey.get(views.account_key(MEMBERS[0])) != b"garbage"

    await eventually(mended)
    assert await valkey.get(other) == shown


async def test_a_change_passes_a_view_that_cannot_be_parsed(
    projector: CdcNode, client: asyncpg.Connection, valkey: Redis
) -> None:
    await projector.start()
    await fill(client)
    await settled(client, valkey)
    await valkey.set(views.account_key(MEMBERS[0]), b"~~ beyond every version ~~")
    await valkey.delete(views.activity_key(MEMBERS[1]))
    await valkey.set(views.activity_key(MEMBERS[1]), b"no list")
    await client.execute(ADD_ENTRIES, MEMBERS[:2], 1)

    async def passed() -> bool:
        value = await valkey.get(views.account_key(MEMBERS[0]))
        return value is not None and value.startswith(views.header(4))

    await eventually(passed)
    assert await valkey.type(views.activity_key(MEMBERS[1])) == b"zset"
