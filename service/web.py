"""The application of a node, and the straight way of a request through it.

`answer` is that way: request id, credential, roles and parameters, body, place, handler, headers. What a handler
raises is rendered by problem.py, so handlers contain no `try`. What a route lets pass without is its `Guard`.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.access import ACCESS, AccessLog, request_id_of
from service.admission import Gates, Pass, Rank
from service.coding import compress
from service.cors import CORS, CrossOrigin
from service.credential import Credentials, Principal, Role
from service.door import Path, raised
from service.health import (
    CHECKED,
    CHECKS,
    DRAINING,
    FIGURES,
    REGISTRY,
    WARNINGS,
    Check,
    Together,
    answer_livez,
    answer_metrics,
    answer_readyz,
    ask_checks,
    write_figures,
)
from service.log import Output
from service.payload import ARRIVING, BODY, read_payload
from service.place import Places
from service.problem import REQUEST_ID, malformed_parameter, render_exception
from service.retry import RETRIES
from service.settings import SETTINGS, NodeSettings
from service.vital import register_vital
from shard_router.errors import ProblemError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PRINCIPAL: Final = web.RequestKey("principal", Principal)
CREDENTIALS: Final = web.AppKey("credentials", Credentials)
PASS: Final = web.RequestKey("pass", Pass)
"""What a request holds of the limits; the door may have taken it before the request was parsed."""
GATES: Final = web.AppKey("gates", Gates)
PATHS: Final = web.AppKey("paths", list[Path])
"""What the door knows."""
UNDER_WAY: Final = web.AppKey("under_way", Places)
"""Requests under way."""
STREAMS: Final = web.AppKey("streams", Places)
"""Event streams, which stay: a node that has some gives them a bound of their own."""

_LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS = Histogram(
    "loyalty_http_request_seconds",
    "Time to answer.",
    ["method", "route", "status"],
    buckets=_LATENCY_BUCKETS_S,
    registry=None,
)
FORWARDED = Counter("loyalty_forwarded", "Requests handed to the member's home region.", ["region"], registry=None)


@dataclass(frozen=True, slots=True)
class Guard:
    """What is asked of a request before its handler sees it. Without one of its own a route is guarded by the default.

    `roles` and `query` are the roles and query parameters let through, None for any. `desk`: a key that is bound to a
    store needs the right of that name. An `open` route needs no credential. `places` are those it takes one of.
    `identify` may know who asks in another way than by credential. `rank` tells when it is shed.
    """

    roles: frozenset[Role] | None = None
    query: frozenset[str] | None = None
    desk: bool = False
    takes_body: bool = False
    places: web.AppKey[Places] = UNDER_WAY
    open: bool = False
    identify: Callable[[web.Request], Principal | None] | None = None
    rank: Rank = Rank.SPEND

    def check(self, principal: Principal) -> None:
        """Pass for whoever may do this."""
        if self.roles is not None and principal.role not in self.roles:
            raise ProblemError("forbidden", f"role {principal.role} may not do this")
        if self.desk and principal.store is not None and not principal.desk:
            raise ProblemError("forbidden", "a key bound to a store needs the right `desk` for this")


GUARDS: Final = web.AppKey("guards", dict[Any, Guard])
"""Guards by handler."""
OPEN: Final = Guard(open=True)
OPEN_PATHS: Final = web.AppKey("open_paths", set[str])
_DEFAULT: Final = Guard()


def build_app(settings: NodeSettings, credentials: Credentials, *, first: Rank = Rank.SPEND) -> web.Application:
    """An application with everything but its routes; add `Check`s to app[CHECKS], and to app[WARNINGS], for /readyz.

    `first` is the class of its requests that is shed last.
    """
    app = web.Application(
        client_max_size=settings.body_bytes_max,
        middlewares=[answer],
        # aiohttp would inflate whatever comes, also a body that is refused unread; payload.py stops at the limit.
        handler_args={"auto_decompress": False},
    )
    app[SETTINGS] = settings
    app[CREDENTIALS] = credentials
    app[CHECKS] = checks = dict[str, Check]()
    app[CHECKED] = Together(functools.partial(ask_checks, checks))
    app[WARNINGS] = {"credentials": credentials.look}
    app[GUARDS] = {}
    app[CORS] = CrossOrigin(settings.cors_origins)
    app[ACCESS] = access = AccessLog(settings, Output())
    app[UNDER_WAY] = Places(settings.in_flight_max, "under way")
    app[ARRIVING] = Places(settings.bodies_arriving_max, "arriving")
    app[DRAINING] = asyncio.Event()
    app[REGISTRY] = registry = CollectorRegistry()
    app[FIGURES] = Together(functools.partial(write_figures, registry))
    app[GATES] = Gates(settings.in_flight_max, app[REGISTRY], first=first, target_s=settings.overload_delay_ms / 1000)
    app[PATHS] = []
    app[OPEN_PATHS] = set()
    for collector in (REQUESTS, FORWARDED, RETRIES):
        app[REGISTRY].register(collector)
    register_vital(app[REGISTRY], credentials.folder)
    for path, handler in (("/livez", answer_livez), ("/readyz", answer_readyz), ("/metrics", answer_metrics)):
        add_route(app, "GET", path, handler, guard=OPEN)
    app.on_cleanup.append(functools.partial(_flush, access))
    return app


def add_route(app: web.Application, method: str, path: str, handler: Handler, *, guard: Guard) -> None:
    """Register a handler behind its guard."""
    app[GUARDS][handler] = guard
    if guard.open:
        app[OPEN_PATHS].add(path)
    else:
        app[PATHS].append(Path(method, path, guard.rank))
    for name in ("GET", "HEAD") if method == "GET" else (method,):
        app.router.add_route(name, path, handler)


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take a request the straight way, and give its answer the headers that every answer has."""
    started_at = time.perf_counter()
    app = request.app
    request[REQUEST_ID] = request_id_of(request)
    guard = _guard_of(request)
    try:
        if request.method == "OPTIONS" and (preflight := app[CORS].preflight(request)):
            response = preflight
        elif guard.open:
            response = await handler(request)
        else:
            principal = guard.identify(request) if guard.identify else None
            if principal is None:
                principal = app[CREDENTIALS].principal(_credential(request))
            request[PRINCIPAL] = principal
            _check(guard, request, principal)
            await _take_in(guard, request, principal)
            places = app[guard.places]
            places.take(principal)
            try:
                response = await handler(request)
            finally:
                places.leave(principal)
    except Exception as error:  # noqa: BLE001 - the last resort is an answer too
        response = render_exception(request, error)
    finally:
        if PASS in request:
            request[PASS].leave()
    if not response.prepared:
        sign(app, request, response)
        compress(request, response)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    took_s = time.perf_counter() - started_at
    histogram_of(request.method, route, response.status).observe(took_s)
    if not guard.open or response.status >= 400:  # noqa: PLR2004 - probes come every second
        label = request[PRINCIPAL].label if PRINCIPAL in request else None
        app[ACCESS].note(request, response, route=route, took_s=took_s, credential=label)
    return response


