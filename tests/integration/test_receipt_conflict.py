"""One receipt, two members of different shards: both are answered at once, the first at the store's shard keeps it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from command.claim_again import claim_again_for
from command.register import Register
from rules.command import ReversePurchase
from shard_router.member_id import parse_member_id
from shard_router.server import connection_to
from tests.command_node import RunningNode, basket, dsns, envelope
from tests.receipt_world import STORE, buy, claim_all, journal, members, rows
from tests.receipt_world import node as node  # noqa: PLC0414


async def balance(node: RunningNode, member: str) -> dict[str, Any]:
    return (await node.give(member, 1)).json["account"]["balance"]


async def test_who_is_late_at_the_stores_shard_gives_the_purchase_back(node: RunningNode) -> None:
    there, away = await members(node)
    first, second = await buy(node, there, "1"), await buy(node, away, "1")
    assert (first.status, second.status) == (201, 201)  # neither waits for the other shard
    await claim_all(node)
    await claim_all(node)
    assert await journal(node, there) == ["member_enrolled", "purchase_recorded"]
    assert await journal(node, away) == ["member_enrolled", "purchase_recorded", "purchase_returned receipt_conflict"]
    assert (await balance(node, away))["available"] == 1
    assert (await balance(node, there))["available"] == first.json["points_earned"] + 1
    assert await rows(node, "SELECT FROM unclaimed_receipt") == []


async def test_a_receipt_that_a_clock_of_an_hour_ahead_put_off_is_claimed_at_once(node: RunningNode) -> None:
    _, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    assert len(await rows(node, "UPDATE unclaimed_receipt SET due_at = now() + interval '1 hour' RETURNING 1")) == 1
    await claim_all(node)
    assert await rows(node, "SELECT FROM unclaimed_receipt") == []


async def test_a_member_of_the_stores_shard_hears_at_once_that_another_has_the_receipt(node: RunningNode) -> None:
    there, away = await members(node)
    first = await buy(node, away, "1")
    await claim_all(node)
    late = await buy(node, there, "1")
    assert (first.status, late.status, late.code) == (201, 409, "receipt_conflict")
    assert (await balance(node, away))["available"] == first.json["points_earned"] + 1
    assert await journal(node, there) == ["member_enrolled"]


async def test_a_shard_that_keeps_receipts_from_now_on_learns_of_those_before(node: RunningNode) -> None:
    """A region joins whose stores sold before: another shard has kept their receipts, its own begins with none."""
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await claim_all(node)
    place = node.inner.topology.current.register_of("eu", STORE)
    async with node.inner.pools[place].primary() as connection:
        assert await connection.fetch("DELETE FROM receipt RETURNING 1")
    assert await claim_again_for(node.inner.topology.current, "eu", dsns(node)) == 1
    await claim_all(node)
    late = await buy(node, there, "1")
    assert (late.status, late.code) == (409, "receipt_conflict")


async def test_a_purchase_under_way_while_it_becomes_known_who_keeps_its_receipt_is_claimed(node: RunningNode) -> None:
    """It was decided by who did not know yet, so it leaves no row to be claimed, and its commit waits for a standby."""
    _, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    await claim_all(node)
    home = dict(zip(node.inner.shards(), dsns(node), strict=True))[
        node.inner.topology.current.shard_of(parse_member_id(away))
    ]
    async with connection_to(home) as writer, connection_to(home) as watcher:
        columns = "store, till, business_date, receipt, kind, subject, member_id, version, fingerprint"
        (row,) = await writer.fetch(f"DELETE FROM receipt WHERE kind = 'purchase' RETURNING {columns}")  # noqa: S608
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(f"INSERT INTO receipt ({columns}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)", *row)  # noqa: S608 - our own names
        claiming = asyncio.create_task(claim_again_for(node.inner.topology.current, "eu", dsns(node)))
        while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not claiming.done()
        await transaction.commit()
        assert await claiming == 1


async def test_a_claim_that_ends_late_does_not_end_the_one_that_is_asked_for_since(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node has claimed where the receipt was kept, and is stopped; others keep it from now on; then it goes on."""
    _, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    register = Register(node.inner)
    settle = register._settle

    async def settle_then_be_stopped(*asked: Any) -> Any:
        done = await settle(*asked)
        assert await claim_again_for(node.inner.topology.current, "eu", dsns(node)) == 1
        return done

    monkeypatch.setattr(register, "_settle", settle_then_be_stopped)
    for shard in node.inner.shards():
        await register.work_off(shard)
    assert len(await rows(node, "SELECT FROM unclaimed_receipt")) == 1
    await claim_all(node)
    assert await rows(node, "SELECT FROM unclaimed_receipt") == []


