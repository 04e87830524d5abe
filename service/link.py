"""Connections kept to other nodes, each for one request at a time: as much of HTTP/1.1 as a request handed on needs.

Only a connection that stands is given out; one that is missing is opened meanwhile, for the next. An answer is taken
that tells its length as our nodes do. Whatever else comes, or breaks off, ends the connection, so no answer is ever
taken for another's; who asked is told, and the usual client is to ask.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final, cast
from urllib.parse import urlsplit

from service.trial import PASSED_BACK, NodeAnswer

LINKS_MAX: Final = 128
"""To one node: as many as the bulkhead lets to its region, of the places there usually are."""
OPENING_MAX: Final = 8
IDLE_S: Final = 20.0
"""A node keeps a connection that asks nothing for 75 s, proxies for 60 s: ours are closed before."""
LOOK_S: Final = 5.0
CONNECT_S: Final = 0.5  # as forward.py gives it
REST_S: Final = 60.0
"""How long a node whose answer could not be read is left to the usual client: what it does once it does always."""
HEAD_BYTES_MAX: Final = 16_384
BODY_BYTES_MAX: Final = 262_144
"""An answer about a member is a few kilobytes. A larger one is the usual client's, too."""

_BEGIN: Final = b"HTTP/1.1 "
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([1-5][0-9]{2}) [^\r\n]*\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)*+)\r\n"
)
_HEAD_END: Final = b"\r\n\r\n"
_FIELD: Final = re.compile(rb"([^:]+):[ \t]*([^\r]*)\r\n")
_BLANK: Final = b" \t"
_DIGITS: Final = re.compile(rb"[0-9]{1,9}[ \t]*")
_BACK: Final = {name.lower().encode(): name for name in PASSED_BACK}
_INTERIM, _SWITCHES, _OK = 100, 101, 200
_EMPTY: Final = frozenset({204, 304})


class LinkError(Exception):
    """A connection ended before an answer was whole."""


class StaleLinkError(LinkError):
    """One that has served ended before anything of an answer came: most likely it was closed for being idle."""


class UnreadableError(LinkError):
    """An answer came that is none that is taken here."""


Told = Callable[[NodeAnswer | LinkError | None], None]
"""Takes an answer, or why there is none; before that None, once, when it is late."""


class Links:
    """The connections of one node to others."""

    def __init__(self, *, late_s: float) -> None:
        """`late_s` is how long an answer takes that is late."""
        self._late_s = late_s
        self._all = defaultdict[str, set[Link]](set)
        self._idle = defaultdict[str, list[Link]](list)
        self._opening = dict[asyncio.Task[None], str]()
        self._unreadable = dict[str, float]()
        self.awaited = dict[Link, float]()
        """Those that are to answer and are not late yet, and since when, the oldest first."""
        self._timers = dict[Callable[[], None], asyncio.TimerHandle]()

    def take(self, node: str) -> "Link | None":
        """A connection to a node, an `http` address, that nobody uses; None while there is none, which opens one."""
        idle = self._idle[node]
        while idle:
            link = idle.pop()
            if link.stands:
                return link
        self._open(node)
        return None

    def put_back(self, link: "Link", node: str) -> None:
        """Keep a connection for the next request."""
        self._idle[node].append(link)
        self.after(LOOK_S, self._close_idle)

    def forget(self, link: "Link", node: str) -> None:
        """Let go of one that is no more."""
        self._all[node].discard(link)
        self.awaited.pop(link, None)
        if link in self._idle[node]:
            self._idle[node].remove(link)

    def leave_alone(self, node: str) -> None:
        """Have the usual client ask a node for some time."""
        self._unreadable[node] = asyncio.get_running_loop().time() + REST_S

    def wait_for(self, link: "Link") -> None:
        """Tell when a link is late."""
        self.awaited[link] = asyncio.get_running_loop().time()
        self.after(self._late_s, self._tell_late)

    def after(self, pause_s: float, look: Callable[[], None]) -> None:
        """Look after a pause, unless that is going to happen anyway."""
        if look not in self._timers:
            self._timers[look] = asyncio.get_running_loop().call_later(pause_s, self._look, look)

    def close(self) -> None:
        """Hang up; nobody is told anything more."""
        for task in self._opening:
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()
        for link in [link for links in self._all.values() for link in links]:
            link.abort()

    def _look(self, look: Callable[[], None]) -> None:
        del self._timers[look]
        look()

    def _tell_late(self) -> None:
        now = asyncio.get_running_loop().time()
        for link, since in list(self.awaited.items()):
            if now - since < self._late_s:
                self.after(since + self._late_s - now, self._tell_late)
                return
            del self.awaited[link]
            link.is_late()

    def _close_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        for links in list(self._idle.values()):
            for link in [link for link in links if now - link.idle_since >= IDLE_S]:
                link.abort()
        if any(self._idle.values()):
            self.after(LOOK_S, self._close_idle)

    def _open(self, node: str) -> None:
        opening = sum(one == node for one in self._opening.values())
        loop = asyncio.get_running_loop()
        if opening >= OPENING_MAX or opening + len(self._all[node]) >= LINKS_MAX or not node.startswith("http://"):
            return
        if self._unreadable.get(node, 0.0) > loop.time():
            return
        task = loop.create_task(self._connect(node))
        self._opening[task] = node
        task.add_done_callback(lambda done: self._opening.pop(done, None))

    async def _connect(self, node: str) -> None:
        where = urlsplit(node)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: Link(self, node, where.netloc), where.hostname or "", where.port or 80
                )
        except (OSError, TimeoutError):
            return  # the usual client meets it too, and knows what follows

    def connected(self, link: "Link", node: str) -> None:
        """Know a connection that stands now."""
        self._all[node].add(link)
        self.put_back(link, node)


