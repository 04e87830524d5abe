"""The quick way of a request: answered from its bytes, without what aiohttp does for any request.

Only what is plain is taken (see door.py), with none but headers that are known. Whatever the quick way does not answer,
most refusals too, goes the usual way with the same bytes, as if nobody had looked. Both ways give the same answer:
tests hold them to it.
"""

import asyncio
import gzip
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from service.access import id_in_head
from service.admission import Pass
from service.coding import BYTES_MIN, LEVEL, takes_gzip
from service.door import Plain
from service.trial import NodeAnswer

HARMLESS: Final = frozenset(
    b"host connection request-id"  # what they ask for is done here
    b" accept accept-encoding accept-language user-agent cookie keep-alive cache-control pragma priority referer"
    b" forwarded via dnt save-data sec-gpc sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user"
    b" sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform".split()
)
"""Headers that may be sent along, each once, whatever is asked; of others only the usual way knows what they do."""
DEADLINE: Final = b"loyalty-deadline-ms"
FORWARDED: Final = b"loyalty-forwarded"
OF_NODES: Final = frozenset({DEADLINE, FORWARDED})
"""Headers of a node that hands on: who answers needs no more than the deadline of them."""
_OF_PROXIES: Final = (b"x-", b"cf-")
_FIELD: Final = re.compile(rb"\r\n([^:]+):[ \t]*([^\r]*)")
_HOST, _CONNECTION = b"host", b"connection"
_BLANK, _KEPT = b" \t", b"keep-alive"
JSON: Final = "application/json"
_LINE_END: Final = b"\r\n"
_HEADS_MAX: Final = 64
_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
VARY: Final = b"Vary: Accept-Encoding\r\n"
_GZIP: Final = b"Vary: Accept-Encoding\r\nContent-Encoding: gzip\r\n"


class _Asker(Protocol):
    """The connection of a request."""

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """None when it is gone."""

    def answered(self, ask: "Ask", answer: bytes | None, *, closes: bool) -> None:
        """Take the answer."""


class Ask:
    """A plain request that was let in, on a connection that has answered all before it."""

    __slots__ = ("_asker", "data", "held", "plain")

    def __init__(self, data: bytes, plain: Plain, held: Pass, asker: _Asker) -> None:
        """`held` is what it takes of the limits, until it is answered."""
        self.data, self.plain, self.held, self._asker = data, plain, held, asker

    @property
    def head_end(self) -> int:
        """How many bytes the head has, with the empty line."""
        return self.plain.end + len(_LINE_END)

    @property
    def body(self) -> bytes:
        """What follows the head."""
        return self.data[self.head_end :]

    @property
    def body_length(self) -> int:
        """How many bytes follow the head."""
        return len(self.data) - self.head_end

    @property
    def request_id(self) -> str:
        """What the caller calls it, or a new id; to be asked for once."""
        return id_in_head(self.data[: self.plain.end], self.plain.head)

    def fields(self, taken: AbstractSet[bytes]) -> dict[bytes, bytes] | None:
        """The header fields by their names in lower case; None unless each is `taken` or a proxy's, and stands once."""
        head = self.data[: self.plain.end]
        lines = _FIELD.findall(head)
        fields = {name.lower(): value.rstrip(_BLANK) for name, value in lines}
        if len(fields) < len(lines) or _HOST not in fields or not head.isascii():
            return None
        if any(name not in taken and not name.startswith(_OF_PROXIES) for name in fields):
            return None
        return fields if fields.get(_CONNECTION, _KEPT).lower() == _KEPT else None

    def has_left(self) -> bool:
        """Whether the connection is gone: work that has not begun is of use to nobody then."""
        return self._asker.transport is None or self._asker.transport.is_closing()

    def answer(self, answer: bytes | None, *, closes: bool = False) -> None:
        """Send these bytes, once and in a later turn; None: the usual way is to answer. `closes`: nothing follows."""
        self._asker.answered(self, answer, closes=closes)


QUICK: Final[web.AppKey[Callable[[Ask], bool | bytes]]] = web.AppKey("quick")
"""The answer to a request, or whether it will answer it; then it does so whatever happens."""


def render(  # noqa: PLR0913 - the parts of an answer
    status: int, body: bytes, *, content_type: str, region: str, request_id: str, more: bytes = b"", accepted: str = ""
) -> bytes:
    """An answer with the headers that every answer has, and `more` whole lines; compressed as coding.py does it."""
    coding = b""
    if len(body) > BYTES_MIN:
        coding = VARY
        if takes_gzip(accepted):
            coding, body = _GZIP, gzip.compress(body, LEVEL, mtime=0)
    head = _head(status, content_type, region)
    return b"%bRequest-Id: %b\r\n%b%bContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (
        head, request_id.encode(), more, coding, len(body), rfc822_formatted_time().encode(), body,
    )  # fmt: skip


def render_passed_back(answer: NodeAnswer, *, region: str, request_id: str) -> bytes:
    """Another node's answer with the headers that every answer has."""
    told = answer.headers if "Loyalty-Region" in answer.headers else {**answer.headers, "Loyalty-Region": region}
    lines = "".join([f"{name}: {value}\r\n" for name, value in told.items()])
    ending = "" if answer.status == HTTPStatus.NOT_MODIFIED else f"Content-Length: {len(answer.body)}\r\n"
    head = (
        f"HTTP/1.1 {answer.status} {_phrase(answer.status)}\r\n{lines}Server: loyalty\r\n"
        f"Request-Id: {request_id}\r\n{ending}Date: {rfc822_formatted_time()}\r\n\r\n"
    )
    return head.encode("latin-1") + answer.body


@lru_cache(maxsize=_HEADS_MAX)
def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in _STATUSES else ""


@lru_cache(maxsize=_HEADS_MAX)
def _head(status: int, content_type: str, region: str) -> bytes:
    phrase = HTTPStatus(status).phrase
    first = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n"
    return f"{first}Server: loyalty\r\nLoyalty-Region: {region}\r\n".encode()
