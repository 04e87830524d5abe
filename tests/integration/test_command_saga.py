"""What spans members and shards: transfers, stock, referrals, erasure. Conserved, once, resumed by whoever is left."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import pytest

from command.program import apply_program
from command.stock import allot
from rules.program import parse_program
from tests.command_node import REWARDS, RunningNode, balance, basket, dsns, running_command_node, two_far_apart, value


@pytest.fixture
async def node(database: str, second_database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=REWARDS, second=second_database) as running:
        yield running


async def test_a_transfer_between_shards_arrives_once_and_nothing_is_lost(node: RunningNode) -> None:
    sender, receiver = await two_far_apart(node)
    await node.give(sender["member_id"], 100)
    body = {"from": {"member_id": sender["member_id"]}, "to": {"card": receiver["card"]}, "points": 60}
    sent = await node.post("/v1/transfers", body, key="t")
    assert (sent.status, sent.json["account"]["balance"]["available"]) == (201, 40)
    assert sent.json["account"]["balance"]["held"] == 60
    await asyncio.gather(*(node.run_errands() for _ in range(5)))
    await node.run_errands()
    assert (await balance(node, receiver))["available"] == 61
    after = await balance(node, sender)
    assert (after["available"], after["held"]) == (41, 0)
    again = await node.post("/v1/transfers", body, key="t")
    assert again.body == sent.body
    assert sum(await value(node, "SELECT count(*) FROM errand")) == 0


async def test_a_transfer_to_a_member_who_closes_meanwhile_comes_back(node: RunningNode) -> None:
    sender, receiver = await two_far_apart(node)
    await node.give(sender["member_id"], 100)
    body = {"from": {"member_id": sender["member_id"]}, "to": {"member_id": receiver["member_id"]}, "points": 60}
    assert (await node.post("/v1/transfers", body)).status == 201
    assert (await node.delete(f"/v1/members/{receiver['member_id']}")).status == 200
    await node.run_errands()
    after = await balance(node, sender)
    assert (after["available"], after["held"]) == (101, 0)


@pytest.mark.parametrize(("ahead_s", "waits"), [(20, True), (3600, False)])
async def test_an_errand_that_a_clock_of_an_hour_ahead_put_off_is_done_at_once(
    node: RunningNode, ahead_s: int, *, waits: bool
) -> None:
    sender, receiver = await two_far_apart(node)
    await node.give(sender["member_id"], 100)
    body = {"from": {"member_id": sender["member_id"]}, "to": {"member_id": receiver["member_id"]}, "points": 60}
    assert (await node.post("/v1/transfers", body)).status == 201
    await value(node, "UPDATE errand SET due_at = now() + make_interval(secs => $1)", ahead_s)
    await node.run_errands()
    assert ((await balance(node, receiver))["available"] == 1) is waits


async def test_a_courier_that_died_between_the_halves_is_followed_by_another(node: RunningNode) -> None:
    sender, receiver = await two_far_apart(node)
    await node.give(sender["member_id"], 100)
    body = {"from": {"member_id": sender["member_id"]}, "to": {"member_id": receiver["member_id"]}, "points": 60}
    await node.post("/v1/transfers", body)
    await node.run_errands()
    for shard in node.inner.shards():  # as if the sender's half had never been written
        async with node.inner.pools[shard].primary() as connection:
            await connection.execute(
                "INSERT INTO errand SELECT member_id, version, 'transfer', detail, 0, now() "
                "FROM journal WHERE kind = 'transfer_sent'"
            )
    await node.run_errands()
    assert (await balance(node, receiver))["available"] == 61
    assert sum(await value(node, "SELECT count(*) FROM errand")) == 0


async def test_more_redemptions_than_stock_over_two_shards_sell_exactly_the_stock(node: RunningNode) -> None:
    members = [await node.enrol() for _ in range(10)]
    for member in members:
        await node.give(member["member_id"], 1000)
    bodies = [{"member": {"member_id": members[n % 10]["member_id"]}, "reward": "coffee"} for n in range(60)]
    replies = await asyncio.gather(*(node.post("/v1/redemptions", body) for body in bodies))
    assert sorted(reply.status for reply in replies) == [201] * 20 + [422] * 40
    assert {reply.code for reply in replies if reply.status == 422} == {"out_of_stock"}
    assert sum(await value(node, "SELECT redeemed FROM reward_stock WHERE reward = 'coffee'")) == 20
    assert sum(await value(node, "SELECT allotted FROM reward_stock WHERE reward = 'coffee'")) == 20


async def test_a_cancelled_redemption_goes_back_on_the_shelf_and_a_used_one_is_closed(node: RunningNode) -> None:
    member = await node.enrol()
    await node.give(member["member_id"], 100)
    body = {"member": {"card": member["card"]}, "reward": "coffee", "quantity": 2}
    redeemed = (await node.post("/v1/redemptions", body)).json
    assert (redeemed["points"], len(redeemed["code"])) == (20, 10)
    cancelled = await node.post(f"/v1/redemptions/{redeemed['redemption_id']}/cancel", {"store": "330"})
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    assert cancelled.json["account"]["balance"]["available"] == 100
    assert sum(await value(node, "SELECT redeemed FROM reward_stock WHERE reward = 'coffee'")) == 0
    other = (await node.post("/v1/redemptions", body | {"reward": "mug"})).json
    used = await node.post(f"/v1/redemptions/{other['redemption_id']}/use", {"store": "330", "till": "1"})
    assert (used.status, used.json["status"]) == (200, "used")
    twice = await node.post(f"/v1/redemptions/{other['redemption_id']}/use", {"store": "330"})
    assert (twice.status, twice.code) == (409, "redemption_closed")
    third = await node.post("/v1/redemptions", body | {"reward": "mug", "quantity": 1})
    assert (third.status, third.code) == (422, "limit_exceeded")
    assert (await node.post("/v1/redemptions", body | {"reward": "yacht"})).code == "reward_not_found"
    assert (await node.post("/v1/redemptions/red_nothing-1/use", {"store": "330"})).code == "not_found"


async def test_a_referral_thanks_both_sides_once_on_the_first_purchase(node: RunningNode) -> None:
    referrer = await node.enrol()
    newcomer = await node.enrol(referred_by=referrer["member_id"])
    for number in range(2):
        named = {"member_id": newcomer["member_id"]}
        bought = await node.post("/v1/purchases", basket(named, f"r{number}"))
        assert bought.status == 201, bought.body
        await node.run_errands()
    assert (await balance(node, referrer))["available"] == 101
    assert bought.json["account"]["balance"]["available"] == 13 + 13 + 50


async def test_an_erased_member_leaves_nothing_personal_and_frees_what_he_had(node: RunningNode) -> None:
    canary = "Canary McErase"
    member = await node.enrol(name=canary, phone="+4930999", email="canary@example.org", birth_date="1980-01-02")
    named = {"member_id": member["member_id"]}
    await node.post("/v1/purchases", basket(named, "1"))
    gone = await node.delete(f"/v1/members/{member['member_id']}", key="bye")
    assert (gone.status, set(gone.json)) == (200, {"member_id", "erased_at"})
    assert (await node.delete(f"/v1/members/{member['member_id']}", key="bye")).body == gone.body
    await node.run_errands()
    late = await node.post("/v1/purchases", basket(named, "2"))
    assert (late.status, late.code) == (409, "member_closed")
    for table in ("member", "identifier", "claim", "idempotency", "journal", "account", "purchase", "errand"):
        for personal in (canary, "+4930999", "canary@example.org", "1980-01-02", member["card"]):
            sql = f"SELECT count(*) FROM {table} t WHERE t::text LIKE '%' || $1 || '%'"  # noqa: S608 - our own names
            found = await value(node, sql, personal)
            assert sum(found) == 0, (table, personal)
    again = await node.post("/v1/members", {"phone": "+4930999", "email": "canary@example.org"})
    assert again.status == 201


async def test_holds_points_and_coupons_pay_one_basket_or_none(node: RunningNode) -> None:
    member = await node.enrol()
    await node.give(member["member_id"], 100)
    named = {"member_id": member["member_id"]}
    hold = (await node.post("/v1/holds", {"member": named, "points": 30})).json
    bad = basket(named, "c1", capture_holds=[hold["hold_id"]], coupons=["nonsense"])
    refused = await node.post("/v1/purchases", bad)
    assert (refused.status, refused.code) == (422, "unknown_coupon")
    good = await node.post("/v1/purchases", basket(named, "c2", capture_holds=[hold["hold_id"]]))
    assert good.status == 201, good.body
    assert good.json["account"]["balance"]["held"] == 0
    closed = await node.post("/v1/purchases", basket(named, "c3", capture_holds=[hold["hold_id"]]))
    assert (closed.status, closed.code) == (409, "hold_closed")


async def test_the_stock_of_a_new_program_version_changes_by_the_difference(node: RunningNode) -> None:
    for stock in (50, 7, 7):
        await apply_program(dsns(node), REWARDS.replace("stock = 20", f"stock = {stock}"))
        assert sum(await value(node, "SELECT allotted FROM reward_stock WHERE reward = 'coffee'")) == stock


async def test_a_stock_move_cut_short_is_finished_once(node: RunningNode) -> None:
    connection = await asyncpg.connect(node.dsn)
    await connection.execute("UPDATE reward_stock SET allotted = allotted - 4")
    await connection.execute(
        "INSERT INTO stock_move VALUES (gen_random_uuid(), 'coffee', 4, 'eu-2', now() - interval '1 min')"
    )
    await connection.close()
    for _ in range(2):
        await node.inner.stock.finish_moves("eu-1")
    assert await value(node, "SELECT allotted FROM reward_stock WHERE reward = 'coffee'") == [6, 14]


async def test_a_lost_card_is_replaced_and_several_identifiers_lead_to_one_member(node: RunningNode) -> None:
    member = await node.enrol(phone="+4930111")
    path = f"/v1/members/{member['member_id']}/identifiers"
    body = {"new_card": True, "remove": [{"card": member["card"]}], "add": [{"email": "New@example.org"}]}
    changed = await node.post(path, body, key="lost")
    assert changed.status == 201, changed.body
    card = next(one["card"] for one in changed.json["added"] if "card" in one)
    assert (await node.post(path, body, key="lost")).body == changed.body
    for named in ({"card": card}, {"email": "new@example.org"}, {"phone": "+4930111"}):
        assert (await node.post("/v1/adjustments", {"member": named, "points": 1, "reason": "x"})).status == 201
    old = await node.post("/v1/adjustments", {"member": {"card": member["card"]}, "points": 1, "reason": "x"})
    assert (old.status, old.code) == (404, "member_not_found")
    other = await node.enrol()
    taken = await node.post(f"/v1/members/{other['member_id']}/identifiers", {"add": [{"phone": "+4930111"}]})
    assert (taken.status, taken.code) == (409, "member_exists")
    missing = await node.post(path, {"remove": [{"card": member["card"]}]})
    assert (missing.status, missing.code) == (404, "not_found")
    await node.post(path, {"remove": [{"phone": "+4930111"}]})
    await node.run_errands()
    assert (await node.post("/v1/members", {"phone": "+4930111"})).status == 201


async def test_erasing_clears_every_stored_answer_that_showed_an_identifier(node: RunningNode) -> None:
    member = await node.enrol()
    path = f"/v1/members/{member['member_id']}/identifiers"
    changed = await node.post(path, {"add": [{"email": "canary2@example.org"}]}, key="shown")
    assert "canary2" in changed.body.decode()
    await node.delete(f"/v1/members/{member['member_id']}")
    assert sum(await value(node, "SELECT count(*) FROM idempotency t WHERE t::text LIKE '%canary2%'")) == 0
    late = await node.post(path, {"add": [{"email": "canary2@example.org"}]}, key="shown")
    assert (late.status, late.code) == (409, "member_closed")


async def test_a_stock_is_lowered_to_what_is_asked_for_whichever_shards_still_have_some(
    node: RunningNode,
) -> None:
    connections = [
        await asyncpg.connect(shard.servers[0]) for shard in node.inner.topology.current.document.shards.values()
    ]
    try:
        await connections[1].execute("UPDATE reward_stock SET redeemed = allotted WHERE reward = 'coffee'")
        lowered = REWARDS.replace("stock = 20", "stock = 12")
        await allot(connections, parse_program(lowered))
        assert sum(await value(node, "SELECT allotted FROM reward_stock WHERE reward = 'coffee'")) == 12
        await allot(connections, parse_program(lowered.replace("stock = 12", "stock = 5")))
        assert await value(node, "SELECT allotted FROM reward_stock WHERE reward = 'coffee'") == [0, 10]
    finally:
        for connection in connections:
            await connection.close()


async def test_a_move_that_has_arrived_and_was_not_ended_counts_once(node: RunningNode) -> None:
    connections = [
        await asyncpg.connect(shard.servers[0]) for shard in node.inner.topology.current.document.shards.values()
    ]
    try:
        moved = "UPDATE reward_stock SET allotted = allotted + $1 WHERE reward = 'coffee'"
        await connections[0].execute(moved, -4)
        move_id = await connections[0].fetchval(
            "INSERT INTO stock_move (move_id, reward, quantity, receiver)"
            " VALUES (gen_random_uuid(), 'coffee', 4, 'eu-2') RETURNING move_id"
        )
        await allot(connections, parse_program(REWARDS))
        assert await value(node, "SELECT allotted FROM reward_stock WHERE reward = 'coffee'") == [6, 10]
        await connections[1].execute(moved, 4)
        await connections[1].execute("INSERT INTO stock_arrival (move_id) VALUES ($1)", move_id)
        await allot(connections, parse_program(REWARDS))
        assert await value(node, "SELECT allotted FROM reward_stock WHERE reward = 'coffee'") == [6, 14]
    finally:
        for connection in connections:
            await connection.close()
