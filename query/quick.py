"""The answer to the question asked most, a member's account, without what aiohttp does for any question.

Only what is plain is taken (see service/quick.py): one whole GET, none but harmless headers, a member of this region, a
view in Valkey that may be shown. Everything else, a refusal too, is left to the usual way.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from prometheus_client import Histogram

from query import views
from query.http import get_account
from query.node import NODE
from query.reader import ShardReader
from service.access import ACCESS
from service.coding import BYTES_MIN
from service.cors import CORS
from service.credential import Principal
from service.forward import left_ms
from service.quick import DEADLINE, HARMLESS, OF_NODES, Ask
from service.settings import SETTINGS
from service.web import CREDENTIALS, GUARDS, UNDER_WAY, histogram_of
from shard_router.errors import LoyaltyError
from shard_router.member_id import parse_member_id

_ROUTE: Final = "/v1/members/{member_id}/account"
_ASKED: Final = re.compile(rb"GET /v1/members/([0-9A-Za-z]{14})/account HTTP/1\.1\r\n")
_CREDENTIAL, _ETAG = b"authorization", b"if-none-match"
_TAKEN: Final = HARMLESS | OF_NODES | {_CREDENTIAL, _ETAG}
_VERSION: Final = re.compile(rb'W/"[0-9]{1,19}"')


class _Asked(NamedTuple):
    """A request that is being answered."""

    member_id: int
    principal: Principal
    reader: ShardReader
    request_id: str
    etag: bytes
    """What stands in If-None-Match; empty for nothing."""
    began_at: float
    ask: Ask


class QuickAccount:
    """Asked by a connection for each plain request."""

    def __init__(self, app: web.Application, *, takes_ms: int) -> None:
        """`takes_ms` is how long Valkey may take: whoever has no more time is left to the usual way."""
        self._node, self._credentials, self._access = app[NODE], app[CREDENTIALS], app[ACCESS]
        self._guard, self._places = app[GUARDS][get_account], app[UNDER_WAY]
        self._region, self._deadline_ms = app[SETTINGS].region, app[SETTINGS].deadline_ms
        self._takes_ms = takes_ms
        self._is_open = not app[CORS].origins  # else every answer differs by origin
        signed = f"Server: loyalty\r\nLoyalty-Region: {self._region}\r\n"
        about = "Loyalty-Source: cache\r\nCache-Control: private, no-cache\r\n"
        self._found = f"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n{about}{signed}".encode()
        self._known = f"HTTP/1.1 304 Not Modified\r\n{about}{signed}".encode()

    def __call__(self, ask: Ask) -> bool:
        """Take a request if it is one for an account."""
        asked = _ASKED.match(ask.data)
        if asked is None or not self._is_open:
            return False
        given = ask.fields(_TAKEN)
        if given is None or self._is_in_a_hurry(given):
            return False
        began_at = time.perf_counter()
        try:
            principal = self._credentials.principal(given.get(_CREDENTIAL, b"").decode("ascii"))
            member_id = parse_member_id(asked[1].decode("ascii"))
            if not self._may(principal, member_id):
                return False
            etag = given.get(_ETAG, b"")
            if etag and not _VERSION.fullmatch(etag):
                return False
            reader, request_id = self._node.reader_of(member_id), ask.request_id
            self._places.take(principal)
        except LoyaltyError:
            return False
        self._ask(_Asked(member_id, principal, reader, request_id, etag, began_at, ask))
        return True

    def _is_in_a_hurry(self, given: Mapping[bytes, bytes]) -> bool:
        """Whether the time that is left is less than Valkey may take."""
        return DEADLINE in given and left_ms(given[DEADLINE].decode("ascii"), self._deadline_ms) <= self._takes_ms

    def _may(self, principal: Principal, member_id: int) -> bool:
        is_let_in = self._guard.roles is None or principal.role in self._guard.roles
        return is_let_in and principal.may_see(member_id) and self._node.elsewhere(member_id) is None

    def _ask(self, one: _Asked) -> None:
        """Ask for the account, and for a member whether they are erased: the last answer is no older than the first."""
        cache = one.reader.cache
        account, last = cache.get(views.account_key(one.member_id)), None
        if one.principal.role == "member":
            last = cache.get(views.profile_key(one.member_id))
        (last or account).add_done_callback(partial(self._told, one, account, last))

    def _told(
        self,
        one: _Asked,
        account: "asyncio.Future[bytes | None]",
        profile: "asyncio.Future[bytes | None] | None",
        _last: "asyncio.Future[bytes | None]",
    ) -> None:
        self._places.leave(one.principal)
        answer: bytes | None = None
        try:
            seen = _seen(one.member_id, account, profile)
            if seen and one.reader.may_show(one.member_id, seen[0]):
                answer = self._rendered(one, *seen)
        except LoyaltyError:
            answer = None
        finally:
            one.ask.answer(answer)  # whatever has happened: the connection waits for it

    def _rendered(self, one: _Asked, version: int, body: bytes) -> bytes:
        etag = b'W/"%d"' % version
        is_known = one.etag == etag
        took_s = time.perf_counter() - one.began_at
        _TIMES[is_known].observe(took_s)
        status = 304 if is_known else 200
        self._access.add(
            method="GET", route=_ROUTE, status=status, region=self._region, credential=one.principal.label,
            request_id=one.request_id, took_s=took_s,
        )  # fmt: skip
        ending = b"" if is_known else b"Content-Length: %d\r\n" % len(body)
        return b"%bETag: %b\r\nRequest-Id: %b\r\n%bDate: %b\r\n\r\n%b" % (
            self._known if is_known else self._found,
            etag,
            one.request_id.encode(),
            ending,
            rfc822_formatted_time().encode(),
            b"" if is_known else body,
        )


_TIMES: Final[tuple[Histogram, Histogram]] = (histogram_of("GET", _ROUTE, 200), histogram_of("GET", _ROUTE, 304))


def _seen(
    member_id: int, account: "asyncio.Future[bytes | None]", profile: "asyncio.Future[bytes | None] | None"
) -> tuple[int, bytes] | None:
    """Version and body that may be shown, None where only the usual way can tell; DamagedViewError as it finds them."""
    value = account.result() if account.done() else None
    if value is None:
        return None
    version, body = views.split(views.account_key(member_id), value)
    if profile is not None:
        stored = profile.result()
        if stored is None or views.is_erased(views.split(views.profile_key(member_id), stored)[1]):
            return None
    return (version, body) if len(body) <= BYTES_MIN else None
