"""Finding members by identifier and commands by key, over shards and regions; the program's lists."""

from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from query import views
from query.node import NODE
from shard_router.card import compose_card
from shard_router.member_id import format_member_id, slot_of
from shard_router.token import format_token
from shard_router.topology import Topology
from tests.conftest import eventually
from tests.query_world import (
    PROGRAM,
    START,
    ShardPlace,
    World,
    member,
    open_world,
    project,
    put_view,
    write_member,
    write_row,
)

ADA, BOB = member(1), member(2, region="us")


@pytest.fixture
async def world(tmp_path: Path, two_shards: dict[str, ShardPlace]) -> AsyncGenerator[World]:
    async with open_world(tmp_path, two_shards) as opened:
        yield opened


@pytest.fixture
def eu(world: World) -> ShardPlace:
    return world.shards["eu-1"]


@pytest.fixture
def us(world: World) -> ShardPlace:
    return world.shards["us-1"]


def account_path(member_id: int) -> str:
    return f"/v1/members/{format_member_id(member_id)}/account"


async def write_identifier(place: ShardPlace, kind: str, value: str, member_id: int) -> None:
    row = {"kind": kind, "value": value, "member_id": member_id, "version": 1}
    await write_row(place.primary, "identifier", row)


async def test_a_foreign_member_is_answered_by_the_home_region(world: World, us: ShardPlace) -> None:
    await project(us.valkey, BOB, 2)
    reply = await world.get(account_path(BOB), region="eu")
    assert (reply.status, reply.json["version"], reply.headers["Loyalty-Region"]) == (200, 2, "us")
    assert (reply.headers["ETag"], reply.headers["Loyalty-Source"]) == ('W/"2"', "cache")
    assert (await world.get(account_path(BOB), headers={"If-None-Match": 'W/"2"'})).status == 304
    token = {"Consistency-Token": format_token(BOB, 3)}
    assert (await world.get(account_path(BOB), headers=token)).json["code"] == "not_yet_visible"


async def test_a_request_is_forwarded_once_only(world: World, us: ShardPlace) -> None:
    await project(us.valkey, BOB, 2)
    assert (await world.get(account_path(BOB), headers={"Loyalty-Forwarded": "ap"})).status == 200, "a stranger's word"
    watch = world.apps["us"][NODE].topology
    document = watch.current.document
    numbers = {"eu": document.regions["us"].number, "us": document.regions["eu"].number}
    regions = {name: region.model_copy(update={"number": numbers[name]}) for name, region in document.regions.items()}
    watch.adopt(Topology(document.model_copy(update={"epoch": 2, "regions": regions})))
    for path in (account_path(BOB), f"/v1/members/{format_member_id(BOB)}/events"):
        reply = await world.get(path)
        assert (reply.status, reply.json["code"]) == (503, "shard_unavailable"), "nodes disagree about the home"


@pytest.mark.parametrize(
    ("kind", "value", "asked"),
    [
        ("card", compose_card(1, slot=slot_of(ADA), unique=5), None),
        ("card", "FOREIGN-7", None),
        ("phone", "+493012345678", "%2B493012345678"),
        ("phone", "+493012345678", "+493012345678"),
        ("email", "ada@example.com", "Ada@Example.com"),
    ],
)
async def test_a_member_is_found_from_every_region(
    world: World, eu: ShardPlace, *, kind: str, value: str, asked: str | None
) -> None:
    await write_member(eu.primary, ADA)
    await write_identifier(eu, kind, value, ADA)
    for region in ("eu", "us"):
        reply = await world.get(f"/v1/lookup?{kind}={asked or value}", region=region)
        assert reply.status == 200, reply.body
        assert reply.json["member_id"] == format_member_id(ADA)
        assert reply.json["account"]["version"] == 1
        assert (reply.headers["ETag"], reply.headers["Loyalty-Region"]) == (f'W/"1-{format_member_id(ADA)}"', "eu")