class Link(asyncio.Protocol):
    """One connection, idle or with one request under way."""

    def __init__(self, links: Links, node: str, host: str) -> None:
        self._links, self._node, self._host = links, node, host
        self._transport: asyncio.Transport | None = None
        self._told: Told | None = None
        self._came = b""
        self._has_answered = False
        self.idle_since = 0.0

    @property
    def stands(self) -> bool:
        """Whether nothing is known against it."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, *, told: Told) -> None:
        """Send a request of ASCII and a body; `told` hears of it in later turns."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if body is not None:
            lines = f"{lines}Content-Length: {len(body)}\r\n"
        assert self._transport is not None
        self._told = told
        self._links.wait_for(self)
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\n{lines}\r\n".encode("ascii")
        self._transport.write(head + body if body else head)

    def let_go(self) -> None:
        """Give it back unused."""
        self._links.put_back(self, self._node)

    def abort(self) -> None:
        """End it; whoever still waits is told nothing."""
        self._told = None
        self._links.forget(self, self._node)
        if self._transport is not None:
            self._transport.abort()

    def is_late(self) -> None:
        """Tell who waits that there is nothing yet."""
        if self._told is not None:
            self._told(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be there for the first request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass
        self.idle_since = asyncio.get_running_loop().time()
        self._links.connected(self, self._node)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; what nobody asked for would be taken for the next one."""
        if self._told is None:
            self.abort()
            return
        self._came = self._came + data if self._came else data
        try:
            answer = self._read()
        except UnreadableError as error:
            self._links.leave_alone(self._node)
            self._fail(error)
        else:
            if answer is not None:
                self._end(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        is_stale = self._has_answered and not self._came
        self._fail((StaleLinkError if is_stale else LinkError)(str(exc or "hung up")))

    def _read(self) -> NodeAnswer | None:
        """The answer once it is whole; UnreadableError when it is none that is taken here."""
        found = _HEAD.match(self._came)
        while found and _INTERIM <= (status := int(found[1])) < _OK and status != _SWITCHES:
            self._came = self._came[found.end() :]
            found = _HEAD.match(self._came)
        came = self._came
        if found is None:
            if not came.startswith(_BEGIN[: len(came)]) or _HEAD_END in came or len(came) > HEAD_BYTES_MAX:
                raise UnreadableError("no head of HTTP/1.1")
            return None
        fields = _FIELD.findall(found[2])
        status, told = int(found[1]), {name.lower(): value for name, value in fields}
        end = found.end() + _body_length(status, told, has_twins=len(told) < len(fields))
        if len(came) < end:
            return None
        if len(came) > end:
            raise UnreadableError("more than an answer")
        headers = {_BACK[name]: value.rstrip(_BLANK).decode("latin-1") for name, value in told.items() if name in _BACK}
        return NodeAnswer(
            status, headers, came[found.end() :], told.get(b"connection", b"").rstrip(_BLANK).lower() == b"close"
        )

    def _end(self, answer: NodeAnswer) -> None:
        told, self._told, self._came = self._told, None, b""
        self._has_answered = True
        self._links.awaited.pop(self, None)
        if answer.stops:
            self.abort()
        else:
            self.idle_since = asyncio.get_running_loop().time()
            self._links.put_back(self, self._node)
        assert told is not None
        told(answer)

    def _fail(self, error: LinkError) -> None:
        told = self._told
        self.abort()
        if told is not None:
            told(error)


def _body_length(status: int, told: Mapping[bytes, bytes], *, has_twins: bool) -> int:
    """How long the body is; UnreadableError where the head does not tell, or tells some things twice, or too much."""
    if status == _SWITCHES or b"transfer-encoding" in told or has_twins:
        raise UnreadableError("an answer without a length")
    if status in _EMPTY:
        return 0
    length = told.get(b"content-length", b"")
    if not _DIGITS.fullmatch(length) or int(length) > BODY_BYTES_MAX:
        raise UnreadableError("an answer without a length, or a long one")
    return int(length)
