"""Hands a foreign member's request to a node of the home region: once, marked, with the time that is left.

A request that arrives marked and still does not belong here is refused, never passed on: two nodes
with different topologies must not play ping-pong. The same Idempotency-Key goes along, so a
client may send a forwarded command again wherever it likes.
"""

import asyncio
import time
from typing import Final, Literal

import aiohttp
from aiohttp import web

from service.bulkhead import Bulkhead
from service.web import FORWARDED, REQUEST_ID, SETTINGS
from shard_router.errors import ProblemError
from shard_router.topology import TopologyWatch

FORWARDED_HEADER: Final = "Loyalty-Forwarded"
DEADLINE_HEADER: Final = "Loyalty-Deadline-Ms"
_PASSED_ON: Final = ("Authorization", "Content-Type", "Idempotency-Key", "Consistency-Token", "If-None-Match")
_PASSED_BACK: Final = (
    "Content-Type", "Consistency-Token", "Idempotent-Replayed", "ETag", "Loyalty-Region", "Loyalty-Source",
    "Retry-After", "Cache-Control",
)  # fmt: skip
_CONNECT_TIMEOUT_S: Final = 1.0
_ANSWER_MARGIN_S: Final = 0.25  # so that the home node's own deadline answer arrives before ours is over


class Forwarder:
    """A client to the other regions' nodes."""

    def __init__(self, region: str, topology: TopologyWatch, side: Literal["command", "query"]) -> None:
        self._region = region
        self._topology = topology
        self._side: Literal["command", "query"] = side
        self._bulkhead = Bulkhead()
        self._session: aiohttp.ClientSession | None = None

    async def forward(
        self, request: web.Request, region: str, *, deadline: float, body: bytes | None = None
    ) -> web.Response:
        """The home region's answer. `deadline` is a monotonic instant.

        `shard_unavailable` when no node there takes it, or the region holds enough of this node already;
        `unknown_outcome` when a command was sent and no answer came.
        """
        if FORWARDED_HEADER in request.headers:
            raise ProblemError("shard_unavailable", "nodes disagree about this member's home; retry")
        with self._bulkhead.through(region, places=request.app[SETTINGS].in_flight_max):
            FORWARDED.labels(region).inc()
            return await self._ask_nodes(request, region, deadline=deadline, body=body)

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def _ask_nodes(
        self, request: web.Request, region: str, *, deadline: float, body: bytes | None
    ) -> web.Response:
        nodes = getattr(self._topology.current.document.regions[region], self._side)
        for node in nodes:
            try:
                return await self._send(request, node, deadline=deadline, body=body)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue  # nothing was sent: the next node may try
            except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
                code = "unknown_outcome" if self._side == "command" else "shard_unavailable"
                raise ProblemError(code, f"no answer from region {region}") from error
        raise ProblemError("shard_unavailable", f"no node of region {region} can be reached")

    async def _send(self, request: web.Request, node: str, *, deadline: float, body: bytes | None) -> web.Response:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise ProblemError("shard_unavailable", "the deadline is over")
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers |= {
            FORWARDED_HEADER: self._region,
            DEADLINE_HEADER: str(int(left_s * 1000)),
            "Request-Id": request[REQUEST_ID],
        }
        # To connect must never take until the total: that one cannot tell whether anything was sent.
        timeout = aiohttp.ClientTimeout(total=left_s + _ANSWER_MARGIN_S, sock_connect=min(_CONNECT_TIMEOUT_S, left_s))
        async with self._client().request(
            request.method, node + request.raw_path, data=body, headers=headers, timeout=timeout
        ) as answer:
            content = await answer.read()
            kept = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            return web.Response(status=answer.status, body=content, headers=kept)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)  # the bulkhead bounds it, region by region
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        return self._session


def deadline_of(request: web.Request, *, deadline_ms: int) -> float:
    """The monotonic instant by which a request must be answered: the node's limit, or less when the caller says so."""
    given = request.headers.get(DEADLINE_HEADER, "")
    left_ms = min(int(given), deadline_ms) if given.isascii() and given.isdigit() and len(given) < 9 else deadline_ms  # noqa: PLR2004
    return time.monotonic() + left_ms / 1000
