"""Commands over HTTP on real Postgres: one effect each, whatever a till does."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.command_node import RunningNode, basket, recent, running_command_node
from tests.conftest import eventually

NOW = "2026-11-22T10:00:00Z"


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


async def test_a_purchase_earns_points_per_unit_and_its_answer_is_durable_and_complete(
    node: RunningNode,
) -> None:
    member = await node.enrol(name="Ada")
    reply = await node.post("/v1/purchases", basket({"card": member["card"]}, "1"), role="pos")
    assert reply.status == 201
    answer = reply.json
    assert answer["points_earned"] == 13
    assert answer["postings"][0] | {"expires_at": None} == {
        "points": 13, "from": "program", "to": "available", "expires_at": None, "reason": "base",
    }  # fmt: skip
    assert answer["account"]["balance"]["available"] == 13
    assert answer["account"]["version"] == 2
    assert reply.headers["Consistency-Token"] == f"v1.{member['member_id']}.2"
    assert reply.headers["Loyalty-Region"] == "eu"


async def test_the_same_key_and_body_gets_the_same_bytes_again_marked(node: RunningNode) -> None:
    member = await node.enrol()
    body = basket({"member_id": member["member_id"]}, "1")
    first = await node.post("/v1/purchases", body, key="k1")
    again = await node.post("/v1/purchases", body, key='"k1"')
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Consistency-Token"] == first.headers["Consistency-Token"]
    assert "Idempotent-Replayed" not in first.headers


async def test_the_same_key_with_another_body_is_refused_and_changes_nothing(node: RunningNode) -> None:
    member = await node.enrol()
    body = basket({"member_id": member["member_id"]}, "1")
    await node.post("/v1/purchases", body, key="k1")
    other = await node.post("/v1/purchases", body | {"till": "2"}, key="k1")
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    for told in ("nothing was done", "a new key", "/v1/commands/"):  # what a till can do about it
        assert told in other.json["detail"]


async def test_a_refusal_is_stored_and_replayed_like_a_yes(node: RunningNode) -> None:
    member = await node.enrol()
    body = {"member": {"member_id": member["member_id"]}, "points": 10}
    first = await node.post("/v1/holds", body, key="h")
    assert (first.status, first.code) == (422, "insufficient_points")
    await node.give(member["member_id"], 100)
    again = await node.post("/v1/holds", body, key="h")
    assert (again.status, again.body) == (first.status, first.body)


async def test_the_same_receipt_under_a_new_key_gets_the_first_answer_and_other_content_conflicts(
    node: RunningNode,
) -> None:
    member = await node.enrol()
    body = basket({"member_id": member["member_id"]}, "77")
    first = await node.post("/v1/purchases", body)
    again = await node.post("/v1/purchases", body | {"member": {"card": member["card"]}})
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"
    conflict = await node.post("/v1/purchases", body | {"currency": "EUR", "lines": body["lines"][:1]})
    assert (conflict.status, conflict.code) == (409, "receipt_conflict")
    other = await node.enrol()
    stolen = await node.post("/v1/purchases", body | {"member": {"member_id": other["member_id"]}})
    assert (stolen.status, stolen.code) == (409, "receipt_conflict")


async def test_a_thousand_commands_sent_twice_at_once_in_any_order_have_one_effect_each(
    node: RunningNode,
) -> None:
    members = [await node.enrol() for _ in range(20)]
    bodies = [basket({"member_id": members[n % 20]["member_id"]}, str(n)) for n in range(1000)]
    sent = [(body, f"key-{n}") for n, body in enumerate(bodies)]
    sent += [(body, f"key-{n}" if n % 2 else f"other-{n}") for n, body in enumerate(bodies)]
    random.Random(7).shuffle(sent)
    gate = asyncio.Semaphore(100)

    async def send(body: dict[str, Any], key: str) -> None:
        async with gate:
            while (reply := await node.post("/v1/purchases", body, key=key)).status in {409, 503}:
                assert reply.json["retryable"], reply.body
            assert reply.status == 201, reply.body

    await asyncio.gather(*(send(body, key) for body, key in sent))
    connection = await asyncpg.connect(node.dsn)
    assert await connection.fetchval("SELECT count(*) FROM journal WHERE kind = 'purchase_recorded'") == 1000
    assert await connection.fetchval("SELECT sum(available) FROM account") == 13 * 1000
    await connection.close()


async def test_returning_in_parts_takes_back_exactly_what_was_earned(node: RunningNode) -> None:
    member = await node.enrol()
    bought = (await node.post("/v1/purchases", basket({"member_id": member["member_id"]}, "1"))).json
    path = f"/v1/purchases/{bought['purchase_id']}/returns"
    points = []
    for number, line in enumerate([(1, 1), (2, "0.375"), (1, "1.0")]):
        lines = [{"line": line[0], "quantity": line[1]}]
        body = {"store": "331", "till": "9", "receipt": f"r{number}", "occurred_at": recent(), "lines": lines}
        reply = await node.post(path, body)
        assert reply.status == 201, reply.body
        points.append(reply.json["points_reversed"])
    assert sum(points) == 13
    assert reply.json["account"]["balance"]["available"] == 0
    body = {"store": "331", "till": "9", "receipt": "r9", "occurred_at": recent(), "lines": lines}
    more = await node.post(path, body)
    assert (more.status, more.code) == (422, "return_exceeds_purchase")


async def test_a_return_of_spent_points_leaves_debt_that_later_points_pay(node: RunningNode) -> None:
    member = await node.enrol()
    named = {"member_id": member["member_id"]}
    bought = (await node.post("/v1/purchases", basket(named, "1"))).json
    hold = (await node.post("/v1/holds", {"member": named, "points": 13})).json
    captured = (await node.post(f"/v1/holds/{hold['hold_id']}/capture")).json
    assert captured["captured"] == 13
    lines = [{"line": 1, "quantity": 2}, {"line": 2, "quantity": "0.375"}]
    body = {"store": "330", "till": "1", "receipt": "r", "occurred_at": recent(), "lines": lines}
    returned = (await node.post(f"/v1/purchases/{bought['purchase_id']}/returns", body)).json
    assert returned["account"]["balance"]["debt"] == 13
    after = (await node.give(member["member_id"], 20)).json
    assert after["account"]["balance"]["debt"] == 0
    assert after["account"]["balance"]["available"] == 7


async def test_a_hold_is_captured_in_part_the_rest_released_and_then_closed(node: RunningNode) -> None:
    member = await node.enrol()
    await node.give(member["member_id"], 100)
    hold = (await node.post("/v1/holds", {"member": {"member_id": member["member_id"]}, "points": 60})).json
    assert hold["account"]["balance"]["held"] == 60
    done = await node.post(f"/v1/holds/{hold['hold_id']}/capture", {"points": 50})
    assert (done.status, done.json["captured"], done.json["released"]) == (200, 50, 10)
    assert done.json["account"]["balance"]["available"] == 50
    closed = await node.post(f"/v1/holds/{hold['hold_id']}/void")
    assert (closed.status, closed.code) == (409, "hold_closed")
    missing = await node.post(f"/v1/holds/{hold['hold_id'][:-1]}9/void")
    assert (missing.status, missing.code) == (404, "hold_not_found")


async def test_of_fifty_parallel_spends_of_the_whole_balance_one_is_accepted(node: RunningNode) -> None:
    member = await node.enrol()
    await node.give(member["member_id"], 100)
    body = {"member": {"member_id": member["member_id"]}, "points": 100}
    replies = await asyncio.gather(*(node.post("/v1/holds", body) for _ in range(50)))
    assert sorted(reply.status for reply in replies) == [201] + [422] * 49


async def test_enrolling_twice_with_one_key_is_one_member_and_a_taken_phone_is_refused(
    node: RunningNode,
) -> None:
    first = await node.post("/v1/members", {"phone": "+4930123456"}, key="e")
    again = await node.post("/v1/members", {"phone": "+4930123456"}, key="e")
    assert (first.status, again.body) == (201, first.body)
    taken = await node.post("/v1/members", {"phone": "+4930123456"}, key="f")
    assert (taken.status, taken.code) == (409, "member_exists")
    found = await node.post("/v1/purchases", basket({"phone": "+4930123456"}, "5"))
    assert found.json["account"]["member_id"] == first.json["member_id"]


GOOD = {"lines": [{"sku": "a", "quantity": 1, "amount": 100}]}


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b'{"amount": 99999999999999999999999999}', "/lines/0/amount"),
        (b'{"amount": -1}', "/lines/0/amount"),
        (b'{"amount": 1.5}', "/lines/0/amount"),
        (b'{"sku": "a\\u0000b"}', "/lines/0/sku"),
        (b'{"quantity": 0}', "/lines/0/quantity"),
        (b'{"quantity": "NaN"}', "/lines/0/quantity"),
        (b'{"quantity": "1.2345"}', "/lines/0/quantity"),
        (b'{"quantity": true}', "/lines/0/quantity"),
        (b'{"surprise": 1}', "/lines/0/surprise"),
    ],
)
async def test_a_line_that_makes_no_sense_is_malformed_with_a_pointer(
    node: RunningNode, raw: bytes, pointer: str
) -> None:
    line = GOOD["lines"][0] | json.loads(raw)
    reply = await node.post("/v1/purchases", basket({"card": "0100000000000000008"}, "1", lines=[line]))
    assert (reply.status, reply.code) == (400, "malformed")
    assert reply.json["errors"][0]["pointer"] == pointer
    assert reply.headers["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"member": {"card": "\\ud800"}}',
        b"[" * 100_000,
        b'{"member":{}}',
    ],
)
async def test_a_body_that_is_no_purchase_is_malformed(node: RunningNode, raw: bytes) -> None:
    reply = await node.post("/v1/purchases", raw)
    assert (reply.status, reply.code) == (400, "malformed")


async def test_one_poisoned_command_never_touches_the_others_of_its_batch(node: RunningNode) -> None:
    members = [await node.enrol() for _ in range(20)]
    good = [basket({"member_id": member["member_id"]}, f"g{n}") for n, member in enumerate(members)]
    poison = [
        basket({"card": "0100000000000000008"}, "unknown member"),
        basket({"member_id": members[0]["member_id"]}, "p1", lines=[{"sku": "x", "quantity": 1, "amount": 2**63}]),
        basket({"member_id": members[0]["member_id"]}, "p\x00"),
        basket({"member_id": members[0]["member_id"]}, "p2", store="nowhere"),
        basket({"member_id": members[0]["member_id"]}, "p3", currency="USD"),
        basket({"member_id": members[0]["member_id"]}, "\ud800"),
    ]
    bodies = [*good, *poison]
    random.Random(3).shuffle(bodies)
    replies = await asyncio.gather(*(node.post("/v1/purchases", body) for body in bodies))
    by_status = [(body["receipt"], reply.status) for body, reply in zip(bodies, replies, strict=True)]
    assert all(status == 201 for receipt, status in by_status if receipt.startswith("g"))
    assert all(status in {400, 404, 422} for receipt, status in by_status if not receipt.startswith("g"))


async def test_what_the_database_refuses_of_one_command_leaves_the_rest_of_the_batch_standing(
    node: RunningNode,
) -> None:
    """The receipt of one command is written behind the node's back, between its load and its record."""
    members = [await node.enrol() for _ in range(5)]
    connection = await asyncpg.connect(node.dsn)
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.receipt = 'poison' THEN RAISE unique_violation; END IF; RETURN NEW; END $$"
    )
    await connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON receipt FOR EACH ROW EXECUTE FUNCTION refuse()")
    bodies = [basket({"member_id": member["member_id"]}, f"g{n}") for n, member in enumerate(members)]
    bodies.append(basket({"member_id": members[0]["member_id"]}, "poison"))
    replies = await asyncio.gather(*(node.post("/v1/purchases", body) for body in bodies))
    assert [reply.status for reply in replies] == [201] * 5 + [500]
    assert await connection.fetchval("SELECT count(*) FROM purchase") == 5
    await connection.close()


