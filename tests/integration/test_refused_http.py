"""What is refused before or while a request is read, over real sockets: always a problem document, never for long."""

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog.testing

from tests.http_node import BODY_BYTES_MAX as LIMIT
from tests.http_node import Answer, Node, connection, running_node

BOMB = gzip.compress(b"0" * 50 * LIMIT)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncGenerator[Node]:
    async with running_node(tmp_path) as running:
        yield running


def check(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.body
    assert (answer.json["status"], answer.json["code"]) == (status, code)
    assert answer.headers["Request-Id"] == answer.json["request_id"]
    assert (code == "malformed") is ("errors" in answer.json), answer.body  # where it is, be it the whole
    assert (answer.headers["Loyalty-Region"], answer.headers["Server"]) == ("eu", "loyalty")


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"{}" + b" " * 1000, "identity"),
        (gzip.compress(b"{}" + b" " * 1000), "gzip"),
        (gzip.compress(b"{}" + b" " * 1000), "GZIP"),
        (zlib.compress(b"{}" + b" " * 1000), "deflate"),
    ],
    ids=["plain", "gzip", "in capitals", "deflate"],
)
async def test_a_body_is_read_plain_or_inflated(node: Node, body: bytes, coding: str) -> None:
    answer = await node.send(node.request(body, f"Content-Encoding: {coding}"))
    assert (answer.status, answer.json) == (200, {"bytes": 1002})


WHOLE = gzip.compress(b'{"a": 1}')


MISFITS = {
    "garbage": (b"garbage", "gzip", 400, "malformed"),
    "garbage to be inflated": (b"garbage", "deflate", 400, "malformed"),
    "the end is missing": (WHOLE[:-4], "gzip", 400, "malformed"),
    "something follows": (WHOLE + b"more", "gzip", 400, "malformed"),
    "brotli": (b"x", "br", 415, "unsupported_media_type"),
    "zstandard": (b"x", "zstd", 415, "unsupported_media_type"),
    "nonsense": (b"x", "nonsense", 415, "unsupported_media_type"),
    "twice": (WHOLE, "gzip, gzip", 415, "unsupported_media_type"),
    "a byte too much": (gzip.compress(b" " * (LIMIT + 1)), "gzip", 413, "too_large"),
}


@pytest.mark.parametrize("name", MISFITS)
async def test_a_body_that_is_not_what_its_encoding_says_is_refused_as_any_other(node: Node, name: str) -> None:
    body, coding, status, code = MISFITS[name]
    check(await node.send(node.request(body, f"Content-Encoding: {coding}")), status, code)


@pytest.mark.parametrize("length", [LIMIT + 1, 10**10])
async def test_a_body_that_says_it_is_too_long_is_not_waited_for(node: Node, length: int) -> None:
    check(await node.send(node.request(b"", f"Content-Length: {length}")), 413, "too_large")


async def test_a_body_that_fills_the_limit_when_inflated_is_taken(node: Node) -> None:
    answer = await node.send(node.request(gzip.compress(b" " * LIMIT), "Content-Encoding: gzip"))
    assert answer.json == {"bytes": LIMIT}


@pytest.mark.parametrize("credential", ["Bearer", "Beggar"])
async def test_a_bomb_of_fifty_mebibytes_is_inflated_no_further_than_the_limit(node: Node, credential: str) -> None:
    request = node.request(BOMB, "Content-Encoding: gzip").replace(b"Bearer", credential.encode())
    tracemalloc.start()
    answer = await node.send(request)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    check(answer, *((413, "too_large") if credential == "Bearer" else (401, "unauthenticated")))
    assert peak_bytes < 4 * LIMIT


