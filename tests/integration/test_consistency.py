"""What two regions do at once while they do not reach each other: a test for every row of docs/consistency.md.

`before`: cut just before the first region's word reaches the other; `after`: when it has, and before the answer is
back; `whole`: from the beginning until both have been answered.
"""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg
import pytest

from command import rounds
from command.claim_move import MoveError, move_claims
from command.program import apply_program
from command.slot import empty_slots, give_slots
from shard_router.card import new_card
from shard_router.member_id import SLOT_COUNT, parse_member_id
from tests.command_node import REWARDS, Reply, basket
from tests.conftest import eventually
from tests.engine import PostgresServer, as_superuser
from tests.parted_world import Parted, parted_regions

LAST = "".join(
    f'[[rewards]]\ncode = "last-{moment}"\nname = "The last one"\npoints = 10\nstock = 1\n'
    for moment in ("before", "after", "whole")
)
MOMENTS = pytest.mark.parametrize("moment", ["before", "after", "whole"])

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(scope="module")
async def regions(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Parted]:
    dsns = {region: await postgres_server.create_database() for region in ("eu", "us")}
    async with parted_regions(dsns, tmp_path_factory.mktemp("parted"), REWARDS + LAST) as parted:
        yield parted
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


@pytest.fixture
async def world(regions: Parted, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Parted]:
    """The two regions, whole again after the test. Their couriers wait less long for who does not answer."""
    monkeypatch.setattr(rounds, "DEADLINE_S", 0.7)
    yield regions
    regions.heal()


def must_ask_again(reply: Reply) -> bool:
    """Whether a till knows that the same key again will tell."""
    return reply.status == 503 and reply.json["retryable"] and "Retry-After" in reply.headers


MAKE = {
    "phone": lambda number: ("phone", f"+49301{number:06d}"),
    "email": lambda number: ("email", f"somebody-{number}@example.org"),
    "card": lambda number: ("card", f"FOREIGN-{number}"),
}


@MOMENTS
@pytest.mark.parametrize("kind", MAKE)
async def test_one_identifier_for_two_new_members(world: Parted, kind: str, moment: str) -> None:
    name = world.kept_in("eu", MAKE[kind])
    body = dict([name])
    world.part(moment, "us", "server", name[1])
    assert must_ask_again(await world.nodes["us"].post("/v1/members", body, key=f"us-{name[1]}"))
    assert world.was_parted()
    there = await world.nodes["eu"].post("/v1/members", body, key=f"eu-{name[1]}")
    if moment == "after":  # the claim is leased, and nobody here can tell whether that member came into being
        assert (there.status, there.code) == (409, "in_progress")
    else:
        assert there.status == 201
    world.heal()
    await world.change("UPDATE claim SET leased_until = now() WHERE leased_until IS NOT NULL")  # as 30 s would
    away = await world.final("us", "/v1/members", body, f"us-{name[1]}")
    there = await world.final("eu", "/v1/members", body, f"eu-{name[1]}")
    assert sorted((away.status, there.status)) == [201, 409]
    lost = away if away.status == 409 else there
    assert lost.code == "member_exists"
    assert len(await world.rows("SELECT FROM identifier WHERE kind = $1 AND value = $2", *name)) == 1


@MOMENTS
async def test_one_enrolment_that_is_sent_to_two_regions(world: Parted, moment: str) -> None:
    """As a till does whose region does not answer, or whose door sends it elsewhere: one member, and one answer."""
    name = world.kept_in("eu", MAKE["phone"])
    body, key = dict([name]), f"both-{name[1]}"
    world.part(moment, "us", "server", name[1])
    assert must_ask_again(await world.nodes["us"].post("/v1/members", body, key=key))
    assert world.was_parted()
    there = await world.nodes["eu"].post("/v1/members", body, key=key)
    assert (there.status, there.code) == (409, "in_progress") if moment == "after" else there.status == 201
    world.heal()
    await world.change("UPDATE claim SET leased_until = now() WHERE leased_until IS NOT NULL")  # as 30 s would
    told = [await world.final(region, "/v1/members", body, key) for region in ("us", "eu")]
    assert [(one.status, one.body) for one in told] == [(201, told[0].body)] * 2
    assert len(await world.rows("SELECT FROM identifier WHERE kind = $1 AND value = $2", *name)) == 1


