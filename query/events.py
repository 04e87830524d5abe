"""Server-sent events: the account whenever its version grows.

A stream holds no state but the last version it sent. It reads the same view as everybody, woken by
notifications and, because those are only hints, by the clock as well.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from aiohttp import web
from prometheus_client import Gauge

from query.http import as_seen_by, member_of
from query.node import NODE, QueryNode
from query.question import AccountQuestion, Question
from query.visible import Watch
from shard_router.errors import ProblemError
from shard_router.openapi import malformed_parameter
from shard_router.web import DRAINING, REQUEST_ID

STREAMS: Final = Gauge("loyalty_query_streams", "Event streams open now.", registry=None)
_RETRY_MS: Final = 2_000
_RECHECK_S: Final = 1.0  # between reads when no notification can come, and until a stopping node is noticed
_HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_LAST_EVENT_ID: Final = "Last-Event-ID"


class Streams:
    """The event streams of a node, bounded in number."""

    def __init__(self) -> None:
        self._open = 0

    async def stream_account(self, request: web.Request) -> web.StreamResponse:
        """Answer a stream of account events, until the client leaves or the node stops."""
        node, member_id, seen = request.app[NODE], member_of(request), _last_seen(request)
        home = node.home_of(member_id)
        if self._open >= node.settings.streams_max:
            raise ProblemError("rate_limited", "this node has enough streams; try again or ask another node")
        self._open += 1
        STREAMS.inc()
        try:
            if home != node.settings.region:
                return await node.relay.relay(request, home)
            return await self._stream(request, node, as_seen_by(request, AccountQuestion(member_id)), seen)
        finally:
            self._open -= 1
            STREAMS.dec()

    async def _stream(self, request: web.Request, node: QueryNode, question: Question, seen: int) -> web.StreamResponse:
        first = await node.read(request, question, at_least=0)
        if first.body is None:
            raise ProblemError("member_not_found")
        response = web.StreamResponse(headers=_HEADERS)
        response.headers.update({"Request-Id": request[REQUEST_ID], "Loyalty-Region": node.settings.region})
        await response.prepare(request)
        await response.write(b"retry: %d\n\n" % _RETRY_MS)
        reader = node.reader_of(question.member_id)
        # When the client has left, or no one can tell just now, it comes back with Last-Event-ID.
        with reader.visible.watch(question.member_id) as watch, suppress(ConnectionError, ProblemError):
            await _follow(request, response, question, seen=seen, watch=watch)
        return response


async def _follow(
    request: web.Request,
    response: web.StreamResponse,
    question: Question,
    *,
    seen: int,
    watch: Watch | None,
) -> None:
    node, draining = request.app[NODE], request.app[DRAINING]
    silent_since = time.monotonic()
    while not draining.is_set() and request.transport is not None:
        answer = await node.read(request, question, at_least=0)
        if answer.body is None:
            return  # erased meanwhile
        if answer.etag > seen:
            seen = answer.etag
            await response.write(b"event: account\nid: %d\ndata: %b\n\n" % (seen, answer.body))
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since >= node.settings.stream_comment_s:
            await response.write(b": still here\n\n")
            silent_since = time.monotonic()
        await _pause(watch, seen)


async def _pause(watch: Watch | None, seen: int) -> None:
    if watch is None:
        await asyncio.sleep(_RECHECK_S)
    else:
        await watch.wait(seen + 1, timeout_s=_RECHECK_S)


def _last_seen(request: web.Request) -> int:
    text = request.headers.get(_LAST_EVENT_ID, "0")
    if not (text.isascii() and text.isdigit()) or len(text) > 15:  # noqa: PLR2004 - versions have up to 15 digits
        raise malformed_parameter(_LAST_EVENT_ID, "send the id of the last event")
    return int(text)
