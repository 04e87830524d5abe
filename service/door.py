"""Refuses requests that a limit has no room for before anything is parsed: a no must cost less than what is done.

Under ten times the load nine of ten requests are refused. What aiohttp does for one (parser, task, request, answer) is
a good part of what a command takes; here it is a search in the bytes and one write. Only what is plain is answered
here: one whole request of a known path, alone on its connection. All else goes the usual way, which asks the same
limits.
"""

import itertools
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

import orjson
from aiohttp.helpers import rfc822_formatted_time

from service.access import id_in_head
from service.admission import Gates, Pass, Rank, overloaded
from service.problem import problem_document

_HEAD_END: Final = b"\r\n\r\n"
_HEAD: Final = re.compile(
    rb"[A-Z]++ [!-~]++ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n){1,100}+"
)
"""A request line and header fields by the letter of RFC 9112: what a parser may take otherwise is left to a parser."""
_HEAD_BYTES_MAX: Final = 8_190  # aiohttp refuses a longer line, and more than 128 of them
_TOLD: Final = re.compile(
    rb"\r\n(content-length:|transfer-encoding|upgrade|expect|origin|connection:(?= *close))(?: *([0-9]{1,9})(?=\r\n))?"
)
"""What is looked for in a head, in one go; the number that follows is a length."""
_LENGTH: Final = b"content-length:"
_NOT_PLAIN: Final = frozenset({b"transfer-encoding", b"upgrade", b"expect"})
_NOT_HERE: Final = frozenset({b"origin", b"connection:"})
"""Headers whose answer has more to it."""
_CAPTURING: Final = b'"capture_holds"'
_PAYING: Final = b'"pay_with_points"'
_PARAMETER: Final = re.compile(r"{\w+(?::[^{}]*)?}")
_SEGMENT: Final = r"[^/?\\s]+"
_NAMES_MAX: Final = 256  # one for each limit of a node


class Path(NamedTuple):
    """A path that is shed by rank; `{...}` in it is any one segment."""

    method: str
    template: str
    rank: Rank


class Plain(NamedTuple):
    """A request's head in lower case, where it ends in the bytes, and how many bytes of its body are still to come.

    `told` are those of its headers that matter here.
    """

    head: bytes
    end: int
    rest: int
    told: list[bytes]


class Door:
    """The door of a node with these paths."""

    def __init__(self, gates: Gates, paths: Iterable[Path], region: str) -> None:
        self._gates, self._region = gates, region
        by_rank = itertools.groupby(sorted(paths, key=lambda path: path.rank), key=lambda path: path.rank)
        groups = [f"(?P<{rank.name}>{'|'.join(map(_pattern, some))})" for rank, some in by_rank]
        self._ranks = {rank.name: rank for rank in Rank}
        self._known = re.compile(f"(?:{'|'.join(groups) or '(?!)'})(?:\\?\\S*)? HTTP/1\\.1(?=\r\n)".encode())

    def ask(self, data: bytes, plain: Plain) -> Pass | bytes | None:
        """What is held for a whole request, or the answer that refuses it; None where the usual way decides."""
        known = self._known.match(data)
        if known is None or plain.rest or not _NOT_HERE.isdisjoint(plain.told):
            return None
        entered = self._gates.ask(raised(self._ranks[known.lastgroup or ""], data, plain.end), data, plain.end)
        if isinstance(entered, str):
            return _refusal(entered, self._region, id_in_head(data[: plain.end], plain.head))
        return entered


def read_plain(data: bytes) -> Plain | None:
    """Where a request ends that begins with these bytes; None when only a parser can tell, or nobody yet."""
    end = data.find(_HEAD_END, 0, _HEAD_BYTES_MAX) + 2
    if end < len(_HEAD_END) or not _HEAD.fullmatch(data, 0, end):
        return None
    head = data[:end].lower()
    length, told = None, list[bytes]()
    for name, number in _TOLD.findall(head):
        if name != _LENGTH:
            told.append(name)
        elif number and length is None:
            length = int(number)
        else:
            return None
    rest = end + 2 + (length or 0) - len(data)
    return Plain(head, end, rest, told) if rest >= 0 and _NOT_PLAIN.isdisjoint(told) else None


def may_go_on(data: bytes) -> bool:
    """Whether these bytes are the begin of a head that may become plain."""
    return len(data) < _HEAD_BYTES_MAX and _HEAD_END not in data


def raised(rank: Rank, data: bytes, body_at: int = 0) -> Rank:
    """The class of a request whose body begins there: an earn that spends points too is a spend."""
    if rank is not Rank.EARN:
        return rank
    spends = data.find(_CAPTURING, body_at) >= 0 or data.find(_PAYING, body_at) >= 0
    return Rank.SPEND if spends else rank


def _pattern(path: Path) -> str:
    return f"{path.method} {_PARAMETER.sub(_SEGMENT, path.template)}"


def _refusal(full: str, region: str, request_id: str) -> bytes:
    """The bytes of the answer where the limit of this name is reached, as the usual way gives it."""
    head, body_before, body_after = _parts(full, region)
    given = request_id.encode()
    length = len(body_before) + len(given) + len(body_after)
    return b"%b\r\nRequest-Id: %b\r\nContent-Length: %d\r\nDate: %b\r\n\r\n%b%b%b" % (
        head, given, length, rfc822_formatted_time().encode(), body_before, given, body_after,
    )  # fmt: skip


@lru_cache(maxsize=_NAMES_MAX)
def _parts(full: str, region: str) -> tuple[bytes, bytes, bytes]:
    """Status line and headers, and what comes before and after the request id in the body."""
    error = overloaded(full)
    document = problem_document(error, "")
    rest = {name: value for name, value in document.items() if name != "request_id"}
    before, after = orjson.dumps(rest)[:-1] + b',"request_id":"', b'"}'
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
        f"Retry-After: {error.problem.retry_after_s}\r\nServer: loyalty\r\nLoyalty-Region: {region}"
    )
    return head.encode(), before, after
