"""What names a request, and the line that its answer leaves in the log of whatever node did the work.

A caller's own `Request-Id`, else the trace of its `traceparent`, names the request here and in every region it is
handed to. Lines are written some at a time: one system call for each would cost more than the rest of the line.
"""

import asyncio
import itertools
import os
import re
import secrets
import time
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Final

import orjson
from aiohttp import web

from service.log import Output
from service.settings import NodeSettings

_GIVEN: Final = re.compile(r"[A-Za-z0-9._:=-]{1,64}")
_GIVEN_IN_HEAD: Final = re.compile(rb"\r\nrequest-id:([^\r]*)", re.IGNORECASE)
_TRACE_IN_HEAD: Final = re.compile(rb"\r\ntraceparent:([^\r]*)", re.IGNORECASE)
_TRACE: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # w3.org/TR/trace-context
_LOGGED_AT: Final = frozenset({"debug", "info"})
_PAUSE_S: Final = 0.1
_HELD_MAX: Final = 256  # lines, about 64 kB
_NUMBERS: Final = itertools.count()


def request_id_of(request: web.BaseRequest) -> str:
    """The id the caller gave this request when it can serve as one, else that of its trace, else a new one."""
    headers = request.headers
    if "Request-Id" in headers and _GIVEN.fullmatch(given := headers["Request-Id"]):
        return given
    if "traceparent" in headers and (trace := _TRACE.match(headers["traceparent"])):
        return trace[1]
    return _new_id()


def id_in_head(head: bytes, lowered: bytes) -> str:
    """The id of a request that is not parsed, of its head's bytes; `lowered` has them in lower case."""
    if b"\r\nrequest-id:" in lowered and (given := _GIVEN.fullmatch(_first(_GIVEN_IN_HEAD, head))):
        return given[0]
    if b"\r\ntraceparent:" in lowered and (trace := _TRACE.match(_first(_TRACE_IN_HEAD, head))):
        return trace[1]
    return _new_id()


def _first(line: re.Pattern[bytes], head: bytes) -> str:
    found = line.search(head)
    return found[1].strip(b" \t").decode("latin-1") if found else ""


def _new_id() -> str:
    return f"{_process()}{next(_NUMBERS):08x}"


@cache
def _process() -> str:
    """Unique is enough, and a system call for each request is not needed. A fork draws its own."""
    os.register_at_fork(after_in_child=_process.cache_clear)
    return secrets.token_hex(4)


class AccessLog:
    """The lines of answers."""

    def __init__(self, settings: NodeSettings, output: Output) -> None:
        self._enabled = settings.log_level in _LOGGED_AT
        self._output = output
        self._held: list[str] = []

    def note(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        *,
        route: str,
        took_s: float,
        credential: str | None,
    ) -> None:
        """Add the line of an answer. It names no member and quotes no path."""
        if not self._enabled:
            return
        headers, trace = response.headers, None
        if "traceparent" in request.headers:
            trace = _TRACE.match(request.headers["traceparent"])
        self.add(
            method=request.method, route=route, status=response.status, region=headers["Loyalty-Region"],
            credential=credential, request_id=headers["Request-Id"], took_s=took_s, trace=trace[1] if trace else None,
        )  # fmt: skip

    def add(  # noqa: PLR0913
        self,
        *,
        method: str,
        route: str,
        status: int,
        region: str,
        credential: str | None,
        request_id: str,
        took_s: float,
        trace: str | None = None,
    ) -> None:
        """The same of an answer that is no object."""
        if not self._enabled:
            return
        about = _about(method, route, status, region, credential)
        second, ms = divmod(time.time_ns() // 1_000_000, 1000)
        at = f"{_second(second)}.{ms:03d}Z"
        line = f'{{"request_id":"{request_id}",{about},"took_ms":{took_s * 1000:.1f},"timestamp":"{at}"'
        if trace:
            line = f'{line},"trace_id":"{trace}"'
        if not self._held:
            asyncio.get_running_loop().call_later(_PAUSE_S, self.flush)
        self._held.append(line)
        if len(self._held) >= _HELD_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            self._output.write("}\n".join(self._held) + "}\n")
            self._held.clear()


@lru_cache(maxsize=2)
def _second(unix_s: int) -> str:
    """A second as text, without its zone: many lines share it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat()[:-6]


@lru_cache(maxsize=1_024)
def _about(method: str, route: str, status: int, region: str, credential: str | None) -> str:
    """The fields of a line that many lines share, as JSON without its braces."""
    shared = {
        "event": "answered",
        "level": "info",
        "method": method,
        "route": route,
        "status": status,
        "region": region,
        "credential": credential,
    }
    return orjson.dumps(shared)[1:-1].decode()


ACCESS: Final = web.AppKey("access", AccessLog)