@pytest.mark.parametrize(
    ("role", "path", "body", "status", "code"),
    [
        ("pos", "/v1/adjustments", {"points": 5, "reason": "x"}, 403, "forbidden"),
        ("till330", "/v1/purchases", {"store": "331"}, 403, "forbidden"),
        ("pos", "/v1/purchases", {"occurred_at": "2020-01-01T00:00:00Z"}, 400, "malformed"),
        ("service", "/v1/purchases", {"occurred_at": "2020-01-01T00:00:00Z"}, 201, None),
        ("service", "/v1/purchases", {"occurred_at": "2199-01-01T00:00:00Z"}, 400, "malformed"),
        ("service", "/v1/purchases", {"store": "nowhere"}, 422, "unknown_store"),
    ],
)
async def test_who_may_do_what(
    node: RunningNode, role: str, path: str, body: dict[str, Any], status: int, code: str | None
) -> None:
    member = await node.enrol()
    named = {"member_id": member["member_id"]}
    whole = (basket(named, "1") if path == "/v1/purchases" else {"member": named}) | body
    reply = await node.post(path, whole, role=role)
    assert (reply.status, reply.json.get("code")) == (status, code)


async def test_no_key_no_credential_wrong_type_and_too_much_are_refused_each_in_its_way(
    node: RunningNode,
) -> None:
    missing = await node.post("/v1/holds", {}, **{"Idempotency-Key": ""})
    assert (missing.status, missing.code) == (400, "malformed")
    anonymous = await node.post("/v1/holds", {}, Authorization="Bearer loy_x_y")
    assert (anonymous.status, anonymous.code) == (401, "unauthenticated")
    typed = await node.post("/v1/holds", {"a": 1}, **{"Content-Type": "text/plain"})
    assert (typed.status, typed.code) == (415, "unsupported_media_type")
    large = await node.post("/v1/holds", b"x" * 2_000_000)
    assert (large.status, large.code) == (413, "too_large")
    nowhere = await node.post("/v1/nothing", {})
    assert (nowhere.status, nowhere.code) == (404, "not_found")
    malformed = await node.post("/v1/holds/hld_nonsense-1/void")
    assert (malformed.status, malformed.code) == (404, "hold_not_found")