async def test_an_identifier_is_found_in_the_view(world: World, eu: ShardPlace) -> None:
    await project(eu.valkey, ADA, 4)
    row = {"member_id": ADA}
    await put_view(eu.valkey, views.identifier_key("phone", "+1"), 4, views.identifier_view(row))
    reply = await world.get("/v1/lookup?phone=%2B1")
    assert (reply.status, reply.json["account"]["version"], reply.headers["Loyalty-Source"]) == (200, 4, "cache")


async def test_nobody_is_found_by_what_nobody_has(world: World) -> None:
    for query in ("phone=%2B4930999", "card=0", f"card={compose_card(1, slot=9, unique=1)}", "email=x@y.z"):
        reply = await world.get(f"/v1/lookup?{query}")
        assert (reply.status, reply.json["code"]) == (404, "member_not_found"), query


@pytest.mark.parametrize("query", ["phone=%2B999", "phone=x", "phone=%2B1234567"])
async def test_a_lookup_by_a_number_that_no_plan_has_is_refused(world: World, query: str) -> None:
    reply = await world.get(f"/v1/lookup?{query}")
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (400, "/phone")


@pytest.mark.parametrize(
    ("kind", "stored", "asked"),
    [
        ("email", "ada.love+shop@example.com", "ada.love+shop@example.com"),
        ("email", "björn@example.com", "Bjo%CC%88rn@Example.com."),
        ("email", "a@xn--bcher-kva.example", "a@b%C3%BCcher.example"),
        ("phone", "+49302123456", "+490302123456"),
        ("phone", "+490302123456", "%2B490302123456"),  # stored before there was one form
        ("phone", "+1234567", "%2B1234567"),  # and what no plan has
        ("email", "bjo\u0308rn@bücher.example", "Bjo%CC%88rn@b%C3%BCcher.example"),
    ],
)
async def test_an_identifier_is_found_however_it_is_written(
    world: World, eu: ShardPlace, *, kind: str, stored: str, asked: str
) -> None:
    await write_member(eu.primary, ADA)
    await write_identifier(eu, kind, stored, ADA)
    for region in ("eu", "us"):
        reply = await world.get(f"/v1/lookup?{kind}={asked}", region=region)
        assert (reply.status, reply.json.get("member_id")) == (200, format_member_id(ADA))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "card=",
        "card=%00",
        "email=a%E2%80%AEb@example.com",
        "card=1&phone=2",
        "card=1&card=2",
        "name=Ada",
        "card=1&x=1",
    ],
)
async def test_a_lookup_takes_exactly_one_identifier(world: World, query: str) -> None:
    assert (await world.get(f"/v1/lookup?{query}")).status == 400


@pytest.mark.parametrize(
    ("query", "pointers"),
    [("", ["/card", "/phone", "/email"]), ("email=", ["/email"]), ("card=1&phone=2", ["/card", "/phone"])],
)
async def test_a_lookup_without_one_name_tells_which_were_sent(world: World, query: str, pointers: list[str]) -> None:
    errors = (await world.get(f"/v1/lookup?{query}")).json["errors"]
    assert [(one["pointer"], bool(one["detail"])) for one in errors] == [(pointer, True) for pointer in pointers]


async def test_a_lookup_keeps_the_token(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=2)
    await write_identifier(eu, "phone", "+1", ADA)
    for region in ("eu", "us"):
        for demanded, status in ((2, 200), (3, 503)):
            token = {"Consistency-Token": format_token(ADA, demanded)}
            assert (await world.get("/v1/lookup?phone=%2B1", region=region, headers=token)).status == status
    other = {"Consistency-Token": format_token(member(3), 0)}
    assert (await world.get("/v1/lookup?phone=%2B1", headers=other)).json["code"] == "malformed"


async def test_a_304_never_hides_that_an_identifier_moved_to_another_member(world: World, eu: ShardPlace) -> None:
    eve = member(3)
    for one in (ADA, eve):
        await project(eu.valkey, one, 2)
    key = views.identifier_key("phone", "+1")
    await put_view(eu.valkey, key, 10, views.identifier_view({"member_id": ADA}))
    before = await world.get("/v1/lookup?phone=%2B1")
    kept = {"If-None-Match": before.headers["ETag"]}
    assert (await world.get("/v1/lookup?phone=%2B1", headers=kept)).status == 304
    await put_view(eu.valkey, key, 20, views.identifier_view({"member_id": eve}))
    after = await world.get("/v1/lookup?phone=%2B1", headers=kept)
    assert (after.status, after.json["member_id"]) == (200, format_member_id(eve))


