"""What is sent again: equal content however it is written, and what was not found at first and has arrived since."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from command.fingerprint import read_content
from service.body import PurchaseBody
from shard_router.card import new_card
from tests.command_node import PROGRAM, RunningNode, basket, recent, running_command_node

REWARD = '[[rewards]]\ncode = "coffee"\nname = "Coffee"\npoints = 10\n'


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=PROGRAM + REWARD) as running:
        yield running


def back(receipt: str, quantity: Any = 1) -> dict[str, Any]:
    lines = [{"line": 1, "quantity": quantity}]
    return {"store": "330", "till": "1", "receipt": receipt, "occurred_at": recent(), "lines": lines}


async def test_a_till_that_writes_its_queue_otherwise_gets_its_first_answers(node: RunningNode) -> None:
    member = (await node.enrol())["member_id"]
    lines = [{"sku": "a", "quantity": 1, "amount": 1050}]
    body = basket({"member_id": member}, "1", lines=lines)
    first = await node.post("/v1/purchases", body, key="one")
    written = body | {"coupons": [], "lines": [lines[0] | {"quantity": "1.000", "category": None}]}
    written |= {"member": {"member_id": member.lower()}}
    for key in ("one", None):
        again = await node.post("/v1/purchases", written, key=key)
        assert (again.status, again.json) == (201, first.json)
        assert again.headers["Idempotent-Replayed"] == "true"
    slip = back("2")
    path = f"/v1/purchases/{first.json['purchase_id']}/returns"
    returned = await node.post(path, slip, key="two")
    assert returned.status == 201
    small = path.replace(member, member.lower())
    for key in ("two", None):
        again = await node.post(small, slip | {"lines": [{"line": 1, "quantity": 1.0}]}, key=key)
        assert (again.status, again.json) == (201, returned.json)


async def test_a_body_under_a_stored_fingerprint_of_the_first_release_is_known_again(node: RunningNode) -> None:
    member = await node.enrol()
    body = basket({"member_id": member["member_id"]}, "1", coupons=[])
    first = await node.post("/v1/purchases", body, key="old")
    content = read_content(PurchaseBody.model_validate_json(json.dumps(body)))
    head = "POST /v1/purchases"
    said = (content.under_key(head, head), content.under_receipt("", ""))
    connection = await asyncpg.connect(node.dsn)
    under_key, under_receipt = (UUID(one.earlier()) for one in said if one.earlier)
    await connection.execute("UPDATE idempotency SET fingerprint = $1", under_key)
    await connection.execute("UPDATE receipt SET fingerprint = $1", under_receipt)
    await connection.close()
    for key in ("old", "new"):
        again = await node.post("/v1/purchases", body, key=key)
        assert (again.status, again.json) == (201, first.json)
    other = await node.post("/v1/purchases", body | {"till": "2"}, key="old")
    assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_what_is_not_found_is_not_stored_and_its_key_serves_when_it_has_arrived(node: RunningNode) -> None:
    card = new_card(1, 7)
    bought = basket({"card": card}, "1")
    missing = await node.post("/v1/purchases", bought, key="sale")
    assert (missing.status, missing.code) == (404, "member_not_found")
    member = (await node.enrol(card=card))["member_id"]
    pages = {
        "return": (f"/v1/purchases/pur_{member}-2/returns", back("2"), "purchase_not_found"),
        "void": (f"/v1/holds/hld_{member}-4/void", {}, "hold_not_found"),
        "use": (f"/v1/redemptions/red_{member}-6/use", {"store": "330"}, "not_found"),
    }
    for key, (path, body, code) in pages.items():
        reply = await node.post(path, body, key=key)
        assert (reply.status, reply.code) == (404, code)
    assert (await node.post("/v1/purchases", bought, key="sale")).status == 201  # version 2
    await node.give(member, 50)
    assert (await node.post("/v1/holds", {"member": {"card": card}, "points": 5})).status == 201  # version 4
    await node.give(member, 50)
    redeemed = {"member": {"card": card}, "reward": "coffee"}
    assert (await node.post("/v1/redemptions", redeemed)).status == 201  # version 6
    for key, (path, body, _) in pages.items():
        reply = await node.post(path, body, key=key)
        assert reply.status in {200, 201}, (key, reply.body)
        again = await node.post(path, body, key=key)
        assert (again.json, again.headers["Idempotent-Replayed"]) == (reply.json, "true")


async def test_a_captured_hold_that_has_not_arrived_leaves_key_and_receipt_free(node: RunningNode) -> None:
    member = await node.enrol()
    named = {"member_id": member["member_id"]}
    await node.give(member["member_id"], 50)
    body = basket(named, "1", capture_holds=[f"hld_{member['member_id']}-3"])
    early = await node.post("/v1/purchases", body, key="sale")
    assert (early.status, early.code) == (404, "hold_not_found")
    assert (await node.post("/v1/holds", {"member": named, "points": 5})).status == 201
    assert (await node.post("/v1/purchases", body, key="sale")).status == 201