async def test_a_purchase_that_was_taken_back_claims_nothing_where_receipts_are_kept_from_now_on(
    node: RunningNode,
) -> None:
    there, away = await members(node)
    for member in (there, away):
        assert (await buy(node, member, "1")).status == 201
    await claim_all(node)
    assert await journal(node, away) == ["member_enrolled", "purchase_recorded", "purchase_returned receipt_conflict"]
    assert await claim_again_for(node.inner.topology.current, "eu", dsns(node)) == 1
    assert [row["member_id"] for row in await rows(node, "SELECT member_id FROM unclaimed_receipt")] == [
        parse_member_id(there)
    ]


async def test_a_purchase_that_was_taken_back_takes_no_other_one_along(node: RunningNode) -> None:
    """It lost its receipt where another shard kept it, and its row stands where that is kept now."""
    there, away = await members(node)
    assert (await buy(node, there, "1")).status == 201
    command = ReversePurchase(2, datetime.now(UTC))
    assert (
        await node.inner.lanes_for(parse_member_id(there)).run(envelope(there, command=command, reference=2))
    ).status < 400
    first = await buy(node, away, "1")
    assert first.status == 201
    for _ in range(2):
        await rows(node, "UPDATE unclaimed_receipt SET due_at = now() RETURNING 1")
        await claim_all(node)
    assert await rows(node, "SELECT FROM unclaimed_receipt") == []
    assert await journal(node, there) == ["member_enrolled", "purchase_recorded", "purchase_returned receipt_conflict"]
    assert await journal(node, away) == ["member_enrolled", "purchase_recorded"]
    late = await buy(node, there, "1")
    assert (late.status, late.code) == (409, "receipt_conflict")
    again = await buy(node, away, "1")
    assert (again.status, again.json["points_earned"]) == (201, first.json["points_earned"])


async def test_a_receipt_that_another_shard_keeps_meanwhile_is_claimed_there_next(node: RunningNode) -> None:
    there, away = await members(node)
    assert (await buy(node, away, "1")).status == 201
    topology = node.inner.topology.current
    register_of = topology.register_of
    (former,) = {*node.inner.shards()} - {register_of("eu", STORE)}
    asked = iter([former])
    topology.register_of = lambda region, store: next(asked, register_of(region, store))  # pyright: ignore[reportAttributeAccessIssue]
    await Register(node.inner).work_off(former)
    assert len(await rows(node, "UPDATE unclaimed_receipt SET due_at = now() RETURNING 1")) == 1
    await claim_all(node)
    late = await buy(node, there, "1")
    assert (late.status, late.code) == (409, "receipt_conflict")


async def test_a_till_that_sends_a_lost_receipt_again_is_told_so(node: RunningNode) -> None:
    there, away = await members(node)
    await buy(node, there, "1")
    body = basket({"member_id": away}, "1") | {"store": STORE}
    first = await node.post("/v1/purchases", body, key="first")
    again = await node.post("/v1/purchases", body)
    assert (again.status, again.headers["Idempotent-Replayed"], again.json) == (201, "true", first.json)
    await claim_all(node)
    again = await node.post("/v1/purchases", body)
    assert (again.status, again.code) == (409, "receipt_conflict")
    same = await node.post("/v1/purchases", body, key="first")
    assert (same.status, same.json) == (201, first.json)  # a key has one answer, for ever
    assert await journal(node, away) == ["member_enrolled", "purchase_recorded", "purchase_returned receipt_conflict"]