NO_HTTP = {
    "a word": b"GARBAGE\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\n\r\n",
    "a method nobody knows": b"FOO /bytes HTTP/1.1\r\nHost: node\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "no address": b"GET http://[::x/ HTTP/1.1\r\nHost: node\r\n\r\n",
    "bytes in the address": b"GET /\xff\xfe HTTP/1.1\r\nHost: node\r\n\r\n",
    "a line too long": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: node\r\n\r\n",
    "a header too long": b"GET /livez HTTP/1.1\r\nHost: node\r\nAuthorization: loy_" + b"a" * 9000 + b"\r\n\r\n",
    "too many headers": b"GET /livez HTTP/1.1\r\nHost: node\r\n" + b"A: a\r\n" * 200 + b"\r\n",
    "a header without a name": b"GET /livez HTTP/1.1\r\nHost: node\r\nA b: c\r\n\r\n",
    "NUL in a header": b"GET /livez HTTP/1.1\r\nHost: node\r\nA: \x00\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_no_http_gets_a_problem_document_that_quotes_nothing_of_it(node: Node, name: str) -> None:
    with structlog.testing.capture_logs() as logged:
        answer = await node.send(NO_HTTP[name])
    check(answer, 400, "malformed")
    assert "aaaa" not in answer.json["detail"]
    assert logged == []


LENGTHS = {
    "no number": "Content-Length: x",
    "negative": "Content-Length: -2",
    "beyond counting": "Content-Length: 99999999999999999999999",
    "two": "Content-Length: 2\r\nContent-Length: 3",
    "length and chunks": "Transfer-Encoding: chunked\r\nContent-Length: 2",
    "a coding that does not end": "Transfer-Encoding: gzip",
    "an expectation nobody can meet": "Expect: tea",
}


@pytest.mark.parametrize("name", LENGTHS)
async def test_a_head_that_contradicts_itself_or_wants_the_impossible_is_malformed(node: Node, name: str) -> None:
    check(await node.send(node.request(b"{}", LENGTHS[name])), 400, "malformed")


async def test_a_chunk_that_is_none_is_malformed_at_once_and_later_when_the_time_for_bodies_is_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.payload._TIMEOUT_S", 0.2)  # aiohttp tells nobody who reads already
    head = node.request(b"", "Transfer-Encoding: chunked")
    with structlog.testing.capture_logs() as logged:
        check(await node.send(head + b"zz\r\n{}\r\n0\r\n\r\n"), 400, "malformed")
        check(await node.send(head + b"2\r\n{}\r\n", b"zz\r\n"), 400, "malformed")
        check(await node.send(head, b"2\r\n{}zz\r\n"), 400, "malformed")
    assert logged == []


async def test_whoever_leaves_in_the_middle_of_his_body_troubles_nobody(node: Node) -> None:
    with structlog.testing.capture_logs() as logged:
        async with connection(node.port) as (_, writer):
            writer.write(node.request(b"{", "Content-Length: 2"))
            await writer.drain()
        assert (await node.send(node.request(b"{}"))).status == 200
    assert logged == []


async def test_an_expected_continue_is_told_and_a_method_of_no_route_is_refused(node: Node) -> None:
    assert (await node.send(node.request(b"{}", "Expect: 100-continue"))).json == {"bytes": 2}
    check(await node.send(node.request(b"{}", method="PURGE")), 405, "method_not_allowed")


async def test_a_method_of_no_route_is_told_which_there_are(node: Node) -> None:
    answer = await node.send(node.request(b"", method="DELETE", target="/thing"))
    check(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET,HEAD"


async def test_a_method_that_an_open_resource_lacks_is_told_without_a_credential(node: Node) -> None:
    for method in ("POST", "DELETE", "OPTIONS"):
        answer = await node.send(f"{method} /livez HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n".encode())
        check(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("target", "status"), [("/nothing", 404), ("/thing?c=1", 400), ("/bytes", 405)])
async def test_what_was_refused_is_kept_by_no_cache(node: Node, method: str, target: str, status: int) -> None:
    """Whom a look-up does not find may have enrolled a moment later."""
    answer = await node.send(node.request(b"", method=method, target=target), bodiless=method == "HEAD")
    assert (answer.status, answer.headers["Cache-Control"]) == (status, "no-store")


@pytest.mark.parametrize("authorization", ["", "Authorization: Basic eA==", "Authorization: Bearer a.b.c"])
async def test_who_is_not_known_is_told_how_to_say_who_they_are(node: Node, authorization: str) -> None:
    answer = await node.send(f"GET /thing HTTP/1.1\r\nHost: node\r\n{authorization}\r\n\r\n".encode())
    check(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="loyalty"'


@pytest.mark.parametrize("target", ["/thing?a=1", "/livez", "/readyz?verbose", "/nothing"])
async def test_head_answers_like_get_without_the_body(node: Node, target: str) -> None:
    got = await node.send(node.request(b"", method="GET", target=target))
    head = await node.send(node.request(b"", method="HEAD", target=target), bodiless=True)
    volatile = {"Date", "Request-Id"}
    assert head.status == got.status
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in got.headers.items() if k not in volatile
    }


@pytest.mark.parametrize("target", ["/thing?a=1&a=2", "/thing?a=1&a=1", "/thing?b&a=1&b"])
async def test_a_parameter_is_sent_once(node: Node, target: str) -> None:
    answer = await node.send(node.request(b"", method="GET", target=target))
    check(answer, 400, "malformed")
    assert answer.json["errors"][0]["detail"] == "send it once"


TARGETS = {
    "absolute": ("GET http://elsewhere/thing?a=1 HTTP/1.1", 200),
    "absolute with a port and a user": ("GET https://u:p@elsewhere:1/thing?a=1 HTTP/1.1", 200),
    "absolute without a path": ("GET http://elsewhere HTTP/1.1", 404),
    "authority": ("CONNECT elsewhere:80 HTTP/1.1", 404),
    "asterisk": ("OPTIONS * HTTP/1.1", 404),
}


@pytest.mark.parametrize("name", TARGETS)
async def test_targets_of_every_form_are_served_or_refused(node: Node, name: str) -> None:
    line, status = TARGETS[name]
    request = node.request(b"", method="GET", target="/thing").replace(b"GET /thing HTTP/1.1", line.encode())
    answer = await node.send(request)
    assert answer.status == status, answer.body
    if status == 200:
        assert answer.json == {"query": {"a": "1"}}


@pytest.mark.parametrize("name", ["x" * 7_000, "a\u202eb"])
async def test_what_was_sent_is_not_sent_back_at_length_nor_to_deceive(node: Node, name: str) -> None:
    answer = await node.send(node.request(b"", method="GET", target=f"/thing?{quote(name)}=1"))
    check(answer, 400, "malformed")
    assert len(answer.body) < 1_500
    assert "\u202e" not in answer.body.decode()
