"""Queries over HTTP: versions, tokens, pages, credentials."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from query import views
from query.node import NODE
from service.shape import Account
from shard_router.member_id import format_member_id
from shard_router.token import format_token
from tests.conftest import DatabasePair, eventually, so
from tests.query_world import (
    START,
    ShardPlace,
    World,
    add_entry,
    entry,
    member,
    open_world,
    project,
    put_view,
    until_replayed,
    write_member,
    write_row,
)
from tests.sql import replay_paused

ADA = member(1)
TEXT = format_member_id(ADA)
ACCOUNT = f"/v1/members/{TEXT}/account"
ACTIVITY = f"/v1/members/{TEXT}/activity"


@pytest.fixture
async def world(tmp_path: Path, database_pair: DatabasePair, valkey_url: str) -> AsyncGenerator[World]:
    place = ShardPlace([database_pair.primary, database_pair.standby], valkey_url)
    async with open_world(tmp_path, {"eu-1": place}) as opened:
        yield opened


@pytest.fixture
def eu(world: World) -> ShardPlace:
    return world.shards["eu-1"]


async def test_an_account_comes_from_the_view_with_its_version(world: World, eu: ShardPlace) -> None:
    await project(eu.valkey, ADA, 3)
    reply = await world.get(ACCOUNT)
    assert (reply.status, reply.headers["Loyalty-Source"], reply.headers["ETag"]) == (200, "cache", 'W/"3"')
    assert reply.headers["Cache-Control"] == "private, no-cache"
    assert reply.body == views.account_view(entry(ADA, 3))
    Account.model_validate_json(reply.body)


async def test_without_a_view_the_standby_answers(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=2)
    await until_replayed(world, ADA, 2)
    primary_reads = await world.metric("loyalty_query_primary_reads_total")
    reply = await world.get(ACCOUNT)
    assert (reply.status, reply.headers["Loyalty-Source"], reply.json["version"]) == (200, "replica", 2)
    assert await world.metric("loyalty_query_primary_reads_total") == primary_reads


@pytest.mark.parametrize("given", ['W/"3"', '"3"', "*", 'W/"1", W/"3"', ', "1",W/"3" ,'])
async def test_an_unchanged_account_is_304(world: World, eu: ShardPlace, given: str) -> None:
    await project(eu.valkey, ADA, 3)
    reply = await world.get(ACCOUNT, headers={"If-None-Match": given})
    assert (reply.status, reply.body, reply.headers["ETag"]) == (304, b"", 'W/"3"')


@pytest.mark.parametrize("given", ['W/"2"', 'W/"2", W/"1"', "3", "", '"*"', 'W/"*"'])
async def test_another_version_is_sent(world: World, eu: ShardPlace, given: str) -> None:
    await project(eu.valkey, ADA, 3)
    assert (await world.get(ACCOUNT, headers={"If-None-Match": given})).status == 200


async def test_a_token_waits_for_its_notification(tmp_path: Path, database_pair: DatabasePair, valkey_url: str) -> None:
    eu = ShardPlace([database_pair.primary, database_pair.standby], valkey_url)
    # A busy machine takes longer to announce than a node waits in production.
    async with open_world(tmp_path, {"eu-1": eu}, token_wait_ms=50_000, deadline_ms=60_000) as world:
        await project(eu.valkey, ADA, 3)
        reader = world.apps["eu"][NODE].readers["eu-1"]
        await reader.visible.subscribed.wait()
        asked = asyncio.create_task(world.get(ACCOUNT, headers={"Consistency-Token": format_token(ADA, 4)}))
        await eventually(so(lambda: reader.visible.waiting > 0))
        await project(eu.valkey, ADA, 4)
        reply = await asked
        assert (reply.status, reply.json["version"], reply.headers["Loyalty-Source"]) == (200, 4, "cache")


async def test_a_view_that_stays_behind_gives_way_to_the_standby(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=5)
    await until_replayed(world, ADA, 5)
    await project(eu.valkey, ADA, 4)
    reply = await world.get(ACCOUNT, headers={"Consistency-Token": format_token(ADA, 5)})
    assert (reply.status, reply.json["version"], reply.headers["Loyalty-Source"]) == (200, 5, "replica")


async def test_an_answer_is_never_older_than_the_token(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=5)
    await project(eu.valkey, ADA, 5)
    for path in (ACCOUNT, f"/v1/members/{TEXT}", ACTIVITY, f"/v1/purchases/pur_{TEXT}-3"):
        reply = await world.get(path, headers={"Consistency-Token": format_token(ADA, 6)})
        assert (reply.status, reply.json["code"]) == (503, "not_yet_visible"), path
        assert reply.headers["Retry-After"] == "1"
        assert reply.json["retryable"]


@pytest.mark.parametrize("token", ["", "x", format_token(member(2), 1), f"v1.{TEXT}."])
async def test_a_token_that_does_not_fit_is_malformed(world: World, eu: ShardPlace, token: str) -> None:
    await project(eu.valkey, ADA, 3)
    reply = await world.get(ACCOUNT, headers={"Consistency-Token": token})
    assert (reply.status, reply.json["code"]) == (400, "malformed")
    assert reply.json["errors"][0]["pointer"] == "/Consistency-Token"


async def test_pages_join_without_gap_or_repeat_across_view_and_standby(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=75)
    await until_replayed(world, ADA, 75)
    await project(eu.valkey, ADA, *range(26, 76))
    path, seen, sources = f"{ACTIVITY}?page_size=20", [], []
    while path:
        reply = await world.get(path)
        seen += [item["version"] for item in reply.json["items"]]
        sources.append(reply.headers["Loyalty-Source"])
        token = reply.json.get("next_page_token")
        path = f"{ACTIVITY}?page_size=20&page_token={token}" if token else ""
    assert seen == list(range(75, 0, -1))
    assert sources == ["cache", "cache", "replica", "replica"]


async def test_a_page_never_skips_entries_that_a_server_does_not_have_yet(
    world: World, eu: ShardPlace, database_pair: DatabasePair
) -> None:
    await write_member(eu.primary, ADA, versions=4)
    await until_replayed(world, ADA, 4)
    async with replay_paused(database_pair.standby):
        for version in range(5, 64):
            await add_entry(eu.primary, ADA, version)
        await project(eu.valkey, ADA, *range(14, 64))
        first = await world.get(f"{ACTIVITY}?page_size=50")
        assert (first.json["items"][-1]["version"], first.headers["Loyalty-Source"]) == (14, "cache")
        path = f"{ACTIVITY}?page_size=50&page_token={first.json['next_page_token']}"
        for credential in (None, world.member_token(ADA)):
            second = await world.get(path, credential=credential)
            assert second.status == 200, second.body
            assert [item["version"] for item in second.json["items"]] == list(range(13, 0, -1))


async def test_an_old_page_is_not_waited_for(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=75)
    await until_replayed(world, ADA, 75)
    await project(eu.valkey, ADA, *range(26, 76))
    token = {"Consistency-Token": format_token(ADA, 75)}
    first = (await world.get(f"{ACTIVITY}?page_size=50", headers=token)).json
    waits = await world.metric("loyalty_query_waits_total")
    path = f"{ACTIVITY}?page_size=50&page_token={first['next_page_token']}"
    assert [item["version"] for item in (await world.get(path, headers=token)).json["items"]] == list(range(25, 0, -1))
    assert await world.metric("loyalty_query_waits_total") == waits


async def test_half_a_batch_never_claims_the_version_it_does_not_show(world: World, eu: ShardPlace) -> None:
    """The projector writes a version's account last: what lies there before it is older than it looks."""
    await project(eu.valkey, ADA, 2)
    await put_view(eu.valkey, views.profile_key(ADA), 3, b'{"name":"Ada Lovelace"}')
    member_path, token = f"/v1/members/{TEXT}", {"Consistency-Token": format_token(ADA, 3)}
    assert (await world.get(member_path, headers=token)).json["code"] == "not_yet_visible"
    assert (await world.get(member_path)).headers.get("ETag") != 'W/"3"'
    await project(eu.valkey, ADA, 3)
    whole = await world.get(member_path, headers=token)
    assert (whole.json["profile"]["name"], whole.json["account"]["version"]) == ("Ada Lovelace", 3)


