"""One shard, or two, go back to an earlier state while the others go on: reconciled, every promise holds again."""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from command.program import apply_program
from rules.version import incarnation_of
from shard_router.errors import ProblemError
from shard_router.member_id import parse_member_id
from tests.command_node import REWARDS, basket
from tests.engine import PostgresServer
from tests.restored_world import REGIONS, World, restorable_world


@pytest.fixture
async def world(postgres_server: PostgresServer, tmp_path: Path) -> AsyncGenerator[World]:
    async with restorable_world(postgres_server, tmp_path) as made:
        yield made


async def test_a_phone_enrolled_since_the_back_up_is_free_again(world: World) -> None:
    phone = world.phone_kept_in("us")
    await world.keep("eu")
    lost = await world.enrol("eu", phone=phone)
    await world.restore("eu")
    assert (await world.nodes["eu"].post("/v1/members", {"phone": phone})).code == "member_exists"
    assert "1 claims freed whose member has no such identifier" in await world.reconcile()
    member = await world.enrol("eu", phone=phone)
    assert member != lost
    assert await world.broken() == {}


async def test_claims_that_were_lost_are_waited_for_and_come_back(world: World) -> None:
    """Nobody may enrol meanwhile with what another member has, and nobody is told that there is no such member."""
    phone, card = world.phone_kept_in("us"), {"card": "FOREIGN-CARD-7"}
    await world.keep("us")
    member = await world.enrol("eu", phone=phone, **card)
    await world.restore("us")
    bought = basket({"phone": phone}, "by-phone")
    for path, body in (("/v1/members", {"phone": phone}), ("/v1/purchases", bought)):
        reply = await world.nodes["ap"].post(path, body)
        assert (reply.status, reply.code) == (503, "shard_unavailable")
    assert (await world.reconcile())[1].endswith("claims restored")
    assert (await world.nodes["ap"].post("/v1/members", {"phone": phone})).code == "member_exists"
    assert (await world.nodes["eu"].post("/v1/purchases", bought)).status == 201
    assert parse_member_id(member)
    assert await world.broken() == {}


@pytest.mark.parametrize("other_card", [True, False])
async def test_who_got_an_identifier_last_keeps_it(world: World, other_card: bool) -> None:  # noqa: FBT001
    """The other one had removed it in the time that is lost; found by nothing else they get a card."""
    phone = world.phone_kept_in("us")
    first = await world.enrol("eu", phone=phone)
    await world.keep("eu")
    card = (await world.nodes["eu"].post("/v1/holds", {"member": {"member_id": first}, "points": 1})).status
    assert card == 422
    change = {"add": [{"email": "a@example.org"}], "remove": [{"phone": phone}]}
    assert (await world.post(first, f"/v1/members/{first}/identifiers", change)).status == 201
    await world.errands()
    second = await world.enrol("ap", phone=phone)
    await world.restore("eu")
    if not other_card:
        await world._execute("eu", "DELETE FROM identifier WHERE kind = 'card'")
        await world._execute("eu", "UPDATE member SET profile = profile::jsonb - 'card'")
    told = await world.reconcile()
    assert f"{first} lost this phone: {second} has got it since" in told
    reply = await world.nodes["eu"].post("/v1/purchases", basket({"phone": phone}, "whose"))
    assert reply.headers["Consistency-Token"].split(".")[1] == second
    assert await world.broken() == {}


async def test_who_left_is_remembered_when_the_claim_that_a_restore_brought_back_is_freed(world: World) -> None:
    """The errand of the erasure had freed it, and had kept a hash that may be lost as well."""
    phone = world.phone_kept_in("us")
    member = await world.enrol("eu", phone=phone)
    for region in ("us", "ap"):
        await world.keep(region)
    assert (await world.nodes["eu"].delete(f"/v1/members/{member}")).status == 200
    await world.errands()
    for region in ("us", "ap"):
        await world.restore(region)
    await world.reconcile()
    assert await world.nodes["eu"].inner.claims.came_back([("phone", phone)])
    assert await world.broken() == {}


async def test_what_was_removed_in_the_lost_time_is_told(world: World) -> None:
    phone = world.phone_kept_in("us")
    member = await world.enrol("eu", phone=phone)
    await world.keep("eu")
    assert (await world.nodes["eu"].delete(f"/v1/members/{member}")).status == 200
    await world.errands()
    await world.restore("eu")
    told = await world.reconcile()
    assert f"{member} had removed this phone, or was erased, in the time that is lost: do it again" in told
    assert await world.broken() == {}


