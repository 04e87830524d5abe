"""What the door itself answers when no node does: the problems of the contract, so that a till has words it knows.

A query was not answered. Of a command that was on its way nobody knows whether it was done: its key tells. What makes
no sense as HTTP is `malformed`, by whatever status Envoy calls it.
"""

from typing import Any, Final

from edge.decision import READING_METHODS
from shard_router.errors import PROBLEMS

_TOO_LARGE: Final = 413
_NOT_FOUND: Final = 404
_NO_METHOD: Final = 405
_ANY: Final = 400
_AWAY: Final = 500
_NOT_PASSED_ON: Final = "the door did not pass this on (%RESPONSE_CODE_DETAILS%)"
_NO_ANSWER: Final = "the door had no answer of a node (%RESPONSE_CODE_DETAILS%)"
_REQUEST_ID: Final = "door-%START_TIME(%s%3f)%-%CONNECTION_ID%"
"""Known even where Envoy could not read a head."""

Json = dict[str, Any]


def render_replies(region: str) -> Json:
    """The mapping of Envoy's own answers, in the name of the region it stands in; the first that fits counts."""
    away = _status(_AWAY, "GE")
    reading = {"header_filter": {"header": {"name": ":method", "string_match": _one_of(READING_METHODS)}}}
    unread = {"and_filter": {"filters": [away, reading]}}
    return {
        "mappers": [
            _mapper(region, _status(_TOO_LARGE, "EQ"), "too_large", _NOT_PASSED_ON),
            _mapper(region, _status(_NOT_FOUND, "EQ"), "not_found", _NOT_PASSED_ON),
            _mapper(region, _status(_NO_METHOD, "EQ"), "method_not_allowed", _NOT_PASSED_ON),
            _mapper(region, unread, "shard_unavailable", _NO_ANSWER),
            _mapper(region, away, "unknown_outcome", _NO_ANSWER),
            _mapper(region, _status(_ANY, "GE"), "malformed", _NOT_PASSED_ON),
        ],
        "body_format": _body("malformed", _NOT_PASSED_ON),
    }


def _mapper(region: str, condition: Json, code: str, detail: str) -> Json:
    problem = PROBLEMS[code]
    headers = {"Request-Id": _REQUEST_ID, "Loyalty-Region": region}
    if problem.retry_after_s:
        headers["Retry-After"] = str(problem.retry_after_s)
    return {
        "filter": condition,
        "status_code": problem.status,
        "headers_to_add": [{"header": {"key": name, "value": value}} for name, value in headers.items()],
        "body_format_override": _body(code, detail),
    }


def _body(code: str, detail: str) -> Json:
    problem = PROBLEMS[code]
    document: Json = {
        "type": f"urn:loyalty:problem:{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "code": code,
        "retryable": problem.retryable,
        "request_id": _REQUEST_ID,
    }
    if code == "malformed":
        document["errors"] = [{"pointer": "", "detail": detail}]
    return {"json_format": document, "content_type": "application/problem+json"}


def _status(status: int, comparison: str) -> Json:
    value = {"default_value": status, "runtime_key": f"door.status_{status}"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _one_of(values: tuple[str, ...]) -> Json:
    return {"safe_regex": {"regex": "|".join(values)}}
