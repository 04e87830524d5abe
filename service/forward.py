"""Hands a foreign member's request to a node of the home region: once, and signed by a node of ours.

A request that arrives so and still does not belong here is refused, never passed on: two nodes
with different topologies must not play ping-pong. The same Idempotency-Key goes along, so a
client may send a forwarded command again wherever it likes, and so may we: a command with a key, or a
read, that met a dying node is asked of the next. Within a region a command for a member whose slot
belongs to another node is handed over likewise, or else served here. An endless answer (an event
stream) is handed on piece by piece. Where no node of a region answers, whoever asked for a read is told: it can read
itself.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

import aiohttp
from aiohttp import web
from yarl import URL

from service.bulkhead import Bulkhead
from service.peer import Peers, SilentPeerError, ranked, stops
from service.problem import REQUEST_ID
from service.retry import RetryBudget
from service.settings import SETTINGS
from service.trial import NOT_ASKED, Trial, Unanswered
from service.web import CREDENTIALS, FORWARDED, sign
from shard_router.errors import ProblemError
from shard_router.topology import TopologyWatch

FORWARDED_HEADER: Final = "Loyalty-Forwarded"
DEADLINE_HEADER: Final = "Loyalty-Deadline-Ms"
_PASSED_ON: Final = (
    "Authorization", "Content-Type", "Idempotency-Key", "Consistency-Token", "If-None-Match", "Last-Event-ID", "Accept",
    "traceparent", "tracestate",
)  # fmt: skip
_PASSED_BACK: Final = (
    "Content-Type", "Consistency-Token", "Idempotent-Replayed", "ETag", "Loyalty-Region", "Loyalty-Source",
    "Retry-After", "WWW-Authenticate", "Cache-Control", "X-Accel-Buffering", "Content-Encoding", "Vary",
)  # fmt: skip
_CONNECT_TIMEOUT_S: Final = 0.5  # between regions of this world 0.15 s is far
_NOTHING_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_ANSWER_LOST: Final = (aiohttp.ClientError, asyncio.IncompleteReadError, SilentPeerError)
_ANSWER_MARGIN_S: Final = 0.25  # so that the home node's own deadline answer arrives before ours is over
_ASKED_EACH_S: Final = 1.0
_EVENT_END: Final = b"\n\n"
_SILENCE_MAX_S: Final = 60.0  # of a stream, four missed comments of 15 s: the home node is gone


class Forwarder:
    """A client to the other regions' nodes."""

    def __init__(
        self, region: str, topology: TopologyWatch, side: Literal["command", "query"], own: str | None = None
    ) -> None:
        """`own` is what the topology calls this node."""
        self._region = region
        self._own = own
        self._topology = topology
        self._side: Literal["command", "query"] = side
        self._bulkhead = Bulkhead()
        self._retries = defaultdict[str, RetryBudget](RetryBudget)
        self._peers = Peers(self._client, self._all_listed)
        self._session: aiohttp.ClientSession | None = None

    async def forward(
        self, request: web.Request, region: str, *, deadline: float, slot: int = 0, body: bytes | None = None
    ) -> web.Response:
        """The home region's answer about a member of a slot. `deadline` is a monotonic instant.

        `shard_unavailable` when no node there takes it, or the region holds enough of this node already;
        `unknown_outcome` when a command was sent and no answer came.
        """
        _refuse_twice(request)
        trial = Trial(request, region, deadline, body, is_command=self._side == "command")
        with self._through(trial):
            answer = await self._ask(trial, self._nodes(region, slot)) or trial.declined
            if answer is None:
                raise trial.failure(f"no node of region {region} can be reached")
            return answer

    async def read(
        self, request: web.Request, region: str, *, deadline: float, slot: int = 0, body: bytes | None = None
    ) -> web.Response | None:
        """As `forward`, of a read; None when no node there answers in time, and somebody else is to."""
        _refuse_twice(request)
        trial = Trial(request, region, deadline, body, is_command=False, has_other=True)
        if self.is_away(region):
            return None
        with suppress(ProblemError), self._through(trial):
            return await self._ask(trial, self._nodes(region, slot))
        return None

    async def forward_or_serve(
        self, request: web.Request, region: str, *, deadline: float, slot: int = 0, body: bytes | None = None
    ) -> web.Response | Unanswered:
        """As `forward`, of a command; when no node there gives an answer, this node is to serve it."""
        _refuse_twice(request)
        if self.is_away(region):
            return NOT_ASKED
        trial = Trial(request, region, deadline, body, is_command=True, has_other=True)
        with self._through(trial):
            return await self._ask(trial, self._nodes(region, slot)) or Unanswered(may_be_done=trial.sent)

    @contextmanager
    def _through(self, trial: Trial) -> Generator[None]:
        """Let a request through to its region, and count it; `shard_unavailable` as the bulkhead says."""
        with self._bulkhead.through(trial.region, places=trial.request.app[SETTINGS].in_flight_max):
            FORWARDED.labels(trial.region).inc()
            yield

    def is_away(self, region: str) -> bool:
        """Whether no node of a region takes requests. Probes go on, and the first that is answered ends it."""
        return not self._peers.present(self._listed(region))

    def serves(self, slot: int) -> bool:
        """Whether a slot of the own region is this node's, as long as the nodes before it are away."""
        return not self._before(slot)

    async def hand_over(
        self, request: web.Request, slot: int, *, deadline: float, body: bytes
    ) -> web.Response | Unanswered:
        """The answer of the node of the own region that serves a slot, or that this node is to serve it now."""
        before = self._before(slot)
        if not before or is_forwarded(request):
            return NOT_ASKED
        FORWARDED.labels(self._region).inc()
        trial = Trial(request, self._region, deadline, body, is_command=True, has_other=True)
        return await self._ask(trial, before) or Unanswered(may_be_done=trial.sent)

    async def relay(
        self, request: web.Request, region: str, slot: int = 0, *, goes_on: Callable[[], bool], last_words: bytes
    ) -> web.StreamResponse | None:
        """Answer with the home region's stream; None when all nodes there are away.

        `shard_unavailable` when one is there and begins none in time. There is no deadline once it has begun, and an
        end at one side ends the other. When `goes_on`, asked each second, says no, this node ends it with last words.
        """
        _refuse_twice(request)
        opened = None if self.is_away(region) else await self._open(request, region, slot)
        if opened is None:
            return None
        FORWARDED.labels(region).inc()
        async with opened as answer:
            kept = _kept(answer)
            if answer.status != web.HTTPOk.status_code:
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
            response = web.StreamResponse(headers=kept)
            sign(request.app, request, response)
            with suppress(ConnectionError, aiohttp.ClientError, TimeoutError):  # the client comes back with its last id
                await response.prepare(request)
                await _hand_on(answer.content, response, goes_on, last_words)
            return response

    async def close(self) -> None:
        """Close the connections."""
        await self._peers.close()
        if self._session:
            await self._session.close()

    def _nodes(self, region: str, slot: int) -> Iterator[str]:
        """The nodes to ask, first whose the slot is; further ones only while the budget of retries lasts."""
        budget = self._retries[region]
        budget.note_request()
        nodes = ranked(self._listed(region), slot)
        for number, node in enumerate(self._peers.present(nodes) or nodes):
            if number and not budget.take():
                return
            yield node

    def _listed(self, region: str) -> tuple[str, ...]:
        return tuple(getattr(self._topology.current.document.regions[region], self._side))

    def _before(self, slot: int) -> tuple[str, ...]:
        """The nodes of the own region that serve a slot before this one does."""
        nodes = self._listed(self._region)
        if len(nodes) == 1 or self._own not in nodes:
            return ()
        ordered = ranked(nodes, slot)
        return self._peers.present(ordered[: ordered.index(self._own)])

    def _all_listed(self) -> list[str]:
        return [node for region in self._topology.current.document.regions for node in self._listed(region)]

    async def _ask(self, trial: Trial, nodes: Iterable[str]) -> web.Response | None:
        """The first answer; None when no node gave one. ProblemError when it may not be asked again, or not in time."""
        for node in nodes:
            try:
                if answer := await self._send(trial, node):
                    return trial.checked(answer)
            except _NOTHING_SENT:
                self._peers.put_away(node, "takes no connection")
            except _ANSWER_LOST as error:
                self._peers.put_away(node, type(error).__name__)
                trial.sent = True
                if not trial.may_be_sent_again:
                    raise trial.failure(f"no answer from region {trial.region}") from error
            except TimeoutError as error:
                trial.sent = True
                raise trial.failure(f"no answer from region {trial.region} in time") from error
        return None

    async def _send(self, trial: Trial, node: str) -> web.Response | None:
        """The answer of a node; None when it declines."""
        request, left_s = trial.request, trial.deadline - time.monotonic()
        if left_s <= 0:
            raise trial.failure("the deadline is over")
        headers = self._headers(request, _method(request)) | {DEADLINE_HEADER: str(int(left_s * 1000))}
        # To connect must never take until the total: that one cannot tell whether anything was sent.
        timeout = aiohttp.ClientTimeout(total=left_s + _ANSWER_MARGIN_S, sock_connect=min(_CONNECT_TIMEOUT_S, left_s))

        async def exchange() -> web.Response | None:
            async with self._client().request(
                _method(request), _url(request, node), data=trial.body, headers=headers, timeout=timeout
            ) as answer:
                if leaves := stops(answer):
                    self._peers.put_away(node, "stops")
                response = web.Response(status=answer.status, body=await answer.read(), headers=_kept(answer))
                return None if trial.declines(response, stops=leaves) else response

        others = trial.has_other or len(self._peers.present(self._listed(trial.region))) > 1
        return await (self._peers.attend(node, exchange()) if trial.may_be_sent_again and others else exchange())

    async def _open(self, request: web.Request, region: str, slot: int) -> aiohttp.ClientResponse | None:
        """Find a node that begins a stream or answers a problem; the nodes share the time a request has."""
        share_s = request.app[SETTINGS].deadline_ms / 1000 / max(len(self._listed(region)), 1)
        headers = self._headers(request, request.method)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_MAX_S)

        async def begin(node: str) -> aiohttp.ClientResponse:
            answer = await self._client().request(request.method, _url(request, node), headers=headers, timeout=timeout)
            if answer.status != web.HTTPOk.status_code:
                await answer.read()  # a problem is short; from now on it is kept there
            return answer

        for node in self._nodes(region, slot):
            try:  # nothing was passed on yet: the next node may try
                async with asyncio.timeout(share_s):
                    return await self._peers.attend(node, begin(node))
            except _ANSWER_LOST as error:
                self._peers.put_away(node, type(error).__name__)
            except TimeoutError:
                continue
        if self.is_away(region):
            return None
        raise ProblemError("shard_unavailable", f"no node of region {region} begins a stream")

    def _headers(self, request: web.Request, method: str) -> dict[str, str]:
        # What stands there twice is one list (RFC 9110, 5.3): the home node is to see all of it.
        kept = {name: ", ".join(request.headers.getall(name)) for name in _PASSED_ON if name in request.headers}
        kept["Accept-Encoding"] = request.headers.get("Accept-Encoding", "identity")  # what comes is handed on as it is
        request_id = request[REQUEST_ID]
        mark = request.app[CREDENTIALS].sign(_signed(self._region, method, _target(request), request_id))
        return kept | {FORWARDED_HEADER: f"{self._region};{mark}", "Request-Id": request_id}

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)  # the bulkhead bounds it, region by region
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session