async def test_stock_is_whole_again_and_never_oversold_meanwhile(world: World) -> None:
    members = {region: await world.member(region, 1_000) for region in REGIONS}

    async def redeem(region: str) -> bool:
        body = {"member": {"member_id": members[region]}, "reward": "coffee"}
        return (await world.post(members[region], "/v1/redemptions", body)).status == 201

    await world.keep("eu")
    sold = [await redeem("us") for _ in range(18)]  # all but two, so that allotments moved to `us`
    assert all(sold)
    await world.restore("eu")
    got = [await redeem(region) for region in ("eu", "us", "ap") * 3]
    assert got.count(True) <= 2
    await world.reconcile()
    assert await world.broken() == {}
    while await redeem("eu") or await redeem("ap"):
        got.append(True)
    assert got.count(True) == 2
    assert await world.broken() == {}


async def test_a_program_that_is_lost_comes_back(world: World) -> None:
    await world.keep("eu")
    await apply_program(
        [node.dsn for node in world.nodes.values()], REWARDS.replace('per_unit = "1"', 'per_unit = "2"')
    )
    await world.restore("eu")
    assert "1 program versions restored" in await world.reconcile()
    assert await world.broken() == {}


async def test_a_number_that_a_lost_program_had_is_not_given_again(world: World) -> None:
    """Where every shard lost it, nobody else remembers."""
    dsns = [node.dsn for node in world.nodes.values()]
    doubled = REWARDS.replace('per_unit = "1"', 'per_unit = "2"')
    for region in REGIONS:
        await world.keep(region)
    lost = await apply_program(dsns, doubled)
    for region in REGIONS:
        await world.restore(region)
    await world.reconcile()
    again = await apply_program(dsns, doubled.replace('per_unit = "2"', 'per_unit = "3"'))
    assert again > lost
    assert await apply_program(dsns, doubled) == again + 1
    assert await world.broken() == {}


async def test_what_the_lost_time_gave_is_never_given_again(world: World) -> None:
    """A till that sends an acknowledged key again is served anew, for what it did is lost; under another version."""
    member = await world.member("eu")
    await world.keep("eu")
    body = basket({"member_id": member}, "again")
    first = await world.nodes["eu"].post("/v1/purchases", body, key="till-1")
    await world.restore("eu")
    await world.reconcile()
    again = await world.nodes["eu"].post("/v1/purchases", body, key="till-1")
    assert (again.status, "Idempotent-Replayed" in again.headers) == (201, False)
    assert again.json["points_earned"] == first.json["points_earned"]
    assert again.json["purchase_id"] != first.json["purchase_id"]
    assert incarnation_of(again.json["account"]["version"]) > 0
    assert await world.broken() == {}


async def test_cut_short_anywhere_and_run_again_it_comes_to_the_same(world: World) -> None:
    await _a_busy_time(world)
    for _ in range(6):
        with suppress(TimeoutError):
            await asyncio.wait_for(world.reconcile(), random.uniform(0.02, 0.4))
    await world.reconcile()
    assert await world.broken() == {}
    assert (await world.reconcile())[1] == "nothing had to be brought back"


async def test_it_runs_beside_nodes_that_serve(world: World) -> None:
    members = await _a_busy_time(world)
    ended = asyncio.Event()

    async def live(region: str) -> None:
        while not ended.is_set():
            one, two = random.sample(members, 2)
            body = {"from": {"member_id": one}, "to": {"member_id": two}, "points": 1}
            await world.post(one, "/v1/transfers", body)
            await world.nodes[region].post("/v1/members", {"phone": world.phone_kept_in(random.choice(REGIONS))})
            with suppress(ProblemError):
                await world.nodes[region].run_errands()

    living = [asyncio.create_task(live(region)) for region in REGIONS]
    for _ in range(3):
        await world.reconcile()
    ended.set()
    await asyncio.gather(*living)
    await world.errands()
    await world.reconcile()
    assert await world.broken() == {}


async def _a_busy_time(world: World) -> list[str]:
    """Transfers, referrals and enrolments over all regions, after which `eu` and `us` go back to different points."""
    members = [await world.member(region, 500) for region in REGIONS for _ in range(2)]

    async def some() -> None:
        for one, two in itertools.permutations(members, 2):
            await world.send(one, two, 3)
        for region in REGIONS:
            members.append(await world.member(region, 50, phone=world.phone_kept_in(random.choice(REGIONS))))
            newcomer = await world.enrol(region, referred_by=members[0])
            await world.buy(newcomer)
        await world.errands()

    await world.keep("eu")
    await some()
    await world.keep("us")
    await some()
    await world.restore("us")
    await world.restore("eu")
    return [member for member in members if await _exists(world, member)]


async def _exists(world: World, member: str) -> bool:
    connection = await asyncpg.connect(world.node_of(member).dsn)
    found = await connection.fetchval("SELECT true FROM member WHERE member_id = $1", parse_member_id(member))
    await connection.close()
    return bool(found)
