"""How a process stands up and answers HTTP: request id, credential, problems, health, metrics, drain.

Handlers contain no `try`: whatever goes wrong below one reaches `answer_problems`, which renders
every exception of the tree in errors.py as RFC 9457, and anything else as `internal`. What aiohttp
refuses by itself, before there is a request to handle, `Runner` renders likewise.
"""

import asyncio
import functools
import gc
import itertools
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from service.credential import Credentials, Principal
from service.settings import NodeSettings
from shard_router.errors import PROBLEMS, MalformedIdError, ProblemError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Check = Callable[[], Awaitable[str | None]]
"""A readiness check: None when well, else what is wrong."""
Warn = Callable[[], str | None]
"""What an operator must hear of a node that serves all the same; None when there is nothing."""

PRINCIPAL: Final = web.RequestKey("principal", Principal)
REQUEST_ID: Final = web.RequestKey("request_id", str)
SETTINGS: Final = web.AppKey("settings", NodeSettings)
CREDENTIALS: Final = web.AppKey("credentials", Credentials)
CHECKS: Final = web.AppKey("checks", dict[str, Check])
WARNINGS: Final = web.AppKey("warnings", dict[str, Warn])
DRAINING: Final = web.AppKey("draining", asyncio.Event)
REGISTRY: Final = web.AppKey("registry", CollectorRegistry)


@dataclass(slots=True)
class Flight:
    """How many requests are under way."""

    count: int = 0


FLIGHT: Final = web.AppKey("flight", Flight)

GC_ALLOCATIONS: Final = 20_000  # the default of 700 runs the collector several times per hundred requests
OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json"})
WARNING_MARK: Final = "[!]"  # before a line of /readyz?verbose that makes no node unready
_CHECK_TIMEOUT_S: Final = 1.0
_BODY_TIMEOUT_S: Final = 10.0  # a till on a bad line needs seconds for a basket, a silent socket forever
_LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS = Histogram(
    "loyalty_http_request_seconds",
    "Time to answer.",
    ["method", "route", "status"],
    buckets=_LATENCY_BUCKETS_S,
    registry=None,
)
FORWARDED = Counter("loyalty_forwarded", "Requests handed to the member's home region.", ["region"], registry=None)


def build_app(settings: NodeSettings, credentials: Credentials) -> web.Application:
    """An application with everything but its routes; add `Check`s to app[CHECKS], and to app[WARNINGS], for /readyz."""
    app = web.Application(
        client_max_size=settings.body_bytes_max,
        middlewares=[stamp, answer_problems, authenticate],
        # aiohttp would inflate whatever comes, also a body that is refused unread; read_body stops at the limit.
        handler_args={"auto_decompress": False},
    )
    app[SETTINGS] = settings
    app[CREDENTIALS] = credentials
    app[CHECKS] = {}
    app[WARNINGS] = {"credentials": credentials.look}
    app[FLIGHT] = Flight()
    app[DRAINING] = asyncio.Event()
    app[REGISTRY] = CollectorRegistry()
    for collector in (REQUESTS, FORWARDED):
        app[REGISTRY].register(collector)
    app.router.add_get("/livez", _live)
    app.router.add_get("/readyz", _ready)
    app.router.add_get("/metrics", _metrics)
    return app