async def _hand_on(
    source: aiohttp.StreamReader, target: web.StreamResponse, goes_on: Callable[[], bool], last_words: bytes
) -> None:
    """Piece by piece, until the source ends, or an event's end after which it does not go on."""
    is_between = True
    while not is_between or goes_on():
        pause = asyncio.timeout(_ASKED_EACH_S)
        try:
            async with pause:
                piece = await source.readany()
        except TimeoutError:
            if not pause.expired():  # the home node is silent
                raise
            continue
        if not piece:
            return
        await target.write(piece)
        is_between = piece.endswith(_EVENT_END)
    await target.write(last_words)


def deadline_of(request: web.Request, *, deadline_ms: int) -> float:
    """The monotonic instant by which a request must be answered: the node's limit, or less when the caller says so."""
    return time.monotonic() + left_ms(request.headers.get(DEADLINE_HEADER, ""), deadline_ms) / 1000


def left_ms(given: str, deadline_ms: int) -> int:
    """How long a request has that came with this header: what is no number says nothing."""
    return min(int(given), deadline_ms) if given.isascii() and given.isdigit() and len(given) < 9 else deadline_ms  # noqa: PLR2004


def has_left(request: web.Request) -> bool:
    """Whether the connection on which the answer would go is gone: work that has not begun is of use to nobody then."""
    transport = request.transport
    return transport is None or transport.is_closing()


def is_forwarded(request: web.Request) -> bool:
    """Whether a node of ours has forwarded this request. What a stranger says about that is nothing."""
    region, _, mark = request.headers.get(FORWARDED_HEADER, "").partition(";")
    message = _signed(region, request.method, _target(request), request[REQUEST_ID])
    return bool(mark) and request.app[CREDENTIALS].is_signed(message, mark)


def _signed(region: str, method: str, target: str, request_id: str) -> str:
    """What a forwarding node puts its mark under."""
    return f"{region}\n{method}\n{target}\n{request_id}"


def _target(request: web.Request) -> str:
    """Path and query as they came, of an absolute target too: whom it named is no concern of the home node."""
    return request.rel_url.raw_path_qs


def _url(request: web.Request, node: str) -> URL:
    return URL(node + _target(request), encoded=True)


def _method(request: web.Request) -> str:
    """HEAD is asked as GET: the answer is to have the same headers, and our server leaves the body out."""
    return "GET" if request.method == "HEAD" else request.method


def _refuse_twice(request: web.Request) -> None:
    if is_forwarded(request):
        raise ProblemError("shard_unavailable", "nodes disagree about this member's home; retry")


def _kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