async def test_an_identifier_removed_at_the_demanded_version_finds_nobody(world: World, eu: ShardPlace) -> None:
    await write_member(eu.primary, ADA, versions=2)  # the second removed the card
    await project(eu.valkey, ADA, 1)  # the projector has not come so far
    await put_view(eu.valkey, views.identifier_key("card", "OLD1"), 1, views.identifier_view({"member_id": ADA}))
    assert (await world.get("/v1/lookup?card=OLD1")).json["account"]["version"] == 1
    for region in ("eu", "us"):
        token = {"Consistency-Token": format_token(ADA, 2)}
        reply = await world.get("/v1/lookup?card=OLD1", region=region, headers=token)
        assert (reply.status, reply.json["code"]) == (404, "member_not_found")


async def test_an_identifier_that_moved_finds_whom_the_token_is_of(world: World, eu: ShardPlace) -> None:
    eve = member(3)
    await write_member(eu.primary, ADA)
    await write_member(eu.primary, eve)
    await write_identifier(eu, "phone", "+5", eve)
    await put_view(eu.valkey, views.identifier_key("phone", "+5"), 1, views.identifier_view({"member_id": ADA}))
    reply = await world.get("/v1/lookup?phone=%2B5", headers={"Consistency-Token": format_token(eve, 1)})
    assert (reply.status, reply.json.get("member_id")) == (200, format_member_id(eve))
    await project(eu.valkey, eve, 1)  # all but the identifier: even then the view of another member is not believed
    reply = await world.get("/v1/lookup?phone=%2B5", headers={"Consistency-Token": format_token(eve, 1)})
    assert (reply.status, reply.json.get("member_id")) == (200, format_member_id(eve))


@pytest.mark.parametrize("region", ["eu", "us"])
async def test_a_token_of_a_member_of_another_region_is_of_another_member(
    world: World, eu: ShardPlace, us: ShardPlace, region: str
) -> None:
    for place, member_id, phone in ((eu, ADA, "+493012345678"), (us, BOB, "+493012345679")):
        await write_member(place.primary, member_id)
        await write_identifier(place, "phone", phone, member_id)
    token = {"Consistency-Token": format_token(BOB, 1)}
    reply = await world.get("/v1/lookup?phone=%2B493012345678", region=region, headers=token)
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (400, "/Consistency-Token"), reply.body
    assert (await world.get("/v1/lookup?phone=%2B493012345679", region=region, headers=token)).status == 200


async def test_members_look_nobody_up(world: World) -> None:
    reply = await world.get("/v1/lookup?phone=%2B1", credential=world.member_token(ADA))
    assert (reply.status, reply.json["code"]) == (403, "forbidden")


async def apply(world: World, source: str, version: int) -> None:
    row = {"version": version, "effective_at": START, "source": source}
    for place in world.shards.values():
        await write_row(place.primary, "program", row)

    async def adopted() -> bool:
        reply = await world.get("/v1/tiers")
        return reply.headers.get("ETag") == f'W/"p{version}"'

    await eventually(adopted)


async def test_the_program_is_listed_and_followed(world: World) -> None:
    assert (await world.get("/v1/tiers")).json["code"] == "shard_unavailable"
    await apply(world, PROGRAM, 1)
    tiers = await world.get("/v1/tiers", credential=world.member_token(ADA))
    assert tiers.json["items"] == [
        {"code": "basic", "name": "basic", "threshold": 0, "multiplier": 1.0},
        {"code": "silver", "name": "Silver", "threshold": 500, "multiplier": 1.25},
    ]
    assert (await world.get("/v1/tiers", headers={"If-None-Match": 'W/"p1"'})).status == 304
    assert [item["reward"] for item in (await world.get("/v1/rewards")).json["items"]] == ["coffee", "mug"]
    await apply(world, PROGRAM.replace("Silver", "Argent"), 3)
    assert (await world.get("/v1/tiers")).json["items"][1]["name"] == "Argent"


