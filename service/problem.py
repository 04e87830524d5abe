"""Problem documents (RFC 9457): how every error is answered."""

from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from rules.outcome import Refused
from service.resource import methods_instead, methods_of
from shard_router.errors import PROBLEMS, MalformedIdError, ProblemError

PROBLEM: Final = "application/problem+json"
REQUEST_ID: Final = web.RequestKey("request_id", str)
_SHOWN_MAX: Final = 300  # characters of one text: what was sent is not sent back by the megabyte
_CHALLENGE: Final = 'Bearer realm="loyalty"'

_READS: Final = frozenset({"GET", "HEAD"})
_NO_ROUTE: Final = 404
_OTHER_SIDE: Final = "a node of the other kind takes this: send commands to command nodes and queries to query nodes"
_CODE_OF_STATUS: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


def render_exception(request: web.BaseRequest, error: Exception) -> web.Response:
    """The answer of whatever a handler raised: a problem is itself, anything unforeseen is `internal` and logged."""
    if isinstance(error, ProblemError):
        return render_problem(request, error)
    if isinstance(error, MalformedIdError):
        return render_problem(request, ProblemError("not_found", "no such id"))
    if isinstance(error, web.HTTPException):
        return _render_http(request, error)
    structlog.get_logger().error(
        "request_failed",
        request_id=request[REQUEST_ID],
        path=request.path,
        exc_info=(type(error), error, error.__traceback__),
    )
    return render_problem(request, ProblemError("internal"))


def _render_http(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """The answer where aiohttp has no route, no such method, or takes no such body."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow: str | None = error.headers["Allow"]
    else:
        allow = methods_instead(request.method, request.path) if error.status == _NO_ROUTE else None
    if allow is None:
        elsewhere = error.status == _NO_ROUTE and methods_of(request.path) is not None
        detail = _OTHER_SIDE if elsewhere else error.reason
        return render_problem(request, ProblemError(_CODE_OF_STATUS.get(error.status, "malformed"), detail))
    response = render_problem(request, ProblemError("method_not_allowed", "Method Not Allowed"))
    response.headers["Allow"] = allow
    return response


def render_problem(request: web.BaseRequest, error: ProblemError, **more: object) -> web.Response:
    """The RFC 9457 answer of a problem, with more than every problem tells."""
    document = problem_document(error, request[REQUEST_ID]) | more
    response = web.Response(
        status=error.problem.status, body=orjson.dumps(document), content_type=PROBLEM, headers=problem_headers(error)
    )
    if request.method in _READS:  # a cache may keep a 404 or 405 that does not say so (RFC 9110, 15.1)
        response.headers["Cache-Control"] = "no-store"
    if error.elsewhere:
        response.force_close()
    return response


def problem_headers(error: ProblemError) -> dict[str, str]:
    """What the head of a problem's answer tells beside the document."""
    headers = {"WWW-Authenticate": _CHALLENGE} if error.code == "unauthenticated" else {}
    if error.problem.retry_after_s:
        headers["Retry-After"] = str(error.problem.retry_after_s)
    return headers


def problem_of(refusal: Refused) -> ProblemError:
    """The problem that a business "no" is answered with."""
    errors = [{"pointer": refusal.pointer, "detail": refusal.detail}] if refusal.pointer else []
    return ProblemError(refusal.reason, refusal.detail, errors)


def malformed_parameter(name: str, detail: str) -> ProblemError:
    """Make the `malformed` problem of one query parameter or header, with its pointer."""
    return ProblemError("malformed", f"{name}: {detail}", [{"pointer": f"/{name}", "detail": detail}])


def problem_document(error: ProblemError, request_id: str) -> dict[str, Any]:
    """Write the problem document of an error."""
    problem = PROBLEMS[error.code]
    detail = error.detail or problem.detail
    document: dict[str, Any] = {
        "type": f"urn:loyalty:problem:{error.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": _shown(detail),
        "code": error.code,
        "retryable": problem.retryable,
        "request_id": request_id,
    }
    errors = error.errors
    if not errors and error.code == "malformed":
        errors = [{"pointer": "", "detail": detail}]  # the whole of it (RFC 6901)
    if errors:
        document["errors"] = [{name: _shown(text) for name, text in one.items()} for one in errors]
    return document


def _shown(text: str) -> str:
    """A text that may quote a request: of a length to read, and without what would change the look of the rest."""
    short = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}\u2026"
    return short if short.isprintable() else "".join(map(_visible, short))


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
