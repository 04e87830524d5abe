"""Server-sent events: the account whenever its version grows.

A stream holds no state but the last version it sent. It reads the same view as everybody, woken by
notifications and, because those are only hints, by the clock as well.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from query.announcement import Waiter
from query.http import as_seen_by, demanded_version, member_of
from query.node import NODE, QueryNode
from query.question import AccountQuestion, Question
from rules.codec import instant_text
from service.body import StrictModel
from service.handed import is_forwarded
from service.health import DRAINING
from service.parse import parse_body
from service.payload import BODY
from service.problem import malformed_parameter
from service.ticket import TICKETS, use_ticket
from service.web import CREDENTIALS, PRINCIPAL, render_json, sign
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import parse_version

_RETRY_MS: Final = 2_000
_MOVING: Final = b"retry: 100\nevent: moving\ndata: {}\n\n"
"""The last words of a node that stops, of one that stood in for a home that is back, or of one where the door sends
nobody any more: another goes on after Last-Event-ID."""
_PAUSE_MIN_S: Final = 0.02
_RECHECK_S: Final = 1.0  # between reads when no notification can come, and until a stopping node is noticed
_HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_LAST_EVENT_ID: Final = "Last-Event-ID"


class TicketBody(StrictModel):
    """Nothing; the body may be absent."""


async def stream_account(request: web.Request) -> web.StreamResponse:
    """Answer a stream of account events, until the client leaves, its credential ends or the node stops."""
    node, member_id, seen = request.app[NODE], member_of(request), _last_seen(request)
    stays = _staying(request, node, member_id)
    if from_home := await node.relay_from_home(request, member_id, goes_on=stays, last_words=_MOVING):
        return from_home
    return await _stream(request, node, as_seen_by(request[PRINCIPAL], AccountQuestion(member_id)), seen, stays)


def _staying(request: web.Request, node: QueryNode, member_id: int) -> Callable[[], bool]:
    """Whether a stream is to stay at this node. One that another node of ours carries is that node's to move."""
    draining, move = request.app[DRAINING], None if is_forwarded(request) else node.move_of(member_id)
    return lambda: not (draining.is_set() or (move and move.is_due()))


async def issue_stream_ticket(request: web.Request) -> web.StreamResponse:
    """Answer a ticket for a stream of the caller's own member; their home region issues it, and takes it."""
    parse_body(TicketBody, request[BODY] or b"{}")
    node, principal = request.app[NODE], request[PRINCIPAL]
    if principal.member_id is not None and (from_home := await node.ask_home(request, principal.member_id)):
        return from_home
    ticket, expires_at = request.app[TICKETS].issue(principal)
    content = {"ticket": ticket, "expires_at": instant_text(datetime.fromtimestamp(int(expires_at), UTC))}
    return render_json(content, headers={"Cache-Control": "no-store"})


async def _stream(
    request: web.Request, node: QueryNode, question: Question, seen: int, stays: Callable[[], bool]
) -> web.StreamResponse:
    first = await node.read(request, question, at_least=demanded_version(request, question.member_id))
    if first.body is None:
        raise ProblemError("member_not_found")
    if request.method != "HEAD":  # that opens no stream, and neither does what is refused
        use_ticket(request)
    response = web.StreamResponse(headers={**_HEADERS, "Loyalty-Source": first.source})
    sign(request.app, request, response)
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    await response.write(b"retry: %d\n\n" % _RETRY_MS)
    reader = node.reader_of(question.member_id)
    # When the client has left, or no one can tell just now, it comes back with Last-Event-ID.
    with reader.visible.watch(question.member_id) as watch, suppress(ConnectionError, ProblemError):
        await _follow(request, response, question, seen=seen, watch=watch, stays=stays)
    return response


async def _follow(  # noqa: PLR0913 - what a stream is made of
    request: web.Request,
    response: web.StreamResponse,
    question: Question,
    *,
    seen: int,
    watch: Waiter | None,
    stays: Callable[[], bool],
) -> None:
    node = request.app[NODE]
    silent_since, pause_s, woken = time.monotonic(), 0.0, False
    while request.transport is not None:
        if not node.stands_in(question.member_id) or not stays():
            await response.write(_MOVING)
            return
        _check_still_valid(request)
        answer = await node.read_anew(question)
        if answer.body is None:
            return  # erased meanwhile
        if answer.etag < seen and await node.reader_of(question.member_id).is_lost(question.member_id, seen):
            seen = 0  # a restore took back what the client has seen: it must hear what holds now
        is_new = answer.etag > seen
        if is_new:
            seen = answer.etag
            await response.write(b"event: account\nid: %d\ndata: %b\n\n" % (seen, answer.body))
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since >= node.settings.stream_comment_s:
            await response.write(b": still here\n\n")
            silent_since = time.monotonic()
        # What is announced and cannot be read yet may be announced again and again.
        pause_s = min(2 * pause_s + _PAUSE_MIN_S, _RECHECK_S) if woken and not is_new else 0.0
        woken = await _wait(watch, seen, pause_s)


def _check_still_valid(request: web.Request) -> None:
    """A credential that ran out or was revoked meanwhile is `unauthenticated`, as for any request."""
    authorization, expires_at = request.headers.get("Authorization"), request[PRINCIPAL].expires_at
    if authorization is not None:
        request.app[CREDENTIALS].principal(authorization)
    elif expires_at is not None and expires_at < time.time():
        raise ProblemError("unauthenticated", "the time of this stream is over")


async def _wait(watch: Waiter | None, seen: int, pause_s: float) -> bool:
    """Pause, then wait for news; tells whether there may be some, or just so much time is over."""
    await asyncio.sleep(pause_s if watch else _RECHECK_S)
    return watch is not None and await watch.wait(seen + 1, timeout_s=_RECHECK_S) is not None


def _last_seen(request: web.Request) -> int:
    text = ", ".join(request.headers.getall(_LAST_EVENT_ID, ["0"]))
    try:
        return parse_version(text)
    except MalformedIdError as error:
        raise malformed_parameter(_LAST_EVENT_ID, "send the id of the last event") from error
