"""The connections of a node: how many, how long they may ask nothing, and what is answered outside of the straight way.

A socket costs its owner nothing, so those that ask nothing are closed: after a while, and sooner when others need the
room. What is no HTTP, or breaks before there is a request, gets a problem document too.
"""

import asyncio
import resource
from functools import partial
from typing import Any, Final

import structlog
from aiohttp import web

from service.access import ACCESS, request_id_of
from service.admission import Pass
from service.door import Door, Plain, may_go_on, read_plain
from service.health import DRAINING
from service.problem import REQUEST_ID, render_problem
from service.quick import QUICK, Ask
from service.settings import SETTINGS
from service.web import GATES, PASS, PATHS, sign
from shard_router.errors import ProblemError

_EVICTED_AT_ONCE: Final = 16  # one in so many: looking for the longest idle ones is then seldom
_FILES_MAX: Final = 1_048_576  # where the hard limit is none
_LOOKS_PER_TIMEOUT: Final = 4
_LOOK_S: Final = 0.02
_READ_S: Final = 0.02
"""Timers come before sockets in a turn: what had come when a connection's time was over is read until so much later."""


class Runner(web.AppRunner):
    """Runs an application on bounded connections."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self.app)


class _Server(web.Server):
    """A server like the one given, whose connections are few and busy enough."""

    def __init__(self, like: web.Server, app: web.Application) -> None:
        settings = app[SETTINGS]
        self._make = like.request_factory
        super().__init__(
            like.request_handler,
            request_factory=self._request_with_pass,
            handler_cancellation=like.handler_cancellation,
            **like._kwargs,  # noqa: SLF001 - of our own base class
        )
        self._kwargs["keepalive_timeout"] = settings.idle_timeout_s
        self._app, self._settings = app, settings
        self.door = Door(app[GATES], app[PATHS], settings.region)
        self._open = set[_Connection]()
        self._open_max = min(settings.connections_max, _file_limit() // 2)
        self._looking = self._loop.create_task(self._look_for_ever())

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._app, loop=self._loop, **self._kwargs)

    def _request_with_pass(self, *arguments: Any) -> web.BaseRequest:
        """Make a request as aiohttp does; it holds what the door took for it."""
        request = self._make(*arguments)
        if held := arguments[2].take_pass():
            request[PASS] = held
        return request

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in, and give the room of idle ones to it when there is none."""
        super().connection_made(handler, transport)
        assert isinstance(handler, _Connection)
        self._open.add(handler)
        if len(self._open) > self._open_max:
            self._make_room()
        if len(self._open) > self._open_max:  # all are at work
            self._close(handler)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        super().connection_lost(handler, exc)
        self._forget(handler)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the signature is aiohttp's
        """Close all connections, once what was asked is answered; after the timeout (s) whatever is not."""
        self._looking.cancel()
        ends_at = self._loop.time() + (timeout or 0.0)
        while any(one.is_asked for one in self._open) and self._loop.time() < ends_at:  # noqa: ASYNC110 - seldom, briefly
            await asyncio.sleep(_LOOK_S)  # aiohttp waits for what it knows of
        await super().shutdown(timeout)

    def _make_room(self) -> None:
        """Close some of those that ask nothing: first who never asked, then who has been silent longest.

        Where there are none, those that do not take their answers: else strangers who do not keep all others out.
        """
        idle = sorted((one for one in self._open if one.asks_nothing), key=lambda one: (one.has_asked, one.since))
        if not idle:
            now, head_s = self._loop.time(), self._settings.head_timeout_s
            idle = [one for one in self._open if one.is_stuck(now, head_s)]
        for one in idle[: max(self._open_max // _EVICTED_AT_ONCE, 1)]:
            self._close(one)

    async def _look_for_ever(self) -> None:
        head_s, idle_s = self._settings.head_timeout_s, self._settings.idle_timeout_s
        while True:
            await asyncio.sleep(min(head_s, idle_s) / _LOOKS_PER_TIMEOUT)
            now = self._loop.time()
            late = [one for one in self._open if one.is_late(now, head_s, idle_s)]
            await asyncio.sleep(_READ_S)
            for one in [one for one in late if one.is_late(now, head_s, idle_s)]:
                self._close(one)

    def _close(self, connection: "_Connection") -> None:
        transport = connection.transport
        connection.force_close()
        if transport is not None:
            transport.abort()  # closing would wait until the client has taken what is left for it
        self._forget(connection)

    def _forget(self, handler: web.RequestHandler) -> None:
        self._open.discard(handler)  # pyright: ignore[reportArgumentType] - all of ours are


class _Connection(web.RequestHandler):
    """One client's connection."""

    def __init__(self, server: _Server, app: web.Application, **arguments: Any) -> None:
        super().__init__(server, **arguments)
        self._app = app
        self._door = server.door
        self._quick, self._draining = app.get(QUICK), app[DRAINING]
        self.is_asked = False
        """Whether a request is being answered of which aiohttp knows nothing."""
        self._behind = b""
        """What came meanwhile."""
        self._closes = False
        """Whether the answer to it is the last."""
        self._held: Pass | None = None
        self._head_since = 0.0
        self._stuck_since = 0.0
        self._answers = 0
        self._rest: int | None = 0
        """Bytes still to come of the newest request; None when only the parser can tell, from then on."""
        self._begun = b""
        """A head that is not whole yet. The parser has it already; here it only tells where its request ends."""

    @property
    def has_asked(self) -> bool:
        """Whether a request ever came."""
        return self._request_count > 0

    @property
    def asks_nothing(self) -> bool:
        """Whether the next request has not come, or not as a whole. What is left of a body nobody waits for is none."""
        is_waiting = self._waiter is not None or 0 < self._request_count == self._answers
        return is_waiting and not self._messages and not self.is_asked

    @property
    def since(self) -> float:
        """When it began to wait for the next request."""
        return self._next_keepalive_close_time - self._keepalive_timeout

    def is_late(self, now: float, head_s: float, idle_s: float) -> bool:
        """Whether a head is not whole in time, or an answer is not taken. Idle connections aiohttp itself closes."""
        if self._stuck_since:
            return self.is_stuck(now, idle_s)
        since = self._head_since if self._head_since or self.has_asked else self.since
        return self.asks_nothing and since > 0 and now - since > head_s

    def is_stuck(self, now: float, stuck_s: float) -> bool:
        """Whether the client has taken nothing of its answer for so long."""
        return 0 < self._stuck_since < now - stuck_s

    def data_received(self, data: bytes) -> None:
        """Refuse what there is no room for; note when a head begins that is not whole yet."""
        if self.is_asked and data:
            self._behind += data
            assert self.transport is not None
            self.transport.pause_reading()  # what one reading brings is all that is kept
            return
        if self._rest:
            self._rest = self._rest - len(data) if len(data) <= self._rest else None
        elif self._rest == 0 and data:
            begun, self._begun = self._begun, b""
            plain = read_plain(begun + data)
            if plain is not None and not begun and self._is_free and self._at_the_door(data, plain):
                return
            if plain is None and may_go_on(begun + data):
                self._begun = begun + data
            else:
                self._rest = None if plain is None else plain.rest
        super().data_received(data)
        if self._messages or self._waiter is None:
            self._head_since = 0.0
        elif not self._head_since:
            self._head_since = self._loop.time()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - the signature is aiohttp's
        """Go on reading. aiohttp calls it after each body; but for one that was too long at once nothing was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def take_pass(self) -> Pass | None:
        """What the door took for the request that is being made."""
        held, self._held = self._held, None
        return held

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give back what was taken for a request that will not be made."""
        super().connection_lost(exc)
        if held := self.take_pass():
            held.leave()

    @property
    def _is_free(self) -> bool:
        """Whether every request has its whole answer, and the client takes it: then the next one may be answered."""
        return self._answers == self._request_count and not self._messages and not self._stuck_since

    def _at_the_door(self, data: bytes, plain: Plain) -> bool:
        """Whether a request needs aiohttp no more: the door has refused it, or it is answered quickly."""
        if self._draining.is_set():
            return False  # the usual way tells the client to come back elsewhere
        entered = self._door.ask(data, plain)
        if isinstance(entered, bytes):
            self._write(entered)
            return True
        self._held = entered  # whatever the quick way does, it is given back
        if self._quick is not None and entered is not None:
            quick = self._quick(Ask(data, plain, entered, self))
            if isinstance(quick, bytes):
                self._held = None
                entered.leave()
                self._write(quick)
                return True
            self.is_asked = quick
        if self.is_asked:
            self._held = None
        return self.is_asked

    def _process_keepalive(self, *, is_read: bool = False) -> None:
        """Close a connection whose time is over, unless it has asked: after a long turn it lies in the socket."""
        if self.is_asked:
            self._keepalive_handle = None  # the answer begins a new time
        elif is_read or self._loop.time() < self._next_keepalive_close_time:
            super()._process_keepalive()
        else:
            self._keepalive_handle = self._loop.call_later(_READ_S, partial(self._process_keepalive, is_read=True))

    def answered(self, ask: Ask, answer: bytes | None, *, closes: bool) -> None:
        """Send the answer to what was asked, or let aiohttp take it; then what came meanwhile."""
        self.is_asked = False
        if self.transport is None or self.transport.is_closing():
            ask.held.leave()
            return
        is_last = self._closes or self._draining.is_set()
        if answer is None:
            self._held = ask.held
            super().data_received(ask.data)
        else:
            ask.held.leave()
            self._write(answer if closes or not is_last else _said_last(answer))
        self._go_on(closes=answer is not None and (closes or is_last))

    def _go_on(self, *, closes: bool) -> None:
        """Close the connection, at once or as aiohttp does it, or take what came meanwhile."""
        assert self.transport is not None
        behind, self._behind = self._behind, b""
        if closes:
            self.transport.close()
        elif self._closes:
            super().close()
        elif behind:
            self.transport.resume_reading()
            self.data_received(behind)

    def close(self) -> None:
        """Close when the answer that is under way is sent."""
        if self.is_asked:
            self._closes = True
        else:
            super().close()

    def _write(self, answer: bytes) -> None:
        """Send an answer of which aiohttp knows nothing; the connection counts as idle from now on."""
        assert self.transport is not None
        self._request_count += 1
        self._answers += 1
        self._keepalive = True
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        self.transport.write(answer)

    def pause_writing(self) -> None:
        """Note when the client begins to take nothing."""
        self._stuck_since = self._loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that it has taken something."""
        self._stuck_since = 0.0
        super().resume_writing()

    async def start(self) -> None:
        """Answer requests until the end; not where that came before the begin, which aiohttp takes for a fault."""
        if self.transport is not None:
            await super().start()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. aiohttp looks at Expect before any middleware, and raises its own.

        Neither that nor what is no HTTP comes to `answer` (see web.py), so what the door took is given back here too.
        """
        if PASS in request:
            request[PASS].leave()
        if isinstance(resp, web.HTTPException):
            resp = self._render(request, ProblemError("malformed", resp.text or resp.reason))
        finished = await super().finish_response(request, resp, start_time)
        self._answers += 1
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or broke outside of the straight way, and end the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        if status >= 500:  # noqa: PLR2004
            structlog.get_logger().error("connection_failed", exc_info=exc)
            return self._render(request, ProblemError("internal"))
        # The words before the colon; what follows quotes the request, and may show a credential.
        words = (message or "").partition(":")[0]
        return self._render(request, ProblemError("malformed", words if " " in words else "this is no HTTP"))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp has to say in the form of our log; a body that broke off has been answered."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            structlog.get_logger().error("connection_failed", reason=str(args[0]), exc_info=kw.get("exc_info"))

    def _render(self, request: web.BaseRequest, error: ProblemError) -> web.Response:
        request[REQUEST_ID] = request_id_of(request)
        response = render_problem(request, error)
        sign(self._app, request, response)
        response.force_close()
        self._app[ACCESS].note(request, response, route="none", took_s=0.0, credential=None)
        return response


def _said_last(answer: bytes) -> bytes:
    """The same, and that no other follows: else a client's next request meets a connection that is being closed."""
    first, _, rest = answer.partition(b"\r\n")
    return b"%b\r\nConnection: close\r\n%b" % (first, rest)


def raise_file_limit() -> None:
    """Let this process open as many files as the system allows it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else hard
    if _file_limit() < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _file_limit() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _FILES_MAX if soft == resource.RLIM_INFINITY else soft