async def test_a_member_sees_what_is_affordable(world: World, eu: ShardPlace) -> None:
    await apply(world, PROGRAM, 1)
    await project(eu.valkey, ADA, 2)
    path = f"/v1/members/{format_member_id(ADA)}/rewards"
    reply = await world.get(path)
    assert [(item["reward"], item["affordable"], item["points_missing"]) for item in reply.json["items"]] == [
        ("coffee", True, 0),
        ("mug", False, 25),
    ]
    assert reply.headers["ETag"] == 'W/"2-1"'
    assert (await world.get(path, headers={"If-None-Match": 'W/"2-1"'})).status == 304
    assert (await world.get(path, region="us")).json == reply.json


async def test_stores_are_listed_filtered_sorted_and_paged(world: World) -> None:
    await apply(world, PROGRAM, 1)
    assert await codes(world, "") == ["berlin-1", "boston-1", "paris-1"]
    assert await codes(world, "?region=eu") == ["berlin-1", "paris-1"]
    assert await codes(world, "?region=nowhere") == []
    assert await codes(world, "?near=48.85,2.35") == ["paris-1", "berlin-1", "boston-1"]
    first = (await world.get("/v1/stores?near=48.85,2.35&page_size=1")).json
    assert first["items"][0]["distance_m"] == pytest.approx(751, abs=5)
    paged = [first["items"][0]["store"]]
    while token := first.get("next_page_token"):
        first = (await world.get(f"/v1/stores?near=48.85,2.35&page_size=1&page_token={token}")).json
        paged += [item["store"] for item in first["items"]]
    assert paged == ["paris-1", "berlin-1", "boston-1"]
    for query in ("near=1", "near=91,0", "near=nan,0", "near=a,b", "page_token=x", "city=Berlin"):
        assert (await world.get(f"/v1/stores?{query}")).status == 400, query


async def codes(world: World, query: str) -> list[str]:
    return [item["store"] for item in (await world.get(f"/v1/stores{query}")).json["items"]]


async def test_an_unusable_program_leaves_the_current_one(world: World) -> None:
    await apply(world, PROGRAM, 1)
    for place in world.shards.values():
        row = {"version": 2, "effective_at": START, "source": "this is not TOML ["}
        await write_row(place.primary, "program", row)
    await world.apps["eu"][NODE].catalogue.refresh()
    assert (await world.get("/v1/tiers")).headers["ETag"] == 'W/"p1"'


async def test_the_program_is_followed_again_after_a_fault_nobody_foresaw(world: World, eu: ShardPlace) -> None:
    await apply(world, PROGRAM, 1)
    connection = await asyncpg.connect(eu.primary)
    with capture_logs() as logs:
        await connection.execute("ALTER TABLE program RENAME TO elsewhere")

        async def failed() -> bool:
            return any(log["event"] == "program_not_refreshed" for log in logs)

        await eventually(failed)
    await connection.execute("ALTER TABLE elsewhere RENAME TO program")
    await connection.close()
    await apply(world, PROGRAM, 2)


@pytest.mark.parametrize("query", ["phone=%00", "email=a%00b", "card=1%0A2", f"email=a@{'%C3%BC.' * 500}de"])
async def test_an_identifier_nobody_can_have_is_malformed(world: World, query: str) -> None:
    assert (await world.get(f"/v1/lookup?{query}")).json["code"] == "malformed"


async def test_an_evaluation_goes_to_the_home_region_with_its_body(world: World) -> None:
    body = {
        "member": {"member_id": format_member_id(BOB)},
        "store": "berlin-1",
        "till": "1",
        "receipt": "1",
        "occurred_at": "2026-11-22T10:00:00Z",
        "currency": "EUR",
        "lines": [{"sku": "a", "quantity": 1, "amount": 100}],
    }
    reply = await world.post("/v1/evaluations", body)
    assert (reply.json["code"], reply.headers["Loyalty-Region"]) == ("member_not_found", "us")
    reply = await world.post("/v1/evaluations", body | {"lines": []})
    assert (reply.json["code"], reply.headers["Loyalty-Region"]) == ("malformed", "eu")
