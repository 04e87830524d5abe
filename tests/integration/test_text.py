"""Texts, instants and identifiers over HTTP: what people write goes through, and one thing has one form."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.command_node import PROGRAM, Reply, RunningNode, running_command_node

CHEESE = """
[[campaigns]]
code = "cheese"
match = { categories = ["Ka\u0308se "] }
effect = { fixed = 10 }
[[coupons]]
code = "Hello50"
per_member = 0
effect = { fixed = 50 }
"""
STORED_BEFORE = ("+490301234567", "Bjo\u0308rn@bücher.example")
"""As versions before stored them: with a trunk zero, neither composed nor IDNA."""


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=PROGRAM + CHEESE) as running:
        yield running


def recent() -> str:
    return (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds").replace("+00:00", "Z")


async def buy(node: RunningNode, member: dict[str, str], receipt: str, **changes: Any) -> Reply:
    line = {"sku": "a", "quantity": 1, "amount": 1000}
    basket = {"store": "330", "till": "1", "receipt": receipt, "occurred_at": recent(), "currency": "EUR"}
    return await node.post("/v1/purchases", basket | {"member": member, "lines": [line]} | changes)


async def store_before(node: RunningNode, member_id: str, kind: str, value: str) -> None:
    """Give a member an identifier in the way of a version before."""
    reply = await node.post(f"/v1/members/{member_id}/identifiers", {"add": [{kind: f"{_fresh(kind, value)}"}]})
    assert reply.status == 201, reply.body
    connection = await asyncpg.connect(node.dsn)
    for table in ("identifier", "claim"):
        await connection.execute(
            f"UPDATE {table} SET value = $1 WHERE kind = $2 AND value = $3",  # noqa: S608 - two names of ours
            value, kind, _fresh(kind, value),
        )  # fmt: skip
    await connection.close()


def _fresh(kind: str, value: str) -> str:
    return f"+4930999{len(value):04d}" if kind == "phone" else f"fresh{len(value)}@example.com"


async def test_a_category_with_a_no_break_space_does_not_refuse_a_paid_basket(node: RunningNode) -> None:
    member = {"card": (await node.enrol(name="A\u00a0B", locale="fr-FR"))["card"]}
    line = {"sku": "a", "quantity": 1, "amount": 1000, "category": "FRUITS & LÉGUMES\u00a0"}
    assert (await buy(node, member, "1", lines=[line])).status == 201


@pytest.mark.parametrize("category", ["Käse", "Ka\u0308se", " Käse"])
async def test_a_category_is_that_of_the_program_however_it_is_composed(node: RunningNode, category: str) -> None:
    member = {"card": (await node.enrol())["card"]}
    line = {"sku": "a", "quantity": 1, "amount": 1000, "category": category}
    assert (await buy(node, member, "1", lines=[line])).json["points_earned"] == 20


async def test_a_receipt_is_the_same_however_it_is_composed(node: RunningNode) -> None:
    member, at = {"card": (await node.enrol())["card"]}, recent()
    answers = [
        (await buy(node, member, receipt, till=till, occurred_at=at)).json
        for receipt, till in (("Bon-Ä1", "1"), ("Bon-A\u03081", "1 "), (" Bon-Ä1", "\u30001"))
    ]
    assert len({answer["purchase_id"] for answer in answers}) == 1


@pytest.mark.parametrize("code", ["Hello50", "HELLO50", "hello50 "])
async def test_a_coupon_is_known_in_capitals_and_small_letters(node: RunningNode, code: str) -> None:
    member = {"card": (await node.enrol())["card"]}
    reply = await buy(node, member, "1", coupons=[code])
    assert (reply.status, reply.json["points_earned"]) == (201, 60)
    reply = await buy(node, member, "2", coupons=[code, "hELLO50"])
    assert (reply.status, reply.code) == (400, "malformed")


@pytest.mark.parametrize("at", ["1795500000", "20261124", "2026-11-24 10:00:00Z"])
async def test_a_basket_of_no_instant_is_refused(node: RunningNode, at: str) -> None:
    reply = await buy(node, {"card": (await node.enrol())["card"]}, "1", occurred_at=at)
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (400, "/occurred_at")


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("email", "björn@example.com", "Bjo\u0308rn@example.com."),
        ("email", "a@bücher.example", "a@xn--bcher-kva.example"),
        ("phone", "+49302123456", "+490302123456"),
    ],
)
async def test_one_person_enrols_once(node: RunningNode, kind: str, one: str, other: str) -> None:
    member = await node.enrol(**{kind: one})
    reply = await node.post("/v1/members", {kind: other})
    assert (reply.status, reply.code) == (409, "member_exists")
    for name in (one, other):
        hold = await node.post("/v1/holds", {"member": {kind: name}, "points": 1})
        assert (hold.status, hold.code) == (422, "insufficient_points")  # so the member was found
    await node.give(member["member_id"], 5)
    assert (await buy(node, {kind: other}, "1")).json["account"]["balance"]["available"] == 15


async def test_what_no_plan_has_is_no_phone_number(node: RunningNode) -> None:
    reply = await node.post("/v1/members", {"phone": "+999123456789"})
    assert (reply.status, reply.json["errors"][0]["pointer"]) == (400, "/phone")
    assert "no such phone number" in reply.json["detail"]


@pytest.mark.parametrize("value", STORED_BEFORE)
async def test_what_was_stored_before_is_found_taken_and_removed_as_it_was_typed(node: RunningNode, value: str) -> None:
    kind, member = "email" if "@" in value else "phone", await node.enrol()
    await store_before(node, member["member_id"], kind, value.lower())
    assert (await buy(node, {kind: value}, "1")).json["account"]["member_id"] == member["member_id"]
    taken = await node.post("/v1/members", {kind: value})
    assert (taken.status, taken.code) == (409, "member_exists")
    removed = await node.post(f"/v1/members/{member['member_id']}/identifiers", {"remove": [{kind: value}]})
    assert removed.status == 201, removed.body
    await node.run_errands()
    assert (await node.post("/v1/members", {kind: value})).status == 201
