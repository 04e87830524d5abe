"""The answers to the questions asked most about a member, without what aiohttp does for any question.

Only what is plain is taken (see service/quick.py): one whole GET of an account, a member or the newest entries, none
but harmless headers and a token, a member of this region, views in Valkey that may be shown; of a member of another
region, a node there that answers. Everything else, a refusal of this node too, is left to the usual way.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from prometheus_client import Counter, Histogram

from query import views
from query.http import as_seen_by, get_account, get_member, list_activity
from query.node import NODE, home_deadline
from query.page import SIZE_DEFAULT
from query.question import ActivityQuestion, MemberQuestion, Question
from query.reader import ShardReader
from service.access import ACCESS
from service.carry import Outcome
from service.coding import BYTES_MIN
from service.cors import CORS
from service.credential import Principal
from service.handed import left_ms, marked, quickly_passed_on
from service.quick import DEADLINE, FORWARDED, HARMLESS, OF_NODES, VARY, Ask, render, render_passed_back
from service.settings import SETTINGS
from service.trial import NodeAnswer, Trial, Tried
from service.web import CREDENTIALS, GUARDS, UNDER_WAY, Guard, histogram_of
from shard_router.errors import LoyaltyError
from shard_router.member_id import parse_member_id, slot_of
from shard_router.token import TOKEN_HEADER, parse_token

_MEMBER: Final = "/v1/members/{member_id}"
_ACCOUNT, _ACTIVITY = b"/account", b"/activity"
_ASKED: Final = re.compile(rb"GET /v1/members/([0-9A-Za-z]{14})(%b|%b|) HTTP/1\.1\r\n" % (_ACCOUNT, _ACTIVITY))
_CREDENTIAL, _ETAG, _TOKEN = b"authorization", b"if-none-match", TOKEN_HEADER.lower().encode()
_ACCEPTED: Final = b"accept-encoding"
_TAKEN: Final = HARMLESS | OF_NODES | {_CREDENTIAL, _ETAG, _TOKEN}
_VERSION: Final = re.compile(rb'W/"[0-9]{1,19}"')
_JSON: Final = "application/json; charset=utf-8"
_ABOUT: Final = b"Loyalty-Source: cache\r\nCache-Control: private, no-cache\r\n"
_QUESTIONS: Final[Mapping[bytes, Callable[[int, Principal], Question]]] = {
    b"": lambda member_id, _: MemberQuestion(member_id),
    _ACTIVITY: lambda member_id, principal: as_seen_by(principal, ActivityQuestion(member_id, None, SIZE_DEFAULT)),
}
"""What is asked for below a member, but for the account, which is asked most and so without a task."""


NEAR: Final = Counter(
    "loyalty_query_near", "Answers from views that a node had kept, without asking Valkey.", registry=None
)


class _Route(NamedTuple):
    """What a path asks for, who may, and where the times of its answers are counted: those of 200 and of 304."""

    path: str
    guard: Guard
    times: tuple[Histogram, Histogram]


class _Asked(NamedTuple):
    """A request that is being answered."""

    member_id: int
    route: _Route
    principal: Principal
    reader: ShardReader
    at_least: int
    """The version of the member that a token demands; 0 for none."""
    request_id: str
    given: Mapping[bytes, bytes]
    began_at: float
    ask: Ask


class QuickRead:
    """Asked by a connection for each plain request."""

    def __init__(self, app: web.Application, *, takes_ms: int) -> None:
        """`takes_ms` is how long Valkey may take: whoever has no more time is left to the usual way."""
        self._node, self._credentials, self._access = app[NODE], app[CREDENTIALS], app[ACCESS]
        self._places = app[UNDER_WAY]
        self._region, self._deadline_ms = app[SETTINGS].region, app[SETTINGS].deadline_ms
        self._takes_ms, self._in_flight_max = takes_ms, app[SETTINGS].in_flight_max
        self._is_open = not app[CORS].origins  # else every answer differs by origin
        handlers = {b"": get_member, _ACCOUNT: get_account, _ACTIVITY: list_activity}
        self._routes = {below: _route(below, app[GUARDS][handler]) for below, handler in handlers.items()}
        signed = b"%bServer: loyalty\r\nLoyalty-Region: %b\r\n" % (_ABOUT, self._region.encode())
        self._found = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b" % (_JSON.encode(), signed)
        self._known = b"HTTP/1.1 304 Not Modified\r\n%b" % signed

    def __call__(self, ask: Ask) -> bool | bytes:
        """Take a request if it is one of these; its answer where nobody need be asked."""
        asked = _ASKED.match(ask.data)
        if asked is None or not self._is_open:
            return False
        given = ask.fields(_TAKEN)
        if given is None:
            return False
        began_at, route = time.perf_counter(), self._routes[asked[2]]
        try:
            principal = self._credentials.principal(given.get(_CREDENTIAL, b"").decode("ascii"))
            member_id = parse_member_id(asked[1].decode("ascii"))
            at_least = _demanded(given, member_id)
            if at_least is None or not principal.may_see(member_id):
                return False
            route.guard.check(principal)
            elsewhere, reader = self._node.elsewhere(member_id), self._node.reader_of(member_id)
            one = _Asked(member_id, route, principal, reader, at_least, ask.request_id, given, began_at, ask)
            if elsewhere is None:
                if not self._has_time(given) or not _is_usual(given):
                    return False
                if (answer := self._at_once(one, asked[2])) is not None:
                    return answer
            self._places.take(principal)
        except LoyaltyError:
            return False
        begins = False
        try:
            if elsewhere is None:
                self._asks(one, asked[2])
                begins = True
            else:
                begins = self._hands_on(one, elsewhere)
        finally:
            if not begins:
                self._places.leave(principal)
        return begins

    def _has_time(self, given: Mapping[bytes, bytes]) -> bool:
        """Whether Valkey can be asked in the time that is left."""
        return DEADLINE not in given or self._left_ms(given) > self._takes_ms

    def _at_once(self, one: _Asked, below: bytes) -> bytes | None:
        """The answer from what is kept here of Valkey's views, by the rules of any other."""
        near = one.reader.cache.near
        kept = near.get(one.member_id) if near is not None and below != _ACTIVITY else None
        if kept is None:
            return None
        version, body = kept.account
        if below != _ACCOUNT or one.principal.role == "member":
            seen = MemberQuestion.see(kept.account, kept.profile) if kept.profile else None
            if seen is None or seen.body is None:  # only the usual way can tell
                return None
            body = seen.body if below != _ACCOUNT else body
        if not one.reader.may_show(one.member_id, version, at_least=one.at_least):
            return None
        NEAR.inc()
        return self._rendered(one, version, body)

    def _asks(self, one: _Asked, below: bytes) -> None:
        """Ask Valkey."""
        if below == _ACCOUNT:
            self._ask_account(one)
        else:
            question = _QUESTIONS[below](one.member_id, one.principal)
            asyncio.ensure_future(self._answer(one, question)).add_done_callback(partial(self._answered, one))

    def _left_ms(self, given: Mapping[bytes, bytes]) -> int:
        return left_ms(given.get(DEADLINE, b"").decode("ascii"), self._deadline_ms)

    def _hands_on(self, one: _Asked, region: str) -> bool:
        """Whether a node of the member's region is being asked."""
        if FORWARDED in one.given:
            return False  # the usual way tells whether it was
        deadline = time.monotonic() + self._left_ms(one.given) / 1000
        target = one.ask.data.split(b" ", 2)[1].decode("ascii")
        headers = quickly_passed_on(one.given) | marked(self._credentials, self._region, "GET", target, one.request_id)
        trial = Trial(
            region, "GET", target, headers, None, home_deadline(deadline), is_command=False, has_other=True
        )  # fmt: skip
        return self._node.forwarder.carry(
            trial, slot_of(one.member_id), places=self._in_flight_max, done=partial(self._handed, one, deadline)
        )

    def _handed(self, one: _Asked, deadline: float, came: Outcome) -> None:
        """Pass an answer back; where there is none that is believed, the usual way is to read without asking again."""
        self._places.leave(one.principal)
        answer: bytes | None = None
        try:
            if isinstance(came, NodeAnswer) and self._node.believes(one.member_id, came.headers.get("ETag", "")):
                took_s = self._note(one, came.status, came.headers.get("Loyalty-Region", self._region))
                histogram_of("GET", one.route.path, came.status).observe(took_s)
                answer = render_passed_back(came, region=self._region, request_id=one.request_id)
        except LoyaltyError:
            answer = None
        finally:
            one.ask.held.tried = None if answer else Tried(deadline)
            one.ask.answer(answer)

    def _ask_account(self, one: _Asked) -> None:
        """Ask for the account, and for a member whether they are erased: the last answer is no older than the first."""
        cache = one.reader.cache
        if one.principal.role == "member":
            account = cache.get(views.account_key(one.member_id))
            cache.tell(views.profile_key(one.member_id), partial(self._told_both, one, account))
        else:
            cache.tell(views.account_key(one.member_id), partial(self._told, one))

    def _told_both(self, one: _Asked, account: "asyncio.Future[bytes | None]", profile: bytes | None) -> None:
        value: bytes | None = None
        try:
            key = views.profile_key(one.member_id)
            if profile is not None and account.done() and not views.is_erased(views.split(key, profile)[1]):
                value = account.result()
        except LoyaltyError:
            value = None
        finally:
            self._told(one, value)  # None: only the usual way can tell

    def _told(self, one: _Asked, account: bytes | None) -> None:
        self._places.leave(one.principal)
        answer: bytes | None = None
        try:
            if account is not None:
                version, body = views.split(views.account_key(one.member_id), account)
                if one.reader.may_show(one.member_id, version, at_least=one.at_least):
                    answer = self._rendered(one, version, body)
        except LoyaltyError:
            answer = None
        finally:
            one.ask.answer(answer)  # whatever has happened: the connection waits for it

    async def _answer(self, one: _Asked, question: Question) -> bytes | None:
        """The answer to a question of several views; None where only the usual way can tell."""
        seen = await question.ask_cache(one.reader.cache)
        if seen is None or seen.body is None:
            return None
        if not one.reader.may_show(one.member_id, seen.seen, at_least=one.at_least):
            return None
        return self._rendered(one, seen.etag, seen.body)

    def _answered(self, one: _Asked, answer: "asyncio.Task[bytes | None]") -> None:
        self._places.leave(one.principal)
        has_failed = answer.cancelled() or answer.exception() is not None  # the usual way meets it again, and tells
        one.ask.answer(None if has_failed else answer.result())

    def _rendered(self, one: _Asked, version: int, body: bytes) -> bytes:
        etag = b'W/"%d"' % version
        is_known = one.given.get(_ETAG) == etag
        one.route.times[is_known].observe(self._note(one, 304 if is_known else 200, self._region))
        if len(body) > BYTES_MIN and not is_known:
            return render(
                200, body, content_type=_JSON, region=self._region, request_id=one.request_id,
                more=b"%bETag: %b\r\n" % (_ABOUT, etag), accepted=one.given.get(_ACCEPTED, b"").decode("ascii"),
            )  # fmt: skip
        ending = b"Content-Length: %d\r\n" % len(body)
        if is_known:
            ending = VARY if len(body) > BYTES_MIN else b""
        return b"%bETag: %b\r\nRequest-Id: %b\r\n%bDate: %b\r\n\r\n%b" % (
            self._known if is_known else self._found,
            etag,
            one.request_id.encode(),
            ending,
            rfc822_formatted_time().encode(),
            b"" if is_known else body,
        )

    def _note(self, one: _Asked, status: int, region: str) -> float:
        """Write the line of an answer; how long it took (s)."""
        took_s = time.perf_counter() - one.began_at
        self._access.add(
            method="GET", route=one.route.path, status=status, region=region, credential=one.principal.label,
            request_id=one.request_id, took_s=took_s,
        )  # fmt: skip
        return took_s


def _route(below: bytes, guard: Guard) -> _Route:
    path = _MEMBER + below.decode()
    return _Route(path, guard, (histogram_of("GET", path, 200), histogram_of("GET", path, 304)))


def _is_usual(given: Mapping[bytes, bytes]) -> bool:
    """Whether a request names no version, or one in the usual form."""
    etag = given.get(_ETAG)
    return not etag or _VERSION.fullmatch(etag) is not None


def _demanded(given: Mapping[bytes, bytes], member_id: int) -> int | None:
    """The version that a token demands, 0 without one; None for another member's, LoyaltyError for what is no token."""
    if _TOKEN not in given:
        return 0
    token = parse_token(given[_TOKEN].decode("ascii"))
    return token.version if token.member_id == member_id else None
