"""Paying with points over HTTP: what the till is told of holds, points on top, and of what did not apply."""

from collections.abc import AsyncGenerator
from pathlib import Path

import asyncpg
import orjson
import pytest

from command.operation import PurchaseAnswer
from tests.command_node import PROGRAM, RunningNode, basket, running_command_node

WORTH = (
    PROGRAM.replace("[points]\n", "[points]\nworth = { points = 10, amount = 1 }\n")
    + """
[[coupons]]
code = "HELLO"
when = { min_amount = 2000 }
effect = { fixed = 50 }
[[campaigns]]
code = "fuel"
match = { categories = ["FUEL"] }
effect = { fixed = 5 }
"""
)


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=WORTH) as running:
        yield running


async def rich(node: RunningNode, points: int = 10_000) -> dict[str, str]:
    member = {"member_id": (await node.enrol())["member_id"]}
    await node.give(member["member_id"], points)
    return member


async def hold(node: RunningNode, member: dict[str, str], points: int) -> str:
    return (await node.post("/v1/holds", {"member": member, "points": points})).json["hold_id"]


LINES = [{"sku": "a", "quantity": 2, "amount": 300}]


async def test_a_basket_takes_of_its_holds_what_is_due_and_tells_what_it_released(node: RunningNode) -> None:
    member = await rich(node)
    holds = [await hold(node, member, points) for points in (2_000, 6_000)]
    reply = await node.post("/v1/purchases", basket(member, "1", lines=LINES, capture_holds=holds))
    answer = reply.json
    PurchaseAnswer.model_validate_json(reply.body)
    assert (answer["captured"], answer["released"], answer["points_earned"]) == (3_000, 5_000, 0)
    assert [(one["from"], one["to"], one["points"]) for one in answer["postings"]] == [
        ("held", "spent", 2_000), ("held", "spent", 1_000), ("held", "available", 5_000),
    ]  # fmt: skip
    balance = answer["account"]["balance"]
    assert (balance["available"], balance["held"]) == (7_000, 0)
    closed = await node.post(f"/v1/holds/{holds[1]}/void")
    assert (closed.status, closed.code) == (409, "hold_closed")
    back = {"store": "330", "till": "1", "receipt": "9", "occurred_at": basket(member, "")["occurred_at"]}
    path = f"/v1/purchases/{answer['purchase_id']}/returns"
    returned = await node.post(path, back | {"lines": [{"line": 1, "quantity": 2}]})
    assert returned.json["account"]["balance"]["available"] == 10_000


async def test_a_basket_without_holds_tells_nothing_of_holds(node: RunningNode) -> None:
    member = await rich(node)
    answer = (await node.post("/v1/purchases", basket(member, "1", pay_with_points=10))).json
    assert {"captured", "released"}.isdisjoint(answer)


async def test_points_that_pay_nothing_are_refused_with_the_number_that_would_do(node: RunningNode) -> None:
    member = await rich(node)
    for points, would_do in ((9, 10), (15, 10), (3_001, 3_000)):
        body = basket(member, "1", lines=LINES, pay_with_points=points)
        reply = await node.post("/v1/purchases", body)
        assert (reply.status, reply.code) == (422, "limit_exceeded")
        assert reply.json["errors"][0]["pointer"] == "/pay_with_points"
        assert reply.json["detail"].endswith(f" {would_do}")
    paid = await node.post("/v1/purchases", basket(member, "1", lines=LINES, pay_with_points=3_000))
    assert (paid.status, paid.json["account"]["balance"]["available"]) == (201, 7_000)


async def test_a_coupon_that_did_not_apply_is_told_each_time_the_basket_is_answered(node: RunningNode) -> None:
    member = await rich(node)
    body = basket(member, "1", coupons=["HELLO"])
    first = await node.post("/v1/purchases", body, key="k1")
    assert first.json["not_applied"] == [
        {"code": "fuel", "why": "no_line: no line matches"},
        {"code": "HELLO", "why": "min_amount: 1349 of 2000 minor units in money"},
    ]
    for key in ("k1", "k2"):
        again = await node.post("/v1/purchases", body, key=key)
        assert again.json == first.json
    enough = [{"sku": "a", "quantity": 1, "amount": 2000, "category": "FUEL"}]
    applied = await node.post("/v1/purchases", basket(member, "2", coupons=["HELLO"], lines=enough))
    assert (applied.json["not_applied"], applied.json["points_earned"]) == ([], 75)


async def test_a_basket_of_before_is_answered_again_as_it_was(node: RunningNode) -> None:
    """Entries of old tell nothing of what they released or what did not apply; a stored answer stays as it is."""
    member = await rich(node)
    body = basket(member, "1", lines=LINES, capture_holds=[await hold(node, member, 3_000)])
    first = await node.post("/v1/purchases", body, key="k1")
    new_key = await node.post("/v1/purchases", body, key="k2")
    assert (new_key.status, new_key.json) == (201, first.json)
    connection = await asyncpg.connect(node.dsn)
    await connection.execute("UPDATE idempotency SET answer = $1 WHERE key = 'k1'", first.body.decode())  # whole
    document = {"currency": "EUR", "lines": [], "explanation": [], "returns": []}
    await connection.execute("UPDATE purchase SET document = $1", orjson.dumps(document).decode())
    detail = "detail::jsonb - 'released'"
    await connection.execute(f"UPDATE journal SET detail = {detail} WHERE kind = 'purchase_recorded'")  # noqa: S608
    await connection.close()
    of_old = await node.post("/v1/purchases", body, key="k3")
    kept = {name: first.json[name] for name in first.json if name not in {"captured", "released"}}
    assert of_old.json == kept | {"not_applied": []}
    assert (await node.post("/v1/purchases", body, key="k1")).body == first.body