async def test_points_expire_at_their_instant_for_whoever_decides_next(node: RunningNode) -> None:
    member = await node.enrol()
    soon = (datetime.now(UTC) + timedelta(milliseconds=300)).isoformat().replace("+00:00", "Z")
    body = {"member": {"member_id": member["member_id"]}, "points": 50, "reason": "test", "expires_at": soon}
    assert (await node.post("/v1/adjustments", body)).status == 201
    hold = {"member": {"member_id": member["member_id"]}, "points": 1}
    until = asyncio.get_running_loop().time() + 5
    while (reply := await node.post("/v1/holds", hold)).status == 201:
        await node.post(f"/v1/holds/{reply.json['hold_id']}/void")
        assert asyncio.get_running_loop().time() < until
    assert reply.code == "insufficient_points"
    connection = await asyncpg.connect(node.dsn)
    kinds = [row["kind"] for row in await connection.fetch("SELECT kind FROM journal ORDER BY version")]
    assert "points_expired" in kinds
    assert await connection.fetchval("SELECT expired FROM account") == 50
    await connection.close()


async def test_two_nodes_deciding_for_the_same_members_at_once_never_lose_or_double(
    node: RunningNode, tmp_path: Path
) -> None:
    members = [(await node.enrol())["member_id"] for _ in range(3)]
    (tmp_path / "other").mkdir()
    async with running_command_node(node.dsn, tmp_path / "other") as other:

        async def spend(number: int) -> int:
            body = {"member": {"member_id": members[number % 3]}, "points": 1, "reason": "x"}
            one = node if number % 2 else other
            return (await one.insist("/v1/adjustments", body, key=f"both-{number}")).status

        assert set(await asyncio.gather(*(spend(number) for number in range(300)))) == {201}
        lines = [{"line": 1, "quantity": 1}]
        bought = (await node.insist("/v1/purchases", basket({"member_id": members[0]}, "both"), key="bought")).json
        path = f"/v1/purchases/{bought['purchase_id']}/returns"
        returns = [
            {"store": "330", "till": "1", "receipt": f"b{n}", "occurred_at": recent(), "lines": lines} for n in range(8)
        ]
        replies = await asyncio.gather(
            *((node, other)[n % 2].insist(path, body, key=f"back-{n}") for n, body in enumerate(returns))
        )
        assert sorted(reply.status for reply in replies) == [201] * 2 + [422] * 6
    connection = await asyncpg.connect(node.dsn)
    assert await connection.fetchval("SELECT count(*) FROM journal WHERE kind = 'points_adjusted'") == 300
    assert await connection.fetchval("SELECT sum(version) FROM account") == 3 + 300 + 1 + 2
    await connection.close()


async def test_a_server_that_turned_read_only_is_let_go_at_once_and_used_again_when_it_takes_writes(
    node: RunningNode,
) -> None:
    member = await node.enrol()
    connection = await asyncpg.connect(node.dsn)
    name = await connection.fetchval("SELECT current_database()")
    others = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
    )
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.execute(others, name)

    async def refused() -> bool:
        reply = await node.give(member["member_id"], 1)
        assert reply.status == 503
        return reply.code == "shard_unavailable" and "read-only" in reply.json["detail"]

    await eventually(refused)
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    async def taken() -> bool:
        return (await node.give(member["member_id"], 1)).status == 201

    await eventually(taken)
    await connection.close()
