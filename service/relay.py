"""Hands on an endless answer (an event stream) of a member's home region, piece by piece.

Like forward.py, once and marked; unlike there, no deadline once it has begun, and an end at one side ends the other.
"""

import asyncio
from contextlib import suppress
from typing import Final

import aiohttp
from aiohttp import web

from service.forward import FORWARDED_HEADER
from service.web import DRAINING, FORWARDED, REQUEST_ID, SETTINGS
from shard_router.errors import ProblemError
from shard_router.topology import TopologyWatch

_PASSED_ON: Final = ("Authorization", "Last-Event-ID", "Accept")
_PASSED_BACK: Final = (
    "Content-Type",
    "Cache-Control",
    "X-Accel-Buffering",
    "Retry-After",
    "Loyalty-Region",
    "Request-Id",
)
_CONNECT_TIMEOUT_S: Final = 1.0
_SILENCE_MAX_S: Final = 60.0  # four missed comments of 15 s: the home node is gone


class Relay:
    """A client for streams of other regions' query nodes."""

    def __init__(self, region: str, topology: TopologyWatch) -> None:
        self._region = region
        self._topology = topology
        self._session: aiohttp.ClientSession | None = None

    async def relay(self, request: web.Request, region: str) -> web.StreamResponse:
        """Answer with the home region's stream; `shard_unavailable` when no node there begins one in time."""
        if FORWARDED_HEADER in request.headers:
            raise ProblemError("shard_unavailable", "nodes disagree about this member's home; retry")
        FORWARDED.labels(region).inc()
        async with await self._open(request, region) as answer:
            kept = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
            if answer.status != web.HTTPOk.status_code:
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
            response = web.StreamResponse(headers=kept)
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

    async def _open(self, request: web.Request, region: str) -> aiohttp.ClientResponse:
        """Find a node that begins a stream or answers a problem; the nodes share the time a request has."""
        nodes = self._topology.current.document.regions[region].query
        share_s = request.app[SETTINGS].deadline_ms / 1000 / max(len(nodes), 1)
        for node in nodes:
            with suppress(aiohttp.ClientError, TimeoutError):  # nothing was passed on yet: the next node may try
                async with asyncio.timeout(share_s):
                    return await self._ask(request, node)
        raise ProblemError("shard_unavailable", f"no node of region {region} begins a stream")

    async def _ask(self, request: web.Request, node: str) -> aiohttp.ClientResponse:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers |= {FORWARDED_HEADER: self._region, "Request-Id": request[REQUEST_ID]}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_MAX_S)
        answer = await self._client().get(node + request.raw_path, headers=headers, timeout=timeout)
        if answer.status != web.HTTPOk.status_code:
            await answer.read()  # a problem is short; from now on it is kept there
        return answer

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
        return self._session
