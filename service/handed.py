"""What a request says that one node hands to another: the mark of a node of ours, its id, and how long it has left.

The mark stands under sender, method, target and id: nobody else can make one, or use it for another request.
"""

import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from service.credential import Credentials
from service.problem import REQUEST_ID
from service.web import CREDENTIALS, PASS
from shard_router.errors import ProblemError

FORWARDED_HEADER: Final = "Loyalty-Forwarded"
DEADLINE_HEADER: Final = "Loyalty-Deadline-Ms"
_PASSED_ON: Final = (
    "Authorization", "Content-Type", "Idempotency-Key", "Consistency-Token", "If-None-Match", "Last-Event-ID", "Accept",
    "traceparent", "tracestate",
)  # fmt: skip
_QUICKLY_PASSED_ON: Final = {name.lower().encode(): name for name in (*_PASSED_ON, "Accept-Encoding")}
_WHOLE: Final = {"Accept-Encoding": "identity"}
"""What comes is handed on as it is, so only who asked may have it packed."""


def passed_on(request: web.Request) -> dict[str, str]:
    """The headers of a request that go along, but for those of a node."""
    # What stands there twice is one list (RFC 9110, 5.3): the home node is to see all of it.
    headers = request.headers
    kept = {name: ", ".join(headers.getall(name)) for name in _PASSED_ON if name in headers}
    kept["Accept-Encoding"] = headers.get("Accept-Encoding", "identity")
    return kept


def quickly_passed_on(given: Mapping[bytes, bytes]) -> dict[str, str]:
    """The same of a plain request, by names in lower case (see Ask.fields)."""
    names = _QUICKLY_PASSED_ON
    return _WHOLE | {names[name]: value.decode("ascii") for name, value in given.items() if name in names}


def marked(credentials: Credentials, region: str, method: str, target: str, request_id: str) -> dict[str, str]:
    """The headers by which a node of a region tells what it hands on."""
    mark = credentials.sign(_signed(region, method, target, request_id))
    return {FORWARDED_HEADER: f"{region};{mark}", "Request-Id": request_id}


def is_forwarded(request: web.Request) -> bool:
    """Whether a node of ours has forwarded this request. What a stranger says about that is nothing."""
    region, _, mark = request.headers.get(FORWARDED_HEADER, "").partition(";")
    message = _signed(region, request.method, target_of(request), request[REQUEST_ID])
    return bool(mark) and request.app[CREDENTIALS].is_signed(message, mark)


def refuse_twice(request: web.Request) -> None:
    """Pass for what no node has handed on yet."""
    if is_forwarded(request):
        raise ProblemError("shard_unavailable", "nodes disagree about this member's home; retry")


def method_of(request: web.Request) -> str:
    """HEAD is asked as GET: the answer is to have the same headers, and our server leaves the body out."""
    return "GET" if request.method == "HEAD" else request.method


def target_of(request: web.Request) -> str:
    """Path and query as they came, of an absolute target too: whom it named is no concern of the home node."""
    return request.rel_url.raw_path_qs


def deadline_of(request: web.Request, *, deadline_ms: int) -> float:
    """The monotonic instant by which a request must be answered: the node's limit, or less when the caller says so."""
    if PASS in request and (tried := request[PASS].tried):
        return tried.deadline
    return time.monotonic() + left_ms(request.headers.get(DEADLINE_HEADER, ""), deadline_ms) / 1000


def left_ms(given: str, deadline_ms: int) -> int:
    """How long a request has that came with this header: what is no number says nothing."""
    return min(int(given), deadline_ms) if given.isascii() and given.isdigit() and len(given) < 9 else deadline_ms  # noqa: PLR2004


def has_left(request: web.Request) -> bool:
    """Whether the connection on which the answer would go is gone: work that has not begun is of use to nobody then."""
    transport = request.transport
    return transport is None or transport.is_closing()


def _signed(region: str, method: str, target: str, request_id: str) -> str:
    """What a forwarding node puts its mark under."""
    return f"{region}\n{method}\n{target}\n{request_id}"
