"""Who may send points, over HTTP on real Postgres; and what becomes of what an erased member owes."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.command_node import PROGRAM, RunningNode, basket, recent, running_command_node

LINES = [{"sku": "a", "quantity": 1, "amount": 100_000}]


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


def transfer(sender: str, receiver: str, points: int) -> dict[str, Any]:
    return {"from": {"member_id": sender}, "to": {"member_id": receiver}, "points": points}


async def written_off(node: RunningNode) -> float:
    async with node.session.get(f"{node.url}/metrics") as answer:
        text = await answer.text()
    name = "loyalty_debt_written_off_points_total "
    return float(next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name))


async def test_points_of_a_basket_that_may_come_back_reach_nobody_else(node: RunningNode) -> None:
    ada, bob = [(await node.enrol())["member_id"] for _ in range(2)]
    bought = (await node.post("/v1/purchases", basket({"member_id": ada}, "1", lines=LINES))).json
    refused = await node.post("/v1/transfers", transfer(ada, bob, 1))
    assert (refused.status, refused.code) == (422, "insufficient_points")
    assert refused.json["detail"].startswith("0 points can be sent")
    await node.give(ada, 30)
    answers = [await node.post("/v1/transfers", transfer(ada, bob, points)) for points in (31, 30)]
    assert [answer.status for answer in answers] == [422, 201]
    slip = {"store": "330", "till": "1", "receipt": "back", "occurred_at": recent()}
    slip |= {"lines": [{"line": 1, "quantity": 1}]}
    back = await node.post(f"/v1/purchases/{bought['purchase_id']}/returns", slip)
    assert back.json["account"]["balance"] | {"expiring": [], "next_change_at": None} == {
        "available": 0, "pending": 0, "held": 30, "debt": 0, "lifetime": 30, "expiring": [], "next_change_at": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("terms", "points", "told"),
    [
        ("enabled = false", 1, "limit_exceeded"),
        ("per_day = 10\nmin_account_days = 0", 11, "limit_exceeded"),
        ("min_account_days = 1", 1, "limit_exceeded"),
        ("only_settled = false\nmin_account_days = 0", 1_000, None),
        ("per_day = 0\nmin_account_days = 0\nonly_settled = false", 1_000, None),
    ],
)
async def test_a_program_says_who_may_send_points(
    database: str, tmp_path: Path, terms: str, points: int, told: str | None
) -> None:
    program = PROGRAM.replace("min_account_days = 0", terms)
    async with running_command_node(database, tmp_path, program=program) as node:
        ada, bob = [(await node.enrol())["member_id"] for _ in range(2)]
        await node.post("/v1/purchases", basket({"member_id": ada}, "1", lines=LINES))
        answer = await node.post("/v1/transfers", transfer(ada, bob, points))
        assert answer.json.get("code") == told


async def test_a_member_of_long_standing_may_send_what_a_new_one_may_not(database: str, tmp_path: Path) -> None:
    program = PROGRAM.replace("min_account_days = 0", "min_account_days = 7")
    async with running_command_node(database, tmp_path, program=program) as node:
        ada, bob = [(await node.enrol())["member_id"] for _ in range(2)]
        await node.give(ada, 10)
        assert (await node.post("/v1/transfers", transfer(ada, bob, 5))).code == "limit_exceeded"
        connection = await asyncpg.connect(database)
        await connection.execute("UPDATE member SET enrolled_at = now() - interval '8 days'")
        await connection.close()
        assert (await node.post("/v1/transfers", transfer(ada, bob, 5))).status == 201


async def test_what_an_erased_member_owes_is_written_off_and_counted(node: RunningNode) -> None:
    before = await written_off(node)
    ada = (await node.enrol())["member_id"]
    bought = (await node.post("/v1/purchases", basket({"member_id": ada}, "1", lines=LINES))).json
    hold = (await node.post("/v1/holds", {"member": {"member_id": ada}, "points": 1_000})).json
    await node.post(f"/v1/holds/{hold['hold_id']}/capture")
    slip = {"store": "330", "till": "1", "receipt": "back", "occurred_at": recent()}
    slip |= {"lines": [{"line": 1, "quantity": 1}]}
    await node.post(f"/v1/purchases/{bought['purchase_id']}/returns", slip)
    assert (await node.delete(f"/v1/members/{ada}", key="bye")).status == 200
    assert (await node.delete(f"/v1/members/{ada}", key="bye")).status == 200
    connection = await asyncpg.connect(node.dsn)
    row = await connection.fetchrow("SELECT debt, issued, spent FROM account")
    assert tuple(row) == (0, 1_000, 1_000)
    posting = await connection.fetchval("SELECT postings FROM journal WHERE kind = 'member_closed'")
    assert '"debt_written_off"' in posting
    await connection.close()
    assert await written_off(node) - before == 1_000