async def test_half_an_erasure_shows_a_member_nothing_of_the_demanded_version(world: World, eu: ShardPlace) -> None:
    await project(eu.valkey, ADA, 1, 2)
    client = Redis.from_url(eu.valkey)
    await client.zadd(views.activity_key(ADA), {views.activity_item(entry(ADA, 3)): 3})  # the entry that erased her
    await client.aclose()
    sent = {"credential": world.member_token(ADA), "headers": {"Consistency-Token": format_token(ADA, 3)}}
    assert (await world.get(ACTIVITY, **sent)).json["code"] == "not_yet_visible"
    await put_view(eu.valkey, views.profile_key(ADA), 3, b'{"erased": true}')
    await project(eu.valkey, ADA, 3)
    assert (await world.get(ACTIVITY, **sent)).json["code"] == "member_not_found"


async def test_items_are_the_same_from_view_and_standby(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=3)
    await until_replayed(world, ADA, 3)
    from_standby = await world.get(ACTIVITY)
    await project(eu.valkey, ADA, 1, 2, 3)
    from_view = await world.get(ACTIVITY)
    assert from_standby.body == from_view.body
    assert [from_standby.headers["Loyalty-Source"], from_view.headers["Loyalty-Source"]] == ["replica", "cache"]


async def test_a_hole_in_the_recent_entries_is_noticed(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=6)
    await until_replayed(world, ADA, 6)
    await project(eu.valkey, ADA, 1, 2, 3, 5, 6)
    reply = await world.get(ACTIVITY)
    assert [item["version"] for item in reply.json["items"]] == [6, 5, 4, 3, 2, 1]
    assert reply.headers["Loyalty-Source"] == "replica"


