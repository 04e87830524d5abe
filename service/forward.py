"""Hands a foreign member's request to a node of the home region: once, and signed by a node of ours.

A request that arrives so and still does not belong here is refused, never passed on: two nodes
with different topologies must not play ping-pong. The same Idempotency-Key goes along, so a
client may send a forwarded command again wherever it likes. An endless answer (an event stream) is
handed on piece by piece.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Literal

import aiohttp
from aiohttp import web
from yarl import URL

from service.bulkhead import Bulkhead
from service.health import DRAINING
from service.problem import REQUEST_ID
from service.retry import RetryBudget
from service.settings import SETTINGS
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
_CONNECT_TIMEOUT_S: Final = 1.0
_ANSWER_MARGIN_S: Final = 0.25  # so that the home node's own deadline answer arrives before ours is over
_SILENCE_MAX_S: Final = 60.0  # of a stream, four missed comments of 15 s: the home node is gone


class Forwarder:
    """A client to the other regions' nodes."""

    def __init__(self, region: str, topology: TopologyWatch, side: Literal["command", "query"]) -> None:
        self._region = region
        self._topology = topology
        self._side: Literal["command", "query"] = side
        self._bulkhead = Bulkhead()
        self._retries = defaultdict[str, RetryBudget](RetryBudget)
        self._took_last: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    async def forward(
        self, request: web.Request, region: str, *, deadline: float, body: bytes | None = None
    ) -> web.Response:
        """The home region's answer. `deadline` is a monotonic instant.

        `shard_unavailable` when no node there takes it, or the region holds enough of this node already;
        `unknown_outcome` when a command was sent and no answer came.
        """
        _refuse_twice(request)
        with self._bulkhead.through(region, places=request.app[SETTINGS].in_flight_max):
            FORWARDED.labels(region).inc()
            for node in self._nodes(region):
                try:
                    answer = await self._send(request, node, deadline=deadline, body=body)
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    continue  # nothing was sent: the next node may try
                except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
                    code = "unknown_outcome" if self._side == "command" else "shard_unavailable"
                    raise ProblemError(code, f"no answer from region {region}") from error
                self._took_last[region] = node
                return answer
            raise ProblemError("shard_unavailable", f"no node of region {region} can be reached")

    async def relay(self, request: web.Request, region: str) -> web.StreamResponse:
        """Answer with the home region's stream; `shard_unavailable` when no node there begins one in time.

        There is no deadline once it has begun, and an end at one side ends the other.
        """
        _refuse_twice(request)
        FORWARDED.labels(region).inc()
        async with await self._open(request, region) as answer:
            kept = _kept(answer)
            if answer.status != web.HTTPOk.status_code:
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
            response = web.StreamResponse(headers=kept)
            sign(request.app, request, response)
            with suppress(ConnectionError, aiohttp.ClientError, TimeoutError):  # the client comes back with its last id
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                    if request.app[DRAINING].is_set():
                        break
            return response

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    def _nodes(self, region: str) -> Iterator[str]:
        """The nodes to ask, first who took the last request; further ones only while the budget of retries lasts."""
        budget = self._retries[region]
        budget.note_request()
        nodes: list[str] = sorted(self._listed(region), key=lambda node: node != self._took_last.get(region))
        for number, node in enumerate(nodes):
            if number and not budget.take():
                return
            yield node

    def _listed(self, region: str) -> tuple[str, ...]:
        return tuple(getattr(self._topology.current.document.regions[region], self._side))

    async def _send(self, request: web.Request, node: str, *, deadline: float, body: bytes | None) -> web.Response:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise ProblemError("shard_unavailable", "the deadline is over")
        headers = self._headers(request, _method(request)) | {DEADLINE_HEADER: str(int(left_s * 1000))}
        # To connect must never take until the total: that one cannot tell whether anything was sent.
        timeout = aiohttp.ClientTimeout(total=left_s + _ANSWER_MARGIN_S, sock_connect=min(_CONNECT_TIMEOUT_S, left_s))
        async with self._client().request(
            _method(request), _url(request, node), data=body, headers=headers, timeout=timeout
        ) as answer:
            return web.Response(status=answer.status, body=await answer.read(), headers=_kept(answer))

    async def _open(self, request: web.Request, region: str) -> aiohttp.ClientResponse:
        """Find a node that begins a stream or answers a problem; the nodes share the time a request has."""
        share_s = request.app[SETTINGS].deadline_ms / 1000 / max(len(self._listed(region)), 1)
        headers = self._headers(request, request.method)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_MAX_S)
        for node in self._nodes(region):
            with suppress(aiohttp.ClientError, TimeoutError):  # nothing was passed on yet: the next node may try
                async with asyncio.timeout(share_s):
                    answer = await self._client().request(
                        request.method, _url(request, node), headers=headers, timeout=timeout
                    )
                    if answer.status != web.HTTPOk.status_code:
                        await answer.read()  # a problem is short; from now on it is kept there
                    self._took_last[region] = node
                    return answer
        raise ProblemError("shard_unavailable", f"no node of region {region} begins a stream")

    def _headers(self, request: web.Request, method: str) -> dict[str, str]:
        kept = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        kept["Accept-Encoding"] = request.headers.get("Accept-Encoding", "identity")  # what comes is handed on as it is
        request_id = request[REQUEST_ID]
        mark = request.app[CREDENTIALS].sign(_signed(self._region, method, _target(request), request_id))
        return kept | {FORWARDED_HEADER: f"{self._region};{mark}", "Request-Id": request_id}

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)  # the bulkhead bounds it, region by region
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session


def deadline_of(request: web.Request, *, deadline_ms: int) -> float:
    """The monotonic instant by which a request must be answered: the node's limit, or less when the caller says so."""
    given = request.headers.get(DEADLINE_HEADER, "")
    left_ms = min(int(given), deadline_ms) if given.isascii() and given.isdigit() and len(given) < 9 else deadline_ms  # noqa: PLR2004
    return time.monotonic() + left_ms / 1000


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