async def test_what_a_lost_purchase_spent_comes_back_and_what_it_earned_is_owed(node: RunningNode) -> None:
    there, away = await members(node)
    await node.give(away, 300)
    await buy(node, there, "1")
    paid = await buy(node, away, "1", pay_with_points=200)
    earned = paid.json["points_earned"]
    assert paid.status == 201
    assert earned > 0
    left = paid.json["account"]["balance"]["available"]
    body = {"member": {"member_id": away}, "points": -left, "reason": "spent"}
    assert (await node.post("/v1/adjustments", body)).status == 201
    await claim_all(node)
    now = await balance(node, away)
    assert (now["available"], now["debt"]) == (200 - earned + 1, 0)
    await node.give(away, -now["available"])
    await buy(node, there, "2")
    earned = (await buy(node, away, "2")).json["points_earned"]
    assert (await node.post("/v1/adjustments", body | {"points": -earned})).status == 201
    await claim_all(node)
    sql = "SELECT available, debt FROM account WHERE member_id = $1"
    assert [tuple(row) for row in await rows(node, sql, parse_member_id(away))] == [(0, earned)]


async def test_part_that_came_back_before_is_not_taken_twice(node: RunningNode) -> None:
    there, away = await members(node)
    await buy(node, there, "1")
    lost = (await buy(node, away, "1")).json
    back = {"store": STORE, "till": "1", "receipt": "b", "occurred_at": basket({}, "")["occurred_at"]}
    back |= {"lines": [{"line": 1, "quantity": 1}]}
    assert (await node.post(f"/v1/purchases/{lost['purchase_id']}/returns", back)).status == 201
    await claim_all(node)
    assert (await balance(node, away))["available"] == 1
    more = await node.post(f"/v1/purchases/{lost['purchase_id']}/returns", back | {"receipt": "c"})
    assert (more.status, more.code) == (422, "return_exceeds_purchase")


async def test_a_member_who_left_meanwhile_has_nothing_to_give_back(node: RunningNode) -> None:
    there, away = await members(node)
    await buy(node, there, "1")
    await buy(node, away, "1")
    assert (await node.delete(f"/v1/members/{away}")).status == 200
    await claim_all(node)
    assert await journal(node, away) == ["member_enrolled", "purchase_recorded", "member_closed"]
    assert await rows(node, "SELECT FROM unclaimed_receipt") == []


async def test_whoever_dies_between_the_steps_the_next_one_goes_on(node: RunningNode) -> None:
    there, away = await members(node)
    await buy(node, there, "lost")
    bought = [await buy(node, away, receipt) for receipt in ("lost", "kept")]
    due = await rows(node, "SELECT * FROM unclaimed_receipt")
    await claim_all(node)
    before = await journal(node, away)
    for dsn in dsns(node):  # as if the register had died before it forgot what it had done
        connection = await asyncpg.connect(dsn)
        if await connection.fetchval("SELECT count(*) FROM account WHERE member_id = $1", parse_member_id(away)):
            for row in due:
                values = ", ".join(f"${number}" for number in range(1, len(row) + 1))
                await connection.execute(f"INSERT INTO unclaimed_receipt VALUES ({values})", *row)  # noqa: S608
        await connection.close()
    await claim_all(node)
    assert (len(due), len(before)) == (2, 4)
    assert await journal(node, away) == before
    assert await rows(node, "SELECT FROM unclaimed_receipt") == []
    assert (await balance(node, away))["available"] == bought[1].json["points_earned"] + 1


async def test_a_receipt_of_a_purchase_that_is_nowhere_takes_nothing_from_anybody(node: RunningNode) -> None:
    _, away = await members(node)
    ghost = parse_member_id((await members(node))[1])
    await buy(node, away, "1")
    for dsn in dsns(node):
        connection = await asyncpg.connect(dsn)
        if not await connection.fetchval("SELECT count(*) FROM account WHERE member_id = $1", parse_member_id(away)):
            sql = """INSERT INTO receipt (store, till, business_date, receipt, kind, member_id, version, fingerprint)
                SELECT $1, '1', $2, '1', 'purchase', $3, 99, gen_random_uuid()"""
            (date,) = {row["business_date"] for row in await rows(node, "SELECT business_date FROM receipt")}
            await connection.execute(sql, STORE, date, ghost)
        await connection.close()
    await Register(node.inner).work_off(next(iter(node.inner.shards())))
    await Register(node.inner).work_off(node.inner.shards()[1])
    assert await journal(node, away) == ["member_enrolled", "purchase_recorded"]
    assert len(await rows(node, "SELECT FROM unclaimed_receipt")) == 1