@MOMENTS
async def test_a_phone_that_one_gives_up_and_another_takes(world: Parted, moment: str) -> None:
    """It is the first one's until the shard that keeps the claim has heard of it."""
    name = world.kept_in("eu", MAKE["phone"])
    body, takes = dict([name]), f"takes-{name[1]}"
    member = (await world.nodes["us"].enrol(**body))["member_id"]
    world.part(moment, "us", "server", name[1])
    assert (await world.nodes["us"].delete(f"/v1/members/{member}")).status == 200
    await world.try_errands()
    assert world.was_parted()
    await world.nodes["eu"].post("/v1/members", body, key=takes)  # nothing is decided yet, or it has been freed
    world.heal()
    await world.all_done()
    told = await world.final("eu", "/v1/members", body, takes)
    later = await world.final("eu", "/v1/members", body, f"later-{name[1]}")
    assert sorted((told.status, later.status)) == [201, 409]
    assert (told if told.status == 409 else later).code == "member_exists"
    assert len(await world.rows("SELECT FROM identifier WHERE kind = $1 AND value = $2", *name)) == 1


@MOMENTS
async def test_one_card_of_our_own_form_for_two_new_members(world: Parted, moment: str) -> None:
    card = new_card(1, 7)
    us, eu = f"us-{card}", f"eu-{card}"
    world.part(moment, "us", "node", card)
    world.links["us", "server"].cut()
    assert must_ask_again(await world.nodes["us"].post("/v1/members", {"card": card}, key=us))
    assert world.was_parted()
    there = await world.nodes["eu"].post("/v1/members", {"card": card}, key=eu)
    world.heal()
    away = await world.final("us", "/v1/members", {"card": card}, us)
    assert sorted((away.status, there.status)) == [201, 409]
    assert moment == "after" or there.status == 201  # of what came just before the cut either may hold
    assert (there if there.status == 409 else away).code == "member_exists"
    assert len(await world.rows("SELECT FROM identifier WHERE value = $1", card)) == 1


@MOMENTS
async def test_one_receipt_for_members_of_two_shards(world: Parted, moment: str) -> None:
    """The store is eu's. Both tills are answered, and who is late at eu's shard gives the points back."""
    away, there = await world.enrol("us"), await world.enrol("eu")
    receipt = f"one-for-two-{moment}"
    body = basket({"member_id": away}, receipt)
    world.part(moment, "us", "server", receipt)
    assert (await world.nodes["us"].post("/v1/purchases", body)).status == 201
    await world.claim_receipts()
    assert world.was_parted()
    late = await world.nodes["eu"].post("/v1/purchases", basket({"member_id": there}, receipt))
    assert late.status == (409 if moment == "after" else 201)
    world.heal()
    await world.all_done()
    bought, gave_back = ["member_enrolled", "purchase_recorded"], ["purchase_returned"]
    assert await world.journal(away) == (bought if moment == "after" else bought + gave_back)
    again = await world.nodes["us"].post("/v1/purchases", body)
    assert again.status == (201 if moment == "after" else 409)
    sql = "SELECT sum(available) > 0 AS has FROM account WHERE member_id = $1"
    has = [row["has"] for one in (away, there) for row in await world.rows(sql, parse_member_id(one)) if row["has"]]
    assert has == [True]


