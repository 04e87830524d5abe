"""What the door itself answers when no node does: the problems of the contract, so that a till has words it knows.

A query was not answered. Of a command that was on its way nobody knows whether it was done: its key tells; one that no
node took a connection for was not. What makes no sense as HTTP is `malformed`, by whatever status Envoy calls it. Pages
that may read what nodes answer may read this.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edge.decision import READING_METHODS
from shard_router.errors import PROBLEMS

_TOO_LARGE: Final = 413
_NOT_FOUND: Final = 404
_NO_METHOD: Final = 405
_ANY: Final = 400
_AWAY: Final = 500
_NOT_SPOKEN: Final = 501  # an encoding of bodies that is not HTTP's own: it reached no node
_NOTHING_SENT: Final = ("UH", "UF", "UO")
"""Envoy's flags of a request whose last try met no node that is well, no connection, or no room for one. A command is
tried again only while nothing of it was sent (see route.py), so nothing was sent by any try."""
_NOT_PASSED_ON: Final = "the door did not pass this on (%RESPONSE_CODE_DETAILS%)"
_NO_ANSWER: Final = "the door had no answer of a node (%RESPONSE_CODE_DETAILS%)"
_REQUEST_ID: Final = "door-%START_TIME(%s%3f)%-%CONNECTION_ID%"
"""Known even where Envoy could not read a head."""
_ANY_ORIGIN: Final = "*"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pages:
    """Whose pages may read an answer, by their origins, and which headers of it: as with the nodes."""

    origins: tuple[str, ...] = ()
    readable: str = ""


def render_replies(region: str, pages: Pages) -> Json:
    """The mapping of Envoy's own answers, in the name of the region it stands in; the first that fits counts."""
    away = _status(_AWAY, "GE")
    unread = _both(away, _header(":method", _one_of(READING_METHODS)))
    answers = [
        (_status(_TOO_LARGE, "EQ"), "too_large", _NOT_PASSED_ON),
        (_status(_NOT_FOUND, "EQ"), "not_found", _NOT_PASSED_ON),
        (_status(_NO_METHOD, "EQ"), "method_not_allowed", _NOT_PASSED_ON),
        (_status(_NOT_SPOKEN, "EQ"), "malformed", _NOT_PASSED_ON),
        (unread, "shard_unavailable", _NO_ANSWER),
        (_both(away, _flagged(_NOTHING_SENT)), "shard_unavailable", _NO_ANSWER),
        (away, "unknown_outcome", _NO_ANSWER),
        (_status(_ANY, "GE"), "malformed", _NOT_PASSED_ON),
    ]
    headers = {"Request-Id": _REQUEST_ID, "Loyalty-Region": region} | ({"Vary": "Origin"} if pages.origins else {})
    mappers = [_mapper(condition, code, detail, headers) for condition, code, detail in answers]
    if pages.origins:
        told = {"Access-Control-Allow-Origin": "%REQ(ORIGIN)%", "Access-Control-Expose-Headers": pages.readable}
        asks = _header("origin", _of(pages.origins))
        mappers = [_mapper(_both(one, asks), code, detail, headers | told) for one, code, detail in answers] + mappers
    return {"mappers": mappers, "body_format": _body("malformed", _NOT_PASSED_ON)}


def _mapper(condition: Json, code: str, detail: str, headers: Mapping[str, str]) -> Json:
    problem = PROBLEMS[code]
    later = {"Retry-After": str(problem.retry_after_s)} if problem.retry_after_s else {}
    return {
        "filter": condition,
        "status_code": problem.status,
        "headers_to_add": [{"header": {"key": name, "value": value}} for name, value in {**headers, **later}.items()],
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


def _flagged(flags: Sequence[str]) -> Json:
    return {"response_flag_filter": {"flags": list(flags)}}


def _both(*conditions: Json) -> Json:
    return {"and_filter": {"filters": list(conditions)}}


def _header(name: str, match: Json) -> Json:
    return {"header_filter": {"header": {"name": name, **match}}}


def _of(origins: Sequence[str]) -> Json:
    return {"present_match": True} if _ANY_ORIGIN in origins else _one_of(map(re.escape, origins))


def _one_of(patterns: Iterable[str]) -> Json:
    return {"string_match": {"safe_regex": {"regex": "|".join(patterns)}}}
