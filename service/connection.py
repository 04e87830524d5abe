"""The connections of a node: what is no HTTP, or broke outside of the straight way, is a problem document too."""

from typing import Any

import structlog
from aiohttp import web

from service.problem import REQUEST_ID, render_problem, request_id_of
from service.settings import SETTINGS
from service.web import sign
from shard_router.errors import ProblemError


class Runner(web.AppRunner):
    """Runs an application so that what aiohttp refuses by itself is a problem document too."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self.app[SETTINGS].region)


class _Server(web.Server):
    """A server like the one given."""

    def __init__(self, like: web.Server, region: str) -> None:
        super().__init__(
            like.request_handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            **like._kwargs,  # noqa: SLF001 - of our own base class
        )
        self._region = region

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._region, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One client's connection."""

    def __init__(self, server: web.Server, region: str, **arguments: Any) -> None:
        super().__init__(server, **arguments)
        self._region = region

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. aiohttp looks at Expect before any middleware, and raises its own."""
        if isinstance(resp, web.HTTPException):
            resp = self._render(request, ProblemError("malformed", resp.text or resp.reason))
        return await super().finish_response(request, resp, start_time)

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
        sign(response, request[REQUEST_ID], region=self._region)
        response.force_close()
        return response