@MOMENTS
async def test_the_last_unit_of_stock_in_two_regions(world: Parted, moment: str) -> None:
    reward = f"last-{moment}"
    sql = "SELECT current_database() AS name FROM reward_stock WHERE reward = $1 AND allotted = 1"
    (shelf,) = await world.rows(sql, reward)
    holder = next(region for region, dsn in world.dsns.items() if dsn.endswith(shelf["name"]))
    asker = "eu" if holder == "us" else "us"
    members = {region: await world.enrol(region) for region in (holder, asker)}
    for region, member in members.items():
        await world.nodes[region].give(member, 50)
    wants = {region: {"member": {"member_id": member}, "reward": reward} for region, member in members.items()}
    world.part(moment, asker, "server", f"{asker}-1")  # named by the move of stock
    asked = await world.nodes[asker].post("/v1/redemptions", wants[asker], key=f"asker-{moment}")
    assert must_ask_again(asked)
    assert world.was_parted()
    there = await world.nodes[holder].post("/v1/redemptions", wants[holder], key=f"holder-{moment}")
    assert there.status == (503 if moment == "after" else 201)  # what is on its way is nobody's yet
    world.heal()
    results = [await world.final(asker, "/v1/redemptions", wants[asker], f"asker-{moment}")]
    results.append(await world.final(holder, "/v1/redemptions", wants[holder], f"holder-{moment}"))
    assert sorted(one.status for one in results) == [201, 422]
    assert next(one.code for one in results if one.status == 422) == "out_of_stock"
    sql = "SELECT redeemed FROM reward_stock WHERE reward = $1"
    assert sum(row["redeemed"] for row in await world.rows(sql, reward)) == 1


@MOMENTS
async def test_two_transfers_that_cross(world: Parted, moment: str) -> None:
    members = {region: await world.enrol(region) for region in ("us", "eu")}
    for region, member in members.items():
        await world.nodes[region].give(member, 100)
    world.part(moment, "us", "server", members["us"])
    for region, points in (("us", 30), ("eu", 20)):
        ends = {"from": {"member_id": members[region]}, "to": {"member_id": members["eu" if region == "us" else "us"]}}
        reply = await world.nodes[region].post("/v1/transfers", ends | {"points": points}, key=f"{region}-{moment}")
        assert reply.status == 201 or must_ask_again(reply)
    await world.try_errands()
    assert world.was_parted()
    total = "SELECT available + held AS points FROM account WHERE member_id = ANY ($1)"
    both = [parse_member_id(member) for member in members.values()]
    assert sum(row["points"] for row in await world.rows(total, both)) <= 200
    world.heal()
    for region, points in (("us", 30), ("eu", 20)):
        ends = {"from": {"member_id": members[region]}, "to": {"member_id": members["eu" if region == "us" else "us"]}}
        told = await world.final(region, "/v1/transfers", ends | {"points": points}, f"{region}-{moment}")
        assert told.status == 201
    await world.all_done()
    sql = "SELECT available, held, debt FROM account WHERE member_id = $1"
    found = [tuple(*await world.rows(sql, parse_member_id(members[one]))) for one in ("us", "eu")]
    assert found == [(90, 0, 0), (110, 0, 0)]


@MOMENTS
async def test_a_transfer_to_a_member_who_is_erased_meanwhile(world: Parted, moment: str) -> None:
    """The points arrive before the erasure and are forfeited by it, or they come back."""
    members = {region: await world.enrol(region) for region in ("us", "eu")}
    await world.nodes["us"].give(members["us"], 100)
    ends = {"from": {"member_id": members["us"]}, "to": {"member_id": members["eu"]}}
    world.part(moment, "us", "server", members["us"])
    sent = await world.nodes["us"].post("/v1/transfers", ends | {"points": 30}, key=f"erased-{moment}")
    assert sent.status == 201 or must_ask_again(sent)
    await world.try_errands()
    assert world.was_parted()
    assert (await world.nodes["eu"].delete(f"/v1/members/{members['eu']}")).status == 200
    world.heal()
    told = await world.final("us", "/v1/transfers", ends | {"points": 30}, f"erased-{moment}")
    assert told.status == 201 or told.code == "member_not_found"
    await world.all_done()
    sql = "SELECT available, held, debt FROM account WHERE member_id = $1"
    found = [tuple(*await world.rows(sql, parse_member_id(members[one]))) for one in ("us", "eu")]
    arrived = "transfer_received" in await world.journal(members["eu"])
    assert moment == "after" or not arrived  # of what came just before the cut either may be first
    assert found == [(70 if arrived else 100, 0, 0), (0, 0, 0)]


