"""What the door itself answers when no node does: the problems of the contract, so that a till has words it knows.

A query was not answered. Of a command that was on its way nobody knows whether it was done: its key tells.
"""

from typing import Any, Final

from edge.decision import READING_METHODS
from shard_router.errors import PROBLEMS

_TOO_LARGE: Final = 413
_NOT_FOUND: Final = 404
_AWAY: Final = (503, 504)

Json = dict[str, Any]


def render_replies() -> Json:
    """The mapping of Envoy's own answers; the first that fits counts."""
    away = {"or_filter": {"filters": [_status(status) for status in _AWAY]}}
    reading = {"header_filter": {"header": {"name": ":method", "string_match": _one_of(READING_METHODS)}}}
    return {
        "mappers": [
            _mapper(_status(_TOO_LARGE), "too_large"),
            _mapper(_status(_NOT_FOUND), "not_found"),
            _mapper({"and_filter": {"filters": [away, reading]}}, "shard_unavailable"),
            _mapper(away, "unknown_outcome"),
        ],
        "body_format": _body("malformed"),
    }


def _mapper(condition: Json, code: str) -> Json:
    problem = PROBLEMS[code]
    wait = str(problem.retry_after_s) if problem.retry_after_s else None
    return {
        "filter": condition,
        "status_code": problem.status,
        "headers_to_add": [{"header": {"key": "Retry-After", "value": wait}}] if wait else [],
        "body_format_override": _body(code),
    }


def _body(code: str) -> Json:
    problem = PROBLEMS[code]
    document = {
        "type": f"urn:loyalty:problem:{code}",
        "title": problem.title,
        "status": "%RESPONSE_CODE%",
        "detail": "the door had no answer of a node (%RESPONSE_CODE_DETAILS%)",
        "code": code,
        "retryable": problem.retryable,
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return {"json_format": document, "content_type": "application/problem+json"}


def _status(status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"door.status_{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _one_of(values: tuple[str, ...]) -> Json:
    return {"safe_regex": {"regex": "|".join(values)}}
