"""The quick way and the usual way of a command give the same answers, one after another."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from command.http import CALLS
from command.quick import OPERATION_IDS, QuickCommand
from service.place import SHARE
from tests.command_node import RunningNode, basket, running_command_node
from tests.conftest import eventually, so
from tests.http_node import Answer, connection, quickly_taken, read_answer
from tests.odd_request import Plain, converse, odd_request
from tests.sql import held_table

USUAL = "TE: trailers"
NOBODY = "04G0000000000X"


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each plain request was taken by the quick way."""
    return quickly_taken(monkeypatch, QuickCommand)


def posting(node: RunningNode, path: str, body: Any, *lines: str, key: str | None = None, role: str = "pos") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: node", f"Authorization: Bearer {node.keys.get(role, role)}"]
    head += [f"Idempotency-Key: {key}"] if key else []
    if not any(line.startswith("Content-Type") for line in lines):
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, *lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


async def asked(node: RunningNode, request: bytes) -> Answer:
    async with connection(int(node.url.rpartition(":")[2])) as (reader, writer), asyncio.timeout(10):
        writer.write(request)
        return await read_answer(reader)


def usually(request: bytes) -> bytes:
    """The same request on the usual way."""
    return request.replace(b"\r\n", f"\r\n{USUAL}\r\n".encode(), 1)


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What both ways must agree on, whoever was the first to send a key."""
    return (
        answer.status,
        {n: t for n, t in answer.headers.items() if n not in ("Date", "Idempotent-Replayed")},
        answer.body,
    )


Body = Callable[[dict[str, Any]], Any]


def spoiled(**changes: Any) -> Body:
    def body(ada: dict[str, Any]) -> dict[str, Any]:
        return basket({"member_id": ada["member_id"]}, "1") | changes

    return body


PURCHASES, HOLDS, ADJUSTMENTS = "/v1/purchases", "/v1/holds", "/v1/adjustments"
CASES: dict[str, tuple[str, Body, str, tuple[str, ...], int, bool]] = {
    "by id": (PURCHASES, spoiled(), "pos", (), 201, True),
    "by id in small letters": (
        PURCHASES,
        lambda ada: basket({"member_id": ada["member_id"].lower()}, "1"),
        "pos",
        (),
        201,
        True,
    ),
    "by card": (PURCHASES, lambda ada: basket({"card": ada["card"]}, "1"), "service", (), 201, True),
    "by phone": (PURCHASES, lambda _: basket({"phone": "+4930123456"}, "1"), "pos", (), 201, False),
    "compressed": (PURCHASES, spoiled(), "pos", ("Accept-Encoding: gzip, deflate",), 201, True),
    "not compressed": (PURCHASES, spoiled(), "pos", ("Accept-Encoding: gzip;q=0",), 201, True),
    "kept alive": (PURCHASES, spoiled(), "pos", ("Connection: keep-alive",), 201, True),
    "handed on": (
        PURCHASES,
        spoiled(),
        "pos",
        ("Loyalty-Deadline-Ms: 4000", "Loyalty-Forwarded: us;x"),
        201,
        True,
    ),
    "a hold": (HOLDS, lambda ada: {"member": {"card": ada["card"]}, "points": 5}, "pos", (), 201, True),
    "too large a hold": (HOLDS, lambda ada: {"member": {"card": ada["card"]}, "points": 10**9}, "pos", (), 422, True),
    "points given": (
        ADJUSTMENTS,
        lambda ada: {"member": {"card": ada["card"]}, "points": 5, "reason": "x"},
        "service",
        (),
        201,
        True,
    ),
    "points given by a till": (
        ADJUSTMENTS,
        lambda ada: {"member": {"card": ada["card"]}, "points": 5, "reason": "x"},
        "pos",
        (),
        403,
        False,
    ),
    "by nobody's id": (PURCHASES, lambda _: basket({"member_id": NOBODY}, "1"), "pos", (), 404, False),
    "by a card of nobody": (PURCHASES, lambda _: basket({"card": "0100000000000000008"}, "1"), "pos", (), 404, True),
    "an unknown store": (PURCHASES, spoiled(store="999"), "pos", (), 422, True),
    "another currency": (PURCHASES, spoiled(currency="USD"), "pos", (), 400, True),
    "no lines": (PURCHASES, spoiled(lines=[]), "pos", (), 400, False),
    "a name twice": (PURCHASES, lambda _: b'{"store":"330","store":"330"}', "pos", (), 400, False),
    "no JSON": (PURCHASES, lambda _: b"{", "pos", (), 400, False),
    "no body": (PURCHASES, lambda _: b"", "pos", (), 400, False),
    "another type": (PURCHASES, spoiled(), "pos", ("Content-Type: text/plain",), 415, False),
    "a type with a charset": (
        PURCHASES,
        spoiled(),
        "pos",
        ("Content-Type: application/json; charset=utf-8",),
        201,
        False,
    ),
    "another store's till": (PURCHASES, spoiled(store="331"), "till330", (), 403, False),
    "its own store's till": (PURCHASES, spoiled(), "till330", (), 201, True),
    "a clock ahead": (
        PURCHASES,
        spoiled(occurred_at=(datetime.now(UTC) + timedelta(days=1)).isoformat()),
        "pos",
        (),
        400,
        False,
    ),
    "no credential": (PURCHASES, spoiled(), "nobody", (), 401, False),
    "a trace": (
        PURCHASES,
        spoiled(),
        "pos",
        ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
        201,
        False,
    ),
    "two keys": (PURCHASES, spoiled(), "pos", ("Idempotency-Key: other",), 400, False),
}


@pytest.mark.parametrize("first_is_quick", [True, False], ids=["quick first", "usual first"])
@pytest.mark.parametrize("case", CASES)
async def test_both_ways_give_the_same_answer(
    node: RunningNode, taken: list[bool], case: str, *, first_is_quick: bool
) -> None:
    path, body_of, role, lines, status, is_quick = CASES[case]
    ada = await node.enrol(phone="+4930123456")
    await node.give(ada["member_id"], 100)
    request_id = () if any(line.startswith("traceparent") for line in lines) else ("Request-Id: the-same",)
    request = posting(node, path, body_of(ada), *lines, *request_id, key="k", role=role)
    taken.clear()
    ways = (request, usually(request)) if first_is_quick else (usually(request), request)
    answers = [await asked(node, one) for one in ways]
    assert told(answers[0]) == told(answers[1])
    assert answers[0].status == status
    assert taken == ([is_quick, False] if first_is_quick else [False, is_quick])
    if status < 300:
        assert "Idempotent-Replayed" not in answers[0].headers
        assert answers[1].headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_sent_along_both_ways_agree(
    node: RunningNode, taken: list[bool], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance, port, ada = random.Random(seed), int(node.url.rpartition(":")[2]), await node.enrol(phone="+4930123456")
    await node.give(ada["member_id"], 100)
    requests = [odd_request(chance, odd_command(node, ada, number)) for number in range(40)]
    quick = [await converse(port, request) for request in requests]
    monkeypatch.setattr(QuickCommand, "__call__", lambda *_: False)
    usual = [await converse(port, request) for request in requests]
    for request, *both in zip(requests, quick, usual, strict=True):
        for _, headers, _, _ in both:
            headers.pop("idempotent-replayed", None)
        assert both[0] == both[1], request
    assert any(taken)


def odd_command(node: RunningNode, ada: dict[str, Any], number: int) -> Plain:
    keys = [f"k{number}", f'"k{number}"', f"\tk{number} ", "a b", "", "\xe4", "x" * 256]
    kinds = ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/json ", "a/b", ""]
    roles = ("pos", "service", "admin", "till330")
    return Plain(
        "POST",
        [PURCHASES, HOLDS, ADJUSTMENTS, f"{PURCHASES}?a=1", f"{PURCHASES}/", "/v1/transfers", "/v1/purchase%73"],
        [
            [f"Authorization: Bearer {node.keys[role]}" for role in roles],
            [*(f"Idempotency-Key: {key}" for key in keys), "Accept: */*"],
            [*(f"Content-Type: {kind}" for kind in kinds), "Accept: */*"],
        ],
        list(odd_bodies(ada, f"r{number}")),
    )


def odd_bodies(ada: dict[str, Any], receipt: str) -> Iterator[bytes]:
    """The first is as it should be."""
    sold, by_card = basket({"member_id": ada["member_id"]}, receipt), {"member": {"card": ada["card"]}}
    changes: tuple[dict[str, Any], ...] = (
        {}, {"coupons": ["NONE"]}, {"coupons": None}, {"pay_with_points": 3}, {"pay_with_points": 10**9}, {"more": 1},
        {"store": "999"}, {"capture_holds": [f"hld_{ada['member_id']}-9"]}, {"currency": "USD"}, {"lines": []},
        {"lines": sold["lines"] * 40}, {"lines": sold["lines"] * 450}, {"member": {}}, {"receipt": "phone"},
        {"till": "\ud800"}, {"member": {"phone": "+4930123456"}}, {"member": {"member_id": NOBODY}}, by_card,
    )  # fmt: skip
    plain, *others = [json.dumps(sold | change).encode() for change in changes]
    yield from (plain, *others)
    for body in (by_card, by_card | {"points": 5}, by_card | {"points": 5, "reason": "x"}, [], {}, 1):
        yield json.dumps(body).encode()
    for old, new in (("member_id", "member\\u005fid"), ('"till"', '"till": "2", "till"'), ("EUR", "E\x00R")):
        yield plain.replace(old.encode(), new.encode())
    yield from (b"", b"\xef\xbb\xbf" + plain, plain + b" \n", plain + b"x", plain[:-1], plain.replace(b"EUR", b"\xff"))


async def test_a_body_beyond_the_limit_is_too_large_both_ways(database: str, tmp_path: Path, taken: list[bool]) -> None:
    async with running_command_node(database, tmp_path, body_bytes_max=300) as node:
        ada = await node.enrol()
        taken.clear()
        for lines, status in ((1, 201), (9, 413)):
            body = basket({"card": ada["card"]}, f"{lines}", lines=[{"sku": "a", "quantity": 1, "amount": 1}] * lines)
            request = posting(node, PURCHASES, body, "Request-Id: the-same", key=f"{lines}")
            answers = [await asked(node, one) for one in (request, usually(request))]
            assert told(answers[0]) == told(answers[1])
            assert answers[0].status == status
    assert taken == [True, False, False, False]


async def test_without_a_key_nothing_is_done(node: RunningNode, taken: list[bool]) -> None:
    ada = await node.enrol()
    request = posting(node, PURCHASES, basket({"card": ada["card"]}, "1"), "Request-Id: the-same")
    answers = [await asked(node, one) for one in (request, usually(request))]
    assert told(answers[0]) == told(answers[1])
    assert answers[0].json["code"] == "idempotency_key_missing"
    assert not any(taken)


async def test_a_key_that_is_none_is_pointed_at(node: RunningNode) -> None:
    answer = await asked(node, posting(node, PURCHASES, basket({"card": "1"}, "1"), key="a key"))
    assert (answer.status, answer.json["code"]) == (400, "malformed")
    assert [one["pointer"] for one in answer.json["errors"]] == ["/Idempotency-Key"]


async def test_a_body_is_too_large_for_both(database: str, tmp_path: Path, taken: list[bool]) -> None:
    async with running_command_node(database, tmp_path, body_bytes_max=500) as node:
        ada = await node.enrol()
        body = basket({"card": ada["card"]}, "1") | {"store": "3" * 500}
        request = posting(node, PURCHASES, body, "Request-Id: the-same", key="k")
        answers = [await asked(node, one) for one in (request, usually(request))]
    assert told(answers[0]) == told(answers[1])
    assert (answers[0].status, answers[0].json["code"]) == (413, "too_large")
    assert not any(taken)


async def test_who_has_their_share_is_refused_before_the_body_is_looked_at(
    database: str, tmp_path: Path, taken: list[bool]
) -> None:
    async with running_command_node(database, tmp_path, in_flight_max=SHARE) as node:
        ada = await node.enrol()
        taken.clear()
        async with held_table(database):
            first = asyncio.create_task(
                asked(node, posting(node, PURCHASES, basket({"card": ada["card"]}, "1"), key="k"))
            )
            await eventually(so(lambda: taken == [True]))
            request = posting(node, PURCHASES, b"{", "Request-Id: the-same", key="other")
            answers = [await asked(node, one) for one in (request, usually(request))]
        assert told(answers[0]) == told(answers[1])
        assert (answers[0].status, answers[0].json["code"]) == (429, "rate_limited")
        assert taken == [True, True, False]
        assert (await first).status == 201
        assert (await asked(node, posting(node, PURCHASES, basket({"card": ada["card"]}, "2"), key="2"))).status == 201


def test_what_is_taken_leaves_no_errand() -> None:
    assert not any(CALLS[name].leaves_errand for name in OPERATION_IDS)


async def test_what_comes_meanwhile_is_answered_afterwards(node: RunningNode, taken: list[bool]) -> None:
    members = [await node.enrol() for _ in range(3)]
    taken.clear()
    requests = [
        posting(node, PURCHASES, basket({"card": one["card"]}, str(number)), key=f"k{number}")
        for number, one in enumerate(members)
    ]
    async with connection(int(node.url.rpartition(":")[2])) as (reader, writer), asyncio.timeout(10):
        writer.write(requests[0])
        await eventually(so(lambda: bool(taken)))
        writer.write(requests[1] + requests[2][:40])
        writer.write(requests[2][40:])
        answers = [await read_answer(reader) for _ in requests]
    assert [answer.status for answer in answers] == [201, 201, 201]
    assert [answer.json["account"]["member_id"] for answer in answers] == [one["member_id"] for one in members]


@pytest.mark.parametrize(
    ("deadline_ms", "lines"),
    [(2_000, ()), (60_000, ("Loyalty-Deadline-Ms: 2000",))],
    ids=["the node's", "the client's"],
)
async def test_both_ways_tell_what_is_not_known_by_the_deadline(
    database: str, tmp_path: Path, taken: list[bool], deadline_ms: int, lines: tuple[str, ...]
) -> None:
    async with running_command_node(database, tmp_path, deadline_ms=deadline_ms) as node:
        members = [await node.enrol() for _ in range(2)]
        requests = [
            posting(node, PURCHASES, basket({"card": one["card"]}, "1"), *lines, key=one["card"]) for one in members
        ]
        taken.clear()
        async with locked(node):
            answers = await asyncio.gather(asked(node, requests[0]), asked(node, usually(requests[1])))
        for answer in answers:
            assert (answer.status, answer.json["retryable"]) == (503, True)
            assert answer.headers["Retry-After"] == "2"
            assert answer.headers["Content-Type"] == "application/problem+json"
        # The lane decides one batch at a time, so which of them had begun is its affair.
        assert {answer.json["code"] for answer in answers} <= {"unknown_outcome", "shard_unavailable"}
    assert sorted(taken) == [False, True]


@asynccontextmanager
async def locked(node: RunningNode) -> AsyncGenerator[None]:
    """Nobody gets at the journal in this block."""
    connection = await asyncpg.connect(node.dsn)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE journal IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_who_leaves_before_the_lane_begins_has_done_nothing_and_holds_nothing(
    node: RunningNode, taken: list[bool]
) -> None:
    ada = await node.enrol()
    taken.clear()
    async with locked(node):
        first = asyncio.create_task(asked(node, posting(node, PURCHASES, basket({"card": ada["card"]}, "1"), key="a")))
        await eventually(so(lambda: len(taken) == 1))
        async with connection(int(node.url.rpartition(":")[2])) as (_, writer):
            writer.write(posting(node, PURCHASES, basket({"card": ada["card"]}, "2"), key="b"))
            await eventually(so(lambda: len(taken) == 2))
    assert (await first).status == 201
    answer = await asked(node, posting(node, PURCHASES, basket({"card": ada["card"]}, "3"), key="c"))
    assert answer.json["account"]["version"] == 3  # enrolled, "a", "c"
    assert node.inner.lanes_at("", 0).gate.taken == 0