@web.middleware
async def stamp(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every answer its Request-Id and Loyalty-Region, and count it."""
    started_at = time.perf_counter()
    request_id = _request_id(request)
    request[REQUEST_ID] = request_id
    response = await _unless_full(request, handler)
    if not response.prepared:
        _sign(response, request_id, region=request.app[SETTINGS].region)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    _histogram(request.method, route, response.status).observe(time.perf_counter() - started_at)
    return response


def _sign(response: web.StreamResponse, request_id: str, *, region: str) -> None:
    response.headers["Request-Id"] = request_id
    response.headers["Server"] = "loyalty"
    response.headers.setdefault("Loyalty-Region", region)


async def _unless_full(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Shed what is more than this node can have under way, before its body is read. Streams have their own bound."""
    flight = request.app[FLIGHT]
    if request.path in OPEN_PATHS or request.path.endswith("/events"):
        return await handler(request)
    if flight.count >= request.app[SETTINGS].in_flight_max:
        return render_problem(request, ProblemError("overloaded", "this node has too much under way"))
    flight.count += 1
    try:
        return await handler(request)
    finally:
        flight.count -= 1


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Render every exception as a problem document."""
    try:
        return await handler(request)
    except ProblemError as error:
        return render_problem(request, error)
    except MalformedIdError:
        return render_problem(request, ProblemError("not_found", "no such id"))
    except web.HTTPException as error:
        return render_problem(request, ProblemError(_CODE_OF_STATUS.get(error.status, "malformed"), error.reason))
    except Exception:  # noqa: BLE001 - the last resort is an answer too
        structlog.get_logger().exception("request_failed", request_id=request[REQUEST_ID], path=request.path)
        return render_problem(request, ProblemError("internal"))


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Everything but health, metrics and the API description needs a credential."""
    if request.path not in OPEN_PATHS:
        request[PRINCIPAL] = request.app[CREDENTIALS].principal(request.headers.get("Authorization"))
    return await handler(request)


def render_problem(request: web.BaseRequest, error: ProblemError) -> web.Response:
    """The RFC 9457 answer of a problem."""
    problem = PROBLEMS[error.code]
    document = problem_document(error, request[REQUEST_ID])
    headers = {"Retry-After": str(problem.retry_after_s)} if problem.retry_after_s else None
    return web.Response(
        status=problem.status, body=orjson.dumps(document), content_type="application/problem+json", headers=headers
    )


def problem_document(error: ProblemError, request_id: str) -> dict[str, Any]:
    """Write the problem document of an error."""
    problem = PROBLEMS[error.code]
    document: dict[str, Any] = {
        "type": f"urn:loyalty:problem:{error.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": error.detail or problem.title,
        "code": error.code,
        "retryable": problem.retryable,
        "request_id": request_id,
    }
    return document | {"errors": error.errors} if error.errors else document


def render_json(body: bytes | object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer from bytes as they are, or from an object."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return web.Response(status=status, body=content, content_type="application/json", headers=headers)


async def read_body(request: web.Request) -> bytes:
    """The raw JSON body, inflated; `unsupported_media_type`, `too_large`, or `malformed` when it does not arrive."""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if request.can_read_body and request.content_type != "application/json":
        raise ProblemError("unsupported_media_type", f"got {request.content_type}")
    if request.can_read_body and coding not in _WINDOW_OF_CODING:
        raise ProblemError("unsupported_media_type", "Content-Encoding: gzip, deflate or none")
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            content = await request.read()
    except TimeoutError as error:
        raise ProblemError("malformed", "the body did not arrive in time") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise ProblemError("malformed", "the body did not arrive whole") from error
    window = _WINDOW_OF_CODING[coding] if content else None
    return content if window is None else _inflate(content, window, bytes_max=request.app[SETTINGS].body_bytes_max)


def _inflate(content: bytes, window: int, *, bytes_max: int) -> bytes:
    """What was compressed; never more than a byte over the limit of it is made, however much there is."""
    inflater = zlib.decompressobj(window)
    try:
        body = inflater.decompress(content, bytes_max + 1)
    except zlib.error as error:
        raise ProblemError("malformed", "the body is not what Content-Encoding says") from error
    if len(body) > bytes_max:
        raise ProblemError("too_large", f"more than {bytes_max} bytes, inflated")
    if not inflater.eof or inflater.unused_data:
        raise ProblemError("malformed", "the compressed body ends too early or too late")
    return body


class Runner(web.AppRunner):
    """Runs an application so that what aiohttp refuses by itself is a problem document too."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self.app[SETTINGS].region)


class _Server(web.Server):
    """A server like the one given."""

    def __init__(self, like: web.Server, region: str) -> None:
        super().__init__(
            self._handle,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            **like._kwargs,  # noqa: SLF001 - of our own base class
        )
        self._region = region
        self._inner = like.request_handler

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._region, loop=self._loop, **self._kwargs)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._inner(request)
        except web.HTTPException as error:  # aiohttp looks at Expect before any middleware
            return _render_outside(request, ProblemError("malformed", error.text or error.reason), self._region)


class _Connection(web.RequestHandler):
    """One client's connection."""

    def __init__(self, server: web.Server, region: str, **arguments: Any) -> None:
        super().__init__(server, **arguments)
        self._region = region

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or broke outside of the middlewares, and end the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        if status >= 500:  # noqa: PLR2004
            structlog.get_logger().error("connection_failed", exc_info=exc)
            return _render_outside(request, ProblemError("internal"), self._region)
        # The words before the colon; what follows quotes the request, and may show a credential.
        words = (message or "").partition(":")[0]
        detail = words if " " in words else "this is no HTTP"
        return _render_outside(request, ProblemError("malformed", detail), self._region)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp has to say in the form of our log; a body that broke off has been answered."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            structlog.get_logger().error("connection_failed", reason=str(args[0]), exc_info=kw.get("exc_info"))


def _render_outside(request: web.BaseRequest, error: ProblemError, region: str) -> web.Response:
    request[REQUEST_ID] = _request_id(request)
    response = render_problem(request, error)
    _sign(response, request[REQUEST_ID], region=region)
    response.force_close()
    return response


async def serve(app: web.Application) -> None:
    """Run until SIGTERM or SIGINT: then fail /readyz, finish what runs, and return."""
    settings = app[SETTINGS]
    # Cancelling a handler when its client hangs up could cancel a commit: never.
    runner = Runner(app, access_log=None, handler_cancellation=False, shutdown_timeout=settings.drain_s)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port, reuse_port=True, backlog=1024)
    await site.start()
    # What lives now lives as long as the process: the collector need not look at it again, nor so often at the rest.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    structlog.get_logger().info("listening", host=settings.host, port=settings.port, region=settings.region)
    try:
        await stop_signal()
    finally:
        app[DRAINING].set()
        await runner.cleanup()


async def stop_signal() -> None:
    """Return at the first SIGTERM or SIGINT."""
    import signal  # noqa: PLC0415 - only a process that serves needs it

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


# Unique is enough for a request id, and a system call for each is not needed.
_PROCESS: Final = secrets.token_hex(4)
_NUMBERS: Final = itertools.count()

_WINDOW_OF_CODING: Final = {"identity": None, "gzip": zlib.MAX_WBITS + 16, "deflate": zlib.MAX_WBITS}
"""Codings a body may have, with zlib's name for their header."""

_CODE_OF_STATUS: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


@functools.lru_cache(maxsize=1024)  # methods are those of routes or 405; looking labels up costs more than observing
def _histogram(method: str, route: str, status: int) -> Histogram:
    return REQUESTS.labels(method, route, status)


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("Request-Id", "")
    if given.isascii() and given.isalnum() and len(given) <= 64:  # noqa: PLR2004
        return given
    return f"{_PROCESS}{next(_NUMBERS):08x}"


async def _live(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _ready(request: web.Request) -> web.Response:
    results = {name: await _check(check) for name, check in request.app[CHECKS].items()}
    if request.app[DRAINING].is_set():
        results["draining"] = "this node is stopping"
    ready = not any(results.values())
    status = 200 if ready else 503
    if "verbose" not in request.query:
        return web.Response(status=status, text="ok" if ready else "not ready")
    lines = [f"[{'-' if wrong else '+'}] {name}: {wrong or 'ok'}" for name, wrong in results.items()]
    lines += [f"{WARNING_MARK} {name}: {words}" for name, warn in request.app[WARNINGS].items() if (words := warn())]
    return web.Response(status=status, text="\n".join(lines) + "\n")


async def _check(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            return await check()
    except Exception as error:  # noqa: BLE001 - a check that fails in any way says not ready
        return f"{type(error).__name__}: {error}"


async def _metrics(request: web.Request) -> web.Response:
    body = generate_latest(request.app[REGISTRY])
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def gauge(app: web.Application, name: str, help_text: str) -> Gauge:
    """A gauge of this application's registry."""
    return Gauge(name, help_text, registry=app[REGISTRY])