@MOMENTS
async def test_a_referral_that_is_thanked_for_twice(world: Parted, moment: str) -> None:
    """Two first purchases at once, and word of it that goes twice: one thanks."""
    referrer = await world.enrol("eu")
    newcomer = await world.enrol("us", referred_by=referrer)
    world.part(moment, "us", "server", newcomer)
    bodies = [basket({"member_id": newcomer}, f"first-{moment}-{number}") for number in (1, 2)]
    replies = await asyncio.gather(*(world.nodes["us"].post("/v1/purchases", body) for body in bodies))
    assert [reply.status for reply in replies] == [201, 201]
    await world.try_errands()
    assert world.was_parted()
    world.heal()
    await world.all_done()
    assert await world.journal(referrer) == ["member_enrolled", "referral_credited"]


@MOMENTS
async def test_an_erasure_beside_a_purchase(world: Parted, moment: str) -> None:
    member = await world.enrol("us")
    body = basket({"member_id": member}, f"bought-{moment}")
    world.part(moment, "eu", "node", f"bought-{moment}")
    world.links["eu", "server"].cut()
    assert must_ask_again(await world.nodes["eu"].post("/v1/purchases", body, key=f"till-{moment}"))
    assert world.was_parted()
    assert (await world.nodes["us"].delete(f"/v1/members/{member}")).status == 200
    world.heal()
    told = await world.final("eu", "/v1/purchases", body, f"till-{moment}")
    # Who hears that nobody waits any more does not begin: so of what came just before the cut either may hold.
    recorded = "purchase_recorded" in await world.journal(member)
    assert moment == "after" or not recorded
    assert told.status == (201 if recorded else 409)
    assert recorded or told.code == "member_closed"
    sql = "SELECT status, available FROM account WHERE member_id = $1"
    (account,) = await world.rows(sql, parse_member_id(member))
    assert tuple(account) == ("closed", 0)


@MOMENTS
async def test_a_region_whose_nodes_alone_are_out_of_reach(world: Parted, moment: str) -> None:
    """Whoever is asked does it at the member's own shard, once: also when a node there had done it already."""
    member = await world.enrol("us")
    body, key = basket({"member_id": member}, f"alone-{moment}"), f"alone-{moment}"
    if moment == "whole":
        world.links["eu", "node"].cut()
    else:
        world.part(moment, "eu", "node", key)
    told = await world.nodes["eu"].post("/v1/purchases", body, key=key)
    assert (told.status, told.headers["Loyalty-Region"]) == (201, "eu")
    # After: whoever of the two was first, the other one's answer is the same again.
    assert moment == "after" or "Idempotent-Replayed" not in told.headers
    again = await world.nodes["us"].post("/v1/purchases", body, key=key)
    assert (again.status, again.body) == (201, told.body)
    assert await world.journal(member) == ["member_enrolled", "purchase_recorded"]


