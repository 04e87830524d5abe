"""Commands that name their member in the body, answered without what aiohttp does for any request.

Only what is plain is taken (see service/quick.py): one whole POST of a basket, a hold or an adjustment, with the id or
a card of ours of a member whom this node serves, or of another region. The rest is that of the usual way (http.py):
key, body, store and time are checked, the command is made and its lane takes it, or a node there has it. What is
refused before is left to the usual way.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import orjson
import structlog
from aiohttp import web

from command.envelope import Answer, Envelope
from command.http import CALLS, HANDLERS, Call
from command.node import Target
from command.operation import OPERATIONS
from command.request import NODE, CommandRequest, Heard, check_till, envelope_of, headers_of, read_key
from service.access import ACCESS
from service.carry import Outcome
from service.cors import CORS
from service.credential import Principal
from service.handed import left_ms, marked, quickly_passed_on
from service.parse import parse_body
from service.problem import PROBLEM, problem_document, problem_headers
from service.quick import DEADLINE, FORWARDED, HARMLESS, JSON, OF_NODES, Ask, render, render_passed_back
from service.settings import SETTINGS
from service.trial import NodeAnswer, Trial, Tried, Unanswered
from service.web import CREDENTIALS, GUARDS, UNDER_WAY, Guard, histogram_of
from shard_router.errors import LoyaltyError, ProblemError

OPERATION_IDS: Final = ("record_purchase", "place_hold", "adjust_points")
_PATHS: Final = {one.path: one.operation_id for one in OPERATIONS if one.operation_id in OPERATION_IDS}
_ASKED: Final = re.compile(b"POST (%b) HTTP/1[.]1\r\n" % "|".join(_PATHS).encode())
_JSON: Final = JSON.encode()
_LOOKED_UP: Final = re.compile(rb'"(?:phone|email)"')
"""Members named so are asked for; a body with such a text elsewhere goes the usual way in vain."""
_CREDENTIAL, _KEY, _TYPE, _ACCEPTED = b"authorization", b"idempotency-key", b"content-type", b"accept-encoding"
_TAKEN: Final = HARMLESS | OF_NODES | {_CREDENTIAL, _KEY, _TYPE, b"content-length"}


class _Asked(NamedTuple):
    """A request that is being answered."""

    path: str
    principal: Principal
    request_id: str
    given: Mapping[bytes, bytes]
    began_at: float
    ask: Ask


class QuickCommand:
    """Asked by a connection for each plain request."""

    def __init__(self, app: web.Application) -> None:
        self._node, self._credentials, self._access = app[NODE], app[CREDENTIALS], app[ACCESS]
        self._places, self._region = app[UNDER_WAY], app[SETTINGS].region
        self._deadline_ms, self._body_max = app[SETTINGS].deadline_ms, app[SETTINGS].body_bytes_max
        self._in_flight_max = app[SETTINGS].in_flight_max
        self._is_open = not app[CORS].origins  # else every answer differs by origin
        self._calls: dict[bytes, tuple[str, Call[Any], Guard]] = {
            path.encode(): (path, CALLS[name], app[GUARDS][HANDLERS[name]]) for path, name in _PATHS.items()
        }

    def __call__(self, ask: Ask) -> bool:
        """Take a request if it is such a command."""
        found = _ASKED.match(ask.data)
        if found is None or not self._is_open or ask.body_length > self._body_max or _LOOKED_UP.search(ask.data):
            return False
        given = ask.fields(_TAKEN)
        if given is None or given.get(_TYPE) != _JSON:
            return False
        path, call, guard = self._calls[found[1]]
        try:
            principal = self._credentials.principal(given.get(_CREDENTIAL, b"").decode("ascii"))
            guard.check(principal)
        except LoyaltyError:
            return False
        one = _Asked(path, principal, ask.request_id, given, time.perf_counter(), ask)
        try:
            self._places.take(principal)
        except ProblemError as error:  # said before the body is looked at, as on the usual way
            asyncio.get_running_loop().call_soon(ask.answer, self._problem(one, error))
            return True
        begins = False
        try:
            begins = self._begins(one, call)
        finally:
            if not begins:
                self._places.leave(principal)
        return begins

    def _begins(self, one: _Asked, call: Call[Any]) -> bool:
        """Whether a lane, or a node of another region, has the command now; not where nobody yet knows the member."""
        try:
            asked, node = self._checked(one, call), self._node
            target = node.named(*asked.body.member.names)
            if target is None:
                return False
            if target.region != self._region:
                return self._hands_on(one, asked, target)
            if not node.serves_slot(target.slot):
                return False
            node.begin(self._envelope(one, call, asked, target)).add_done_callback(partial(self._told, one))
        except LoyaltyError:
            return False
        return True

    def _checked(self, one: _Asked, call: Call[Any]) -> CommandRequest[Any]:
        ask, node = one.ask, self._node
        heard = Heard("POST", one.path, one.request_id, ask.has_left)
        key = read_key(one.principal, [one.given.get(_KEY, b"").decode("ascii")])
        deadline = time.monotonic() + left_ms(one.given.get(DEADLINE, b"").decode("ascii"), self._deadline_ms) / 1000
        body = parse_body(call.body, raw := ask.body)
        asked = CommandRequest(heard, one.principal, body, raw, key, deadline, node.now(), node)
        check_till(asked)
        return asked

    def _envelope(self, one: _Asked, call: Call[Any], asked: CommandRequest[Any], target: Target) -> Envelope:
        """The command, with a place at the shard."""
        command = call.command(asked, target)
        assert not asyncio.iscoroutine(command)
        one.ask.held.enter(self._node.lanes_at(target.region, target.slot).gate)
        return envelope_of(asked, target, command)

    def _hands_on(self, one: _Asked, asked: CommandRequest[Any], target: Target) -> bool:
        """Whether a node of the member's region has it now."""
        if FORWARDED in one.given:
            return False  # the usual way tells whether it was
        mark = marked(self._credentials, self._region, "POST", one.path, one.request_id)
        trial = Trial(
            target.region, "POST", one.path, quickly_passed_on(one.given) | mark, asked.raw, asked.deadline,
            is_command=True, has_other=True,
        )  # fmt: skip
        done = partial(self._handed, one, trial)
        return self._node.forwarder.carry(trial, target.slot, places=self._in_flight_max, done=done)

    def _handed(self, one: _Asked, trial: Trial, came: Outcome) -> None:
        """Pass an answer back; where no node gave one the usual way is to do the command, without asking again."""
        self._places.leave(one.principal)
        content: bytes | None = b""
        try:
            if isinstance(came, NodeAnswer):
                self._note(one, came.status, came.headers.get("Loyalty-Region", self._region))
                content = render_passed_back(came, region=self._region, request_id=one.request_id)
            elif came is None:
                content, one.ask.held.tried = None, Tried(trial.deadline, Unanswered(may_be_done=trial.sent))
            else:
                content = self._problem(one, came)
        except Exception as error:  # noqa: BLE001 - whatever has happened: the connection waits for an answer
            content = self._problem(one, error)
        finally:
            one.ask.answer(content)

    def _told(self, one: _Asked, answer: "asyncio.Future[Answer]") -> None:
        self._places.leave(one.principal)
        closes, content = False, b""
        try:
            error = answer.exception()
            if error is None:
                self._node.note(one.principal.credential, answer.result())
                content = self._rendered(one, answer.result())
            else:
                closes = isinstance(error, ProblemError) and error.elsewhere
                content = self._problem(one, error)
        except Exception as error:  # noqa: BLE001 - whatever has happened: the connection waits for an answer
            content = self._problem(one, error)
        finally:
            one.ask.answer(content, closes=closes)

    def _rendered(self, one: _Asked, answer: Answer) -> bytes:
        more = headers_of(answer)
        return self._noted(one, answer.status, answer.body, PROBLEM if answer.is_refusal else JSON, more)

    def _problem(self, one: _Asked, error: BaseException) -> bytes:
        if not isinstance(error, ProblemError):
            structlog.get_logger().error("request_failed", request_id=one.request_id, path=one.path, exc_info=error)
            error = ProblemError("internal")
        more = problem_headers(error) | ({"Connection": "close"} if error.elsewhere else {})
        body = orjson.dumps(problem_document(error, one.request_id))
        return self._noted(one, error.problem.status, body, PROBLEM, more)

    def _noted(self, one: _Asked, status: int, body: bytes, content_type: str, more: dict[str, str]) -> bytes:
        """The answer, with its line in the log and its time counted."""
        self._note(one, status, self._region)
        lines = "".join([f"{name}: {value}\r\n" for name, value in more.items()]).encode()
        return render(
            status, body, content_type=content_type, region=self._region, request_id=one.request_id, more=lines,
            accepted=one.given.get(_ACCEPTED, b"").decode("ascii"),
        )  # fmt: skip

    def _note(self, one: _Asked, status: int, region: str) -> None:
        took_s = time.perf_counter() - one.began_at
        histogram_of("POST", one.path, status).observe(took_s)
        self._access.add(
            method="POST", route=one.path, status=status, region=region, credential=one.principal.label,
            request_id=one.request_id, took_s=took_s,
        )  # fmt: skip