def _guard_of(request: web.Request) -> Guard:
    """The guard of a route; what an open resource lacks is told to everybody too, as which methods it has."""
    guard = request.app[GUARDS].get(request.match_info.handler, _DEFAULT)
    return OPEN if guard is _DEFAULT and request.path in request.app[OPEN_PATHS] else guard


def _credential(request: web.Request) -> str | None:
    """What was sent as Authorization. Two are one text, which is no credential: nobody knows which of them counts."""
    given = request.headers.getall("Authorization", None)
    return None if given is None else ", ".join(given)


async def _take_in(guard: Guard, request: web.Request, principal: Principal) -> None:
    """Let a request in that the door has not, and read its body; `overloaded` comes before the body is looked at."""
    gates = request.app[GATES]
    if PASS not in request and not gates.node.admits(guard.rank):
        raise ProblemError("overloaded", "this node has as much under way as it gets done in time")
    if guard.takes_body:
        request[BODY] = await read_payload(request, principal)
    if PASS not in request:
        request[PASS] = gates.enter(raised(guard.rank, request.get(BODY, b"")))
    if guard.places is STREAMS:  # they stay, and wait for nothing
        request[PASS].leave()


def sign(app: web.Application, request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Give an answer the headers that every answer has. One that is prepared by its handler needs them before."""
    headers = response.headers
    headers["Request-Id"] = request[REQUEST_ID]
    headers["Server"] = "loyalty"
    headers.setdefault("Loyalty-Region", app[SETTINGS].region)
    if app[DRAINING].is_set():
        response.force_close()  # the next request is to go to a node that stays
    if app[CORS].origins:
        app[CORS].allow(request, response)


def render_json(body: bytes | object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer from bytes as they are, or from an object."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return web.Response(status=status, body=content, content_type="application/json", headers=headers)


async def _flush(access: AccessLog, _app: web.Application) -> None:
    access.flush()


def _check(guard: Guard, request: web.Request, principal: Principal) -> None:
    """Pass for a role and query parameters that are let through."""
    guard.check(principal)
    if guard.query is not None and request.query_string:
        for name in (given := request.query):
            if name not in guard.query:
                raise malformed_parameter(name, "there is no such parameter")
            if len(given.getall(name)) > 1:
                raise malformed_parameter(name, "send it once")


@functools.lru_cache(maxsize=1024)  # methods are those of routes or 405; looking labels up costs more than observing
def histogram_of(method: str, route: str, status: int) -> Histogram:
    """Where the times of such answers are counted."""
    return REQUESTS.labels(method, route, status)
