"""Requests as no good client writes them, put together by chance, and what a node says to each and to the next one."""

import asyncio
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.http_node import connection, read_answer

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n"

LINE_MAX = 8_190  # what aiohttp takes of a line

LINES: Sequence[str] = (
    "Host: node", "Host: node", "Host:", "Host: ", "Host: a b", "Host: [::1", "Host: user@node:99999", "host: node",
    "Accept: */*", "Accept: text/html;q=0", "Accept-Encoding: gzip, br", "Accept-Encoding: gzip;q=0, *;q=1",
    "Accept-Language: de", "User-Agent: till/1", "User-Agent:", "User-Agent: \t ", "Cookie: a=b; c", "Range: bytes=0-1",
    "Connection: keep-alive", "Connection: Keep-Alive", "Connection: keep-alive ", "Connection: close",
    "connection: CLOSE", "Connection: keep-alive, close", "Connection: close, keep-alive", "Connection: te",
    "Connection: upgrade", "Connection:keep-alive", "Connection:\tclose", "Connection: \tclose", "Connection:",
    "Proxy-Connection: close", "Proxy-Connection: keep-alive", "Keep-Alive: timeout=0", "TE: trailers", "Trailer: X",
    "Upgrade: websocket", "Upgrade: h2c", "HTTP2-Settings: AAAA", "Expect: 100-continue", "Expect: tea",
    "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Transfer-Encoding:", "transfer-encoding: gzip",
    "Content-Length: 0", "Content-Length: 00", "Content-Length: -1", "Content-Length: +0", "Content-Length: 0 ",
    "Content-Length : 0", "Content-Length: 0, 0", "Content-Length:", "content-length: 0", "Content-Type: a/b",
    "Content-Encoding: gzip", "If-Match: *", "If-None-Match: *", 'If-None-Match: W/"3"', 'If-None-Match: W/"2"',
    'If-None-Match: "3"', 'If-None-Match: w/"3"', 'If-None-Match: W/"03"', 'If-None-Match: W/"3" ',
    'If-None-Match:\tW/"3"', 'If-None-Match:W/"3"', "If-None-Match: W/3", "If-None-Match:", "If-None-Match: ",
    'If-None-Match: "*"', 'If-None-Match: W/"2", W/"3"', 'If-None-Match: W/"99999999999999999999"',
    "If-Modified-Since: now",
    "Request-Id: mine", "Request-Id: other", "Request-Id: mine ", "Request-Id:  mine", "Request-Id:\tmine",
    "Request-Id:mine", "Request-Id: a b", "Request-Id: \xe4", "Request-Id: ", "request-id: MINE",
    f"Request-Id: {'x' * 64}", f"Request-Id: {'x' * 65}", "X-Request-Id: mine",
    f"traceparent: 00-{'1' * 32}-{'2' * 16}-01", f"traceparent: 00-{'0' * 32}-{'2' * 16}-01", "traceparent: x",
    f"Traceparent:  00-{'3' * 32}-{'2' * 16}-01 ", "tracestate: a=b", "Origin: null", "Origin: https://a.example",
    "Access-Control-Request-Method: GET", "Loyalty-Deadline-Ms: 3000", "Loyalty-Deadline-Ms: x",
    "Loyalty-Deadline-Ms:", "Loyalty-Deadline-Ms: 9999999999", "Loyalty-Forwarded: 1",
    "Loyalty-Region: us", "Idempotency-Key: k", "Last-Event-ID: 3", "Consistency-Token: x", "Consistency-Token:",
    "Authorization: Bearer x", "Authorization:", "Authorization: Basic eA==", "X-Authorization: Bearer x",
    "Proxy-Authorization: Bearer x", "X-HTTP-Method-Override: DELETE", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=x",
    "X-Odd: \x01", "X-Odd: \x7f", "X-Odd: \xff\xfe", "X-Odd: a\tb", "X-Odd: a\nb", "X-Odd: a\rb", "X Odd: 1", "X-Odd",
    "X_Odd: 1", "X.Odd!#$%&'*+^`|~: 1", "X-Odd : 1", "X-Odd:: 1", ": 1", " folded", "\tfolded", "X-(Odd): 1", '"X": 1',
    f"X-Long: {'x' * (LINE_MAX - 1)}", f"X-Long: {'x' * (LINE_MAX - 10)}", f"X-Long: {'x' * LINE_MAX}",
    f"{'X' * LINE_MAX}: 1", f"X-Long: {'x' * 5_000}", "\r\n".join(["X-Many: 1"] * 100), "\r\n".join(["A: 1"] * 140),
)  # fmt: skip

ENDS: Sequence[str] = ("\n", "\r", "\r\r\n", " \r\n", "\t\r\n")
BEGINS: Sequence[str] = ("\r\n", "\n", " ")
METHODS: Sequence[str] = ("HEAD", "get", "OPTIONS", "POST")
VERSIONS: Sequence[str] = ("HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/1.1 ", "HTTP/2.0")


_MADE = re.compile("[0-9a-f]{16}")
_MADE_IN_BODY = re.compile(rb'(?<="request_id":")[0-9a-f]{16}(?=")')


class Plain(NamedTuple):
    """What is asked for. Of each list the first is as it should be; `lines` are lists of header lines."""

    method: str
    targets: Sequence[str]
    lines: Sequence[Sequence[str]]
    bodies: Sequence[bytes] = (b"",)


def odd_request(chance: random.Random, plain: Plain) -> bytes:
    """One of these that is odd in one way, or in some."""
    lists = (plain.targets, *plain.lines)
    target, *lines = (chance.choice(some) if _is_odd(chance, 4 * len(lists)) else some[0] for some in lists)
    lines += [chance.choice(LINES) for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 3)))]
    body = chance.choice(plain.bodies) if _is_odd(chance, 2) else plain.bodies[0]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    if not _is_odd(chance, 16):
        lines.append("Host: node")
    chance.shuffle(lines)
    begin, end, method, version = "", "\r\n", plain.method, "HTTP/1.1"
    if _is_odd(chance, 8):
        begin, end, method, version = chance.choice(
            [(one, end, method, version) for one in BEGINS]
            + [(begin, one, method, version) for one in ENDS]
            + [(begin, end, one, version) for one in METHODS]
            + [(begin, end, method, one) for one in VERSIONS]
        )
    ends = [end, *("\r\n" for _ in lines)]
    chance.shuffle(ends)
    parts = zip([f"{begin}{method} {target} {version}", *lines], ends, strict=True)
    head = "".join(line + end for line, end in parts)
    if ": chunked" in head and not body:
        body = b"0\r\n\r\n"
    return f"{head}\r\n".encode("latin-1") + body


async def converse(port: int, request: bytes) -> list[Any]:
    """What a request is answered, and what another one after it on the same connection; made ids look alike."""
    async with connection(port) as (reader, writer), asyncio.timeout(10):
        writer.write(request)
        answer = await read_answer(reader, bodiless=request.startswith(b"HEAD"))
        headers = {name.lower(): _MADE.sub("made", value) for name, value in answer.headers.items()}
        body = _MADE_IN_BODY.sub(b"made", answer.body)
        try:
            writer.write(LIVEZ)
            after = (await read_answer(reader)).status
        except (asyncio.IncompleteReadError, ConnectionError):
            after = None
    headers.pop("date", None)
    return [answer.status, headers, body, after]


def _is_odd(chance: random.Random, one_in: int) -> bool:
    return chance.randrange(one_in) == 0