async def test_an_entry_made_between_two_pages_disturbs_neither(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=4)
    await until_replayed(world, ADA, 4)
    first = (await world.get(f"{ACTIVITY}?page_size=2")).json
    await add_entry(eu.primary, ADA, 5)
    second = (await world.get(f"{ACTIVITY}?page_size=2&page_token={first['next_page_token']}")).json
    assert [item["version"] for page in (first, second) for item in page["items"]] == [4, 3, 2, 1]
    assert "next_page_token" not in second


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("page_token=nonsense", "/page_token"),
        ("page_token=", "/page_token"),
        ("page_size=0", "/page_size"),
        ("page_size=ten", "/page_size"),
        ("size=10", "/size"),
    ],
)
async def test_malformed_parameters_are_named(world: World, eu: ShardPlace, query: str, pointer: str) -> None:
    await project(eu.valkey, ADA, 1)
    reply = await world.get(f"{ACTIVITY}?{query}")
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["pointer"]) == (400, "malformed", pointer)


async def test_a_page_token_belongs_to_one_member(world: World, eu: ShardPlace) -> None:
    await project(eu.valkey, ADA, *range(1, 4))
    token = (await world.get(f"{ACTIVITY}?page_size=1")).json["next_page_token"]
    other = format_member_id(member(2))
    reply = await world.get(f"/v1/members/{other}/activity?page_token={token}")
    assert (reply.status, reply.json["code"]) == (400, "malformed")


async def test_what_one_may_not_see_answers_like_what_does_not_exist(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA)
    await until_replayed(world, ADA, 1)
    stranger = world.member_token(member(2))
    missing, far, damaged = format_member_id(member(3)), format_member_id(member(1, region="us")), TEXT[:-1] + "*"
    for suffix in ("", "/account", "/activity", "/rewards", "/events"):
        paths = [f"/v1/members/{text}{suffix}" for text in (TEXT, missing, far, damaged)]
        replies = [await world.get(path, credential=stranger) for path in paths]
        replies.append(await world.get(paths[1]) if suffix != "/rewards" else replies[0])
        bodies = [reply.json | {"request_id": ""} for reply in replies]
        assert all(body == bodies[0] for body in bodies), suffix
        assert (bodies[0]["status"], bodies[0]["code"]) == (404, "member_not_found")
        assert len({frozenset(set(reply.headers) - {"Date"}) for reply in replies}) == 1


async def test_a_member_sees_himself(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA)
    await until_replayed(world, ADA, 1)
    reply = await world.get(f"/v1/members/{TEXT}", credential=world.member_token(ADA))
    assert reply.status == 200
    assert reply.json == {"profile": {"name": "Ada"}, "account": (await world.get(ACCOUNT)).json}


async def test_without_credential_there_is_nothing_but_health_and_description(world: World) -> None:
    for path in (ACCOUNT, "/v1/stores", "/nothing"):
        assert (await world.get(path, headers={"Authorization": ""})).status == 401
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
        assert (await world.get(path, headers={"Authorization": ""})).status == 200


async def test_a_purchase_is_found_by_its_id(world: World, eu: ShardPlace) -> None:
    path = f"/v1/purchases/pur_{TEXT}-2"
    assert (await world.get(path)).json["code"] == "purchase_not_found"
    assert (await world.get("/v1/purchases/pur_x-1")).json["code"] == "purchase_not_found"
    await write_member(eu.primary, ADA, versions=3)
    await write_purchase(eu, version=2, changed_version=3)
    await until_replayed(world, ADA, 3)
    reply = await world.get(path, headers={"Consistency-Token": format_token(ADA, 3)})
    assert (reply.status, reply.headers["ETag"], reply.json["purchase_id"]) == (200, 'W/"3"', f"pur_{TEXT}-2")
    assert reply.json["business_date"] == "2026-11-01"
    reply = await world.get(path, credential=world.member_token(member(2)))
    assert reply.json["code"] == "purchase_not_found"


async def write_purchase(eu: ShardPlace, *, version: int, changed_version: int) -> None:
    row = {
        "member_id": ADA,
        "version": version,
        "changed_version": changed_version,
        "store": "berlin-1",
        "till": "1",
        "receipt": "77",
        "business_date": START.date(),
        "occurred_at": START,
        "document": '{"lines": [], "returns": []}',
    }
    await write_row(eu.primary, "purchase", row)