@MOMENTS
async def test_two_programs_applied_at_once(world: Parted, moment: str) -> None:
    texts = {
        region: REWARDS.replace('name = "Test"', f'name = "by {region} {moment}"') + LAST for region in ("eu", "us")
    }
    ways = {"us": [world.seen["us", "server"], world.dsns["us"]], "eu": [world.dsns["eu"], world.seen["eu", "server"]]}
    world.part(moment, "us", "server", f"by us {moment}")
    first = asyncio.create_task(apply_program(ways["us"], texts["us"]))
    if moment == "whole":
        second = asyncio.create_task(apply_program(ways["eu"], texts["eu"]))
    else:

        async def parted() -> bool:
            return world.was_parted()

        await eventually(parted)  # the first holds the lock: the other operator waits
        second = asyncio.create_task(apply_program(ways["eu"], texts["eu"]))
    assert not (await asyncio.wait([first, second], timeout=0.3))[0]
    world.heal()
    one, other = await asyncio.gather(first, second)
    assert one != other
    held = [tuple(row) for row in await world.rows("SELECT version, source FROM program ORDER BY version")]
    assert held[: len(held) // 2] == held[len(held) // 2 :]
    assert {one, other} < {version for version, _ in held}


@MOMENTS
async def test_a_region_that_only_one_node_knows(world: Parted, moment: str) -> None:
    """The claim of an identifier stays where it is, whichever topology a node has: nobody gets it twice."""
    world.add_region("eu")
    await test_one_identifier_for_two_new_members(world, "phone", moment)


@MOMENTS
async def test_one_identifier_while_its_claim_moves(world: Parted, moment: str) -> None:
    """eu's shard gives the claim away; us, which has not heard of it, is told to ask again, and then who has it."""
    name = world.kept_in("eu", MAKE["phone"])
    body, slot = dict([name]), world.nodes["us"].inner.directory.slot_of(name)
    shards = {f"{region}-1": as_superuser(dsn) for region, dsn in world.dsns.items()}
    table = world.nodes["us"].inner.topology.current.claim_shards
    wanted = [*table[:slot], "us-1", *table[slot + 1 :]]
    key = {region: f"moves-{region}-{name[1]}" for region in world.nodes}

    def not_yet(_: object) -> None:
        raise MoveError("killed before the topology says so")

    world.part(moment, "us", "server", name[1])
    assert must_ask_again(await world.nodes["us"].post("/v1/members", body, key=key["us"]))
    assert world.was_parted()
    with pytest.raises(MoveError, match="killed"):
        await move_claims(shards, table, wanted, not_yet)
    for region, node in world.nodes.items():
        assert must_ask_again(await node.post("/v1/members", body, key=key[region]))
    world.heal()
    await move_claims(shards, table, wanted, world.say_claims)
    await world.change("UPDATE claim SET leased_until = now() WHERE leased_until IS NOT NULL")  # as 30 s would
    told = [await world.final(region, "/v1/members", body, key[region]) for region in ("eu", "us")]
    assert sorted(one.status for one in told) == [201, 409]
    assert next(one.code for one in told if one.status == 409) == "member_exists"
    assert len(await world.rows("SELECT FROM identifier WHERE kind = $1 AND value = $2", *name)) == 1
    assert len(await world.rows("SELECT FROM claim WHERE kind = $1 AND value = $2", *name)) == 1


@pytest.fixture
async def second(world: Parted, postgres_server: PostgresServer) -> AsyncGenerator[str]:
    """The database of a shard that is to join eu, and goes again after the test."""
    dsn = await postgres_server.create_database()
    (program, *_) = await world.rows("SELECT version, effective_at, source FROM program ORDER BY version DESC")
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO program (version, effective_at, source) VALUES ($1, $2, $3)", *program)
    await connection.close()
    yield dsn
    for region in world.nodes:
        world.say_shard(region, None, [])
    await world.change("DELETE FROM given_slot")
    await postgres_server.drop_database(dsn)


@MOMENTS
async def test_one_newcomer_while_their_slot_goes_to_a_new_shard(world: Parted, second: str, moment: str) -> None:
    """us has not heard of the shard; it asks eu's node, or does it at eu's first shard where no node of eu answers."""
    connection = await asyncpg.connect(as_superuser(world.dsns["eu"]))
    slot = (await empty_slots(connection, 1, range(SLOT_COUNT)))[-1]
    card = new_card(1, slot)
    body, key = {"card": card}, {region: f"joins-{region}-{card}" for region in world.nodes}
    world.part(moment, "us", "node", card)
    world.links["us", "server"].cut()
    assert must_ask_again(await world.nodes["us"].post("/v1/members", body, key=key["us"]))
    assert world.was_parted()
    given = await give_slots(connection, 1, [slot], receiver="eu-2", lock_timeout_ms=30_000)
    await connection.close()
    assert given == [slot] or moment != "whole"  # else somebody may live there by now: then it stays
    there = await world.nodes["eu"].post("/v1/members", body, key=key["eu"])
    assert must_ask_again(there) if given else there.status == 409
    world.say_shard("eu", second, given)
    there = await world.final("eu", "/v1/members", body, key["eu"])
    world.heal()
    world.links["us", "node"].cut()
    by_itself = await world.nodes["us"].post("/v1/members", body, key=key["us"])
    assert must_ask_again(by_itself) or by_itself.code == "in_progress" or not given  # its first word may be at eu's
    world.heal()
    world.say_shard("us", second, given)
    away = await world.final("us", "/v1/members", body, key["us"])
    assert sorted((away.status, there.status)) == [201, 409]
    assert (there if there.status == 409 else away).code == "member_exists"
    connection = await asyncpg.connect(second)
    sql = "SELECT FROM identifier WHERE value = $1"
    assert (len(await connection.fetch(sql, card)), len(await world.rows(sql, card))) == ((1, 0) if given else (0, 1))
    await connection.close()
