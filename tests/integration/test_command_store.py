"""A till's key that is bound to a store acts for that store alone."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.command_node import PROGRAM, Reply, RunningNode, basket, recent, running_command_node

REWARDS = PROGRAM + '\n[[rewards]]\ncode = "coffee"\nname = "Coffee"\npoints = 10\n'
CLOSED_STORES = REWARDS.replace('name = "Test"', 'name = "Test"\ncross_store_returns = false')
NOWHERE = "0" * 14


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=REWARDS) as running:
        yield running


async def rich(node: RunningNode, **fields: Any) -> dict[str, str]:
    """A member with 1,000 points, as bodies name members."""
    member = await node.enrol(**fields)
    await node.give(member["member_id"], 1_000)
    return {"member_id": member["member_id"]}


def told(reply: Reply) -> tuple[int, str | None]:
    return reply.status, reply.json.get("code") if reply.status >= 400 else None


LINE = {"sku": "a", "quantity": 1, "amount": 1}
STORE_NAMED: dict[str, dict[str, Any]] = {
    "/v1/members": {},
    "/v1/holds": {"points": 10},
    "/v1/redemptions": {"reward": "coffee"},
    f"/v1/redemptions/red_{NOWHERE}-1/cancel": {},
    f"/v1/redemptions/red_{NOWHERE}-1/use": {"code": "X"},
    "/v1/purchases": {"till": "1", "receipt": "1", "currency": "EUR", "lines": [LINE]},
    f"/v1/purchases/pur_{NOWHERE}-1/returns": {"till": "1", "receipt": "1", "lines": [{"line": 1, "quantity": 1}]},
}  # fmt: skip
NEEDED = ("use", "purchases", "returns")
NAMED = [(path, {"store": "331"}) for path in STORE_NAMED] + [
    (path, {}) for path in STORE_NAMED if not path.endswith(NEEDED)
]


@pytest.mark.parametrize(("path", "store"), NAMED)
async def test_a_bound_key_names_its_own_store_wherever_a_store_can_be_named(
    node: RunningNode, path: str, store: dict[str, str]
) -> None:
    body = STORE_NAMED[path] | store
    if path in {"/v1/holds", "/v1/redemptions", "/v1/purchases"}:
        body["member"] = await rich(node)
    if "receipt" in body:
        body["occurred_at"] = recent()
    refused = await node.post(path, body, role="till330")
    assert told(refused) == (403, "forbidden")
    assert refused.json["errors"][0]["pointer"] == "/store"
    assert (await node.post(path, body | {"store": "330"}, role="till330")).status in {201, 404}


async def test_a_bound_key_neither_moves_points_nor_changes_identifiers_without_the_right_desk(
    node: RunningNode,
) -> None:
    ada, bob = await rich(node), await rich(node)
    transfer = {"from": ada, "to": bob, "points": 5}
    path = f"/v1/members/{ada['member_id']}/identifiers"
    for role, status in (("till330", 403), ("desk330", 201), ("pos", 201)):
        assert (await node.post("/v1/transfers", transfer, role=role)).status == status
        assert (await node.post(path, {"new_card": True}, role=role)).status == status


async def test_a_bound_key_captures_and_voids_what_its_store_placed_only(node: RunningNode) -> None:
    ada = await rich(node)

    async def hold(role: str, **store: str) -> str:
        placed = await node.post("/v1/holds", {"member": ada, "points": 10} | store, role=role)
        return placed.json["hold_id"]

    others = [await hold("till331", store="331"), await hold("service")]
    for hold_id in others:
        for step in ("capture", "void"):
            assert told(await node.post(f"/v1/holds/{hold_id}/{step}", role="till330")) == (404, "hold_not_found")
        bought = basket(ada, hold_id, capture_holds=[hold_id])
        assert told(await node.post("/v1/purchases", bought, role="till330")) == (404, "hold_not_found")
        assert (await node.post(f"/v1/holds/{hold_id}/void")).status == 200
        assert told(await node.post(f"/v1/holds/{hold_id}/void", role="till330")) == (404, "hold_not_found")
        assert told(await node.post(f"/v1/holds/{hold_id}/void")) == (409, "hold_closed")
    own = [await hold(role, store="330") for role in ("till330", "desk330", "service")]
    assert (await node.post(f"/v1/holds/{own[0]}/capture", role="till330")).status == 200
    assert (await node.post(f"/v1/holds/{own[1]}/void", role="till330")).status == 200
    bought = basket(ada, "9", capture_holds=[own[2]])
    assert (await node.post("/v1/purchases", bought, role="till330")).status == 201


async def test_a_hold_is_its_stores_in_the_batch_that_placed_it_too(node: RunningNode) -> None:
    ada = await rich(node)
    place = {"member": ada, "points": 10, "store": "331"}
    held, others, own = await asyncio.gather(
        node.post("/v1/holds", place, role="till331"),
        node.post(f"/v1/holds/hld_{ada['member_id']}-3/void", role="till330"),
        node.post(f"/v1/holds/hld_{ada['member_id']}-3/void", role="till331"),
    )
    assert held.status == 201
    assert told(others) == (404, "hold_not_found")
    assert own.status in {200, 404}  # it came before or after


@pytest.mark.parametrize(("program", "status"), [(REWARDS, 201), (CLOSED_STORES, 404)], ids=["open", "closed"])
async def test_goods_of_another_store_come_back_unless_the_program_forbids_it(
    database: str, tmp_path: Path, program: str, status: int
) -> None:
    async with running_command_node(database, tmp_path, program=program) as node:
        ada = await rich(node)
        bought = await node.post("/v1/purchases", basket(ada, "1", store="331"), role="till331")
        path = f"/v1/purchases/{bought.json['purchase_id']}/returns"
        for store, expected in (("330", status), ("331", 201)):
            lines = [{"line": 1, "quantity": 1}]
            back = {"store": store, "till": "1", "receipt": f"r{store}", "occurred_at": recent(), "lines": lines}
            reply = await node.post(path, back, role=f"till{store}")
            assert told(reply) == (expected, "purchase_not_found" if expected == 404 else None)


async def redeem(node: RunningNode, member: dict[str, str], store: str = "331") -> tuple[str, str]:
    """A redemption made at a store: its path and code."""
    redeemed = await node.post(
        "/v1/redemptions", {"member": member, "reward": "coffee", "store": store}, role=f"till{store}"
    )
    return f"/v1/redemptions/{redeemed.json['redemption_id']}", redeemed.json["code"]


async def test_a_reward_is_handed_out_for_its_code(node: RunningNode) -> None:
    ada = await rich(node)
    path, code = await redeem(node, ada)
    _, other = await redeem(node, ada)
    at_store = {"store": "330", "till": "1"}
    for role in ("till330", "pos"):
        missing = await node.post(f"{path}/use", at_store, role=role)
        assert (told(missing), missing.json["errors"][0]["pointer"]) == ((400, "malformed"), "/code")
    for wrong in (other, code[:-1], code + "2", "É"):
        refused = await node.post(f"{path}/use", at_store | {"code": wrong}, role="till330")
        assert (told(refused), refused.json["errors"][0]["pointer"]) == ((404, "not_found"), "/code")
    assert (await node.post(f"{path}/use", at_store | {"code": code.lower()}, role="till330")).status == 200
    path, code = await redeem(node, ada)
    assert told(await node.post(f"{path}/use", at_store | {"code": other})) == (404, "not_found")
    assert (await node.post(f"{path}/use", at_store)).status == 200, "a service may know without one"


async def test_five_wrong_codes_an_hour_are_all_whichever_node_is_asked(node: RunningNode, tmp_path: Path) -> None:
    ada = await rich(node)
    path, code = await redeem(node, ada)
    untouched, its_code = await redeem(node, ada)
    right, wrong = ({"store": "330", "code": one} for one in (code, "WRONG"))
    (tmp_path / "other").mkdir()
    async with running_command_node(node.dsn, tmp_path / "other", program=REWARDS) as other:
        guesses = [
            asked.post(f"{path}/use", wrong, role="till330", key=f"guess-{number}")
            for number, asked in enumerate((node, other) * 10)
        ]
        replies = [told(reply) for reply in await asyncio.gather(*guesses)]
        assert (replies.count((404, "not_found")), replies.count((429, "rate_limited"))) == (5, 15)
    refused = await node.post(f"{path}/use", right, role="till330", key="kept")
    assert told(refused) == (429, "rate_limited")
    assert 3_500 < int(refused.headers["Retry-After"]) <= 3_600
    assert told(await node.post(f"{path}/cancel", right, role="till330")) == (429, "rate_limited")
    assert (await node.post(f"{untouched}/use", {"store": "330", "code": its_code}, role="till330")).status == 200
    connection = await asyncpg.connect(node.dsn)
    await connection.execute("UPDATE wrong_guess SET guessed_at = guessed_at - interval '1 hour'")
    await connection.close()
    assert (await node.post(f"{path}/use", right, role="till330", key="kept")).status == 200


async def test_a_bound_key_cancels_what_its_store_redeemed_or_whose_code_it_shows(node: RunningNode) -> None:
    ada = await rich(node)
    path, code = await redeem(node, ada)
    assert told(await node.post(f"{path}/cancel", {"store": "330"}, role="till330")) == (404, "not_found")
    assert (await node.post(f"{path}/cancel", {"store": "330", "code": code}, role="till330")).status == 200
    path, _ = await redeem(node, ada, "330")
    assert (await node.post(f"{path}/cancel", {"store": "330"}, role="till330")).status == 200
