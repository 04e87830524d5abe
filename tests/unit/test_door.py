"""What the door sees in bytes that nobody has parsed: where a request ends, its class, and when it cannot tell."""

import asyncio
import json
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from service.admission import Gates, Pass, Rank
from service.door import Door, Path, raised, read_plain

PATHS = (
    Path("POST", "/v1/purchases", Rank.EARN),
    Path("POST", "/v1/purchases/{purchase_id:[^/]+}/returns", Rank.SPEND),
    Path("GET", "/v1/members/{member_id}/activity", Rank.REPORT),
)


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{line} HTTP/1.1", "Host: node", *headers, *length, "", ""]).encode() + body


def asked(data: bytes, prepare: Callable[[Gates], None] = lambda _: None) -> Pass | bytes | None:
    async def ask() -> Pass | bytes | None:
        gates = Gates(100, CollectorRegistry())
        prepare(gates)
        plain = read_plain(data)
        return plain and Door(gates, PATHS, "eu").ask(data, plain)

    return asyncio.run(ask())


def fill(gates: Gates) -> None:
    gates.node.taken = 10_000


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        ("POST /v1/purchases", Rank.EARN),
        ("POST /v1/purchases/pur_X-7/returns", Rank.SPEND),
        ("GET /v1/members/0C1G0000000000/activity?page_size=5", Rank.REPORT),
    ],
)
def test_a_known_path_has_its_class(line: str, rank: Rank) -> None:
    held = asked(request(line))
    assert isinstance(held, Pass)
    assert held.rank is rank


@pytest.mark.parametrize("line", ["GET /livez", "GET /v1/purchases", "POST /v1/purchases/a/b/returns", "POST /v1/x"])
def test_what_is_not_shed_goes_the_usual_way(line: str) -> None:
    assert asked(request(line), fill) is None


@pytest.mark.parametrize(
    "headers",
    [
        ("Transfer-Encoding: chunked",),
        ("Expect: 100-continue",),
        ("Upgrade: h2c",),
        ("content-length: 2", "Content-Length: 2"),
        ("Content-Length: +2",),
        ("Content-Length: 0x2",),
    ],
)
def test_where_only_a_parser_knows_the_end_the_door_says_nothing(headers: tuple[str, ...]) -> None:
    assert read_plain(request("POST /v1/purchases", *headers) + b"{}") is None


@pytest.mark.parametrize(
    "data", [b"", b"GET", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: a\r\n", request("GET /a") * 2]
)
def test_half_a_head_and_two_requests_are_not_plain(data: bytes) -> None:
    assert read_plain(data) is None


@pytest.mark.parametrize(
    "line",
    [
        "Content-Length : 2", " Content-Length: 2", "\tfolded", "no colon", ": no name", "X Odd: 1", "X-Odd: \x00",
        "X-Odd: a\nContent-Length: 2", "X-Odd: a\rContent-Length: 2", f"X-Long: {'x' * 8_190}",
        "\r\n".join(["A: 1"] * 128),
    ],
)  # fmt: skip
def test_what_parsers_read_in_two_ways_is_not_plain(line: str) -> None:
    assert read_plain(request("GET /v1/rewards", line)) is None
    assert read_plain(request("GET /v1/rewards", "X_Odd!: \xfc\t,")) is not None


def test_a_body_that_is_still_to_come_is_counted() -> None:
    plain = read_plain(request("POST /v1/purchases", body=b"x" * 10)[:-4])
    assert plain is not None
    assert plain.rest == 4


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        (("Request-Id: till-7",), "till-7"),
        (("Request-Id: \t till-7 \t",), "till-7"),
        (("Request-Id: till-7", "Request-Id: till-8"), "till-7"),
        (("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",), "4bf92f3577b34da6a3ce929d0e0e4736"),
    ],
)
def test_a_refusal_is_a_whole_problem_answer_that_names_the_request(headers: tuple[str, ...], request_id: str) -> None:
    answer = asked(request("POST /v1/purchases", *headers, body=b"{}"), fill)
    assert isinstance(answer, bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert head.startswith(b"HTTP/1.1 503 ")
    assert int(lines["Content-Length"]) == len(body)
    assert (lines["Retry-After"], lines["Request-Id"], lines["Loyalty-Region"]) == ("1", request_id, "eu")
    document = json.loads(body)
    assert (document["code"], document["retryable"], document["request_id"]) == ("overloaded", True, request_id)


def test_a_page_of_another_origin_gets_its_headers_the_usual_way() -> None:
    assert asked(request("POST /v1/purchases", "Origin: https://app.example"), fill) is None


def test_a_basket_that_spends_is_a_spend() -> None:
    assert raised(Rank.EARN, b'{"capture_holds": ["hld_1"]}') is Rank.SPEND
    assert raised(Rank.EARN, b'{"pay_with_points": {"points": 1}}') is Rank.SPEND
    assert raised(Rank.EARN, b"{}") is Rank.EARN
    head = b'X-Words: "capture_holds"\r\n\r\n'
    assert raised(Rank.EARN, head + b"{}", len(head)) is Rank.EARN
