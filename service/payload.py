"""The body of a request: read from the wire within bounds of size and time, and inflated."""

import asyncio
import zlib
from typing import Final

from aiohttp import web

from service.credential import Principal
from service.place import Places
from service.settings import SETTINGS
from shard_router.errors import ProblemError

BODY: Final = web.RequestKey("body", bytes)
"""The raw JSON body of a request whose operation has one; empty when none was sent."""
ARRIVING: Final = web.AppKey("arriving", Places)
"""Bodies that are still on their way."""

_TIMEOUT_S: Final = 10.0  # a till on a bad line needs seconds for a basket, a silent socket forever
_WINDOW_OF_CODING: Final = {"identity": None, "gzip": zlib.MAX_WBITS + 16, "deflate": zlib.MAX_WBITS}
"""Codings a body may have, with zlib's name for their header."""


async def read_payload(request: web.Request, principal: Principal) -> bytes:
    """The raw JSON body, inflated; `unsupported_media_type`, `too_large`, or `malformed` when it does not arrive."""
    if not request.can_read_body:
        return b""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if request.content_type != "application/json":
        raise ProblemError("unsupported_media_type", f"got {request.content_type}")
    if coding not in _WINDOW_OF_CODING:
        raise ProblemError("unsupported_media_type", "Content-Encoding: gzip, deflate or none")
    if (request.content_length or 0) > (bytes_max := request.app[SETTINGS].body_bytes_max):
        raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=request.content_length or 0)
    try:
        content = _arrived(request) if request.content.is_eof() else await _arrive(request, principal)
    except TimeoutError as error:
        raise ProblemError("malformed", "the body did not arrive in time") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise ProblemError("malformed", "the body did not arrive whole") from error
    window = _WINDOW_OF_CODING[coding] if content else None
    return content if window is None else _inflate(content, window, bytes_max=request.app[SETTINGS].inflated_bytes_max)


def _arrived(request: web.Request) -> bytes:
    """A body that came along with its head, as most do: it is taken without a turn of the loop."""
    content = request.content.read_nowait()
    bytes_max = request.app[SETTINGS].body_bytes_max
    if len(content) > bytes_max:  # in chunks; a length was looked at before
        raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=len(content))
    return content


async def _arrive(request: web.Request, principal: Principal) -> bytes:
    """Wait for a body that did not come along with its head."""
    arriving = request.app[ARRIVING]
    arriving.take(principal)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await request.read()
    finally:
        arriving.leave(principal)


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
