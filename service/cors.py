"""Which pages of other origins may ask this node, by the CORS protocol (fetch.spec.whatwg.org).

Credentials travel in a header that only the page's own script can send, so an allowed origin gives nobody a session of
somebody else: what it lets through is reading answers.
"""

from typing import Final

from aiohttp import hdrs, web

from service.resource import methods_of
from service.settings import ANY_ORIGIN

READABLE: Final = (
    "ETag, Request-Id, Consistency-Token, Idempotent-Replayed, Loyalty-Region, Loyalty-Source, Retry-After, Allow"
)
_SENDABLE: Final = (
    "Authorization, Content-Type, Content-Encoding, Idempotency-Key, Consistency-Token, If-None-Match, Last-Event-ID, "
    "Loyalty-Deadline-Ms, Loyalty-Member, Request-Id, traceparent, tracestate"
)
_REMEMBERED_S: Final = 7_200  # as long as any browser remembers a preflight


class CrossOrigin:
    """The origins let in."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self.origins = frozenset(origins)

    def allow(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Let the asking page read an answer, when its origin is let in."""
        vary(response, hdrs.ORIGIN)
        if self._lets_in(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = READABLE

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks before it asks; None when this is no such question, or not from here.

        A door sends the question to a query node, whichever side the call is for: so both sides' methods are told.
        """
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers or not self._lets_in(request):
            return None
        methods, wrong = methods_of(request.path), request.match_info.http_exception
        if methods is None and isinstance(wrong, web.HTTPMethodNotAllowed):
            methods = ",".join(sorted(wrong.allowed_methods))
        if methods is None:  # nothing is there
            return None
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: methods.replace(",", ", "),
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _SENDABLE,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_REMEMBERED_S),
        }
        return web.Response(status=204, headers=headers)

    def _lets_in(self, request: web.BaseRequest) -> bool:
        return hdrs.ORIGIN in request.headers and (
            ANY_ORIGIN in self.origins or request.headers[hdrs.ORIGIN] in self.origins
        )


CORS: Final = web.AppKey("cors", CrossOrigin)


def vary(response: web.StreamResponse, name: str) -> None:
    """Tell caches that an answer is another one for another header of this name."""
    given = response.headers.get(hdrs.VARY)
    if given is None or name not in given.split(", "):  # the home region of a forwarded request may have said so
        response.headers[hdrs.VARY] = f"{given}, {name}" if given else name
