"""Envoy's routes: the pure decision as a list, of which the first that matches counts.

Side by side for commands and queries: the member's home, the client's country, the nearest region. A route's name tells
the access log what was chosen, and why. What may be sent again: a query whose answer never began, a command of which
nothing was sent.
"""

from collections.abc import Sequence
from typing import Any, Final

from edge.decision import (
    COMMANDS_DOCUMENT,
    DOCUMENT,
    LOOKUP,
    MEMBER_HEADER,
    ON_BOTH_SIDES,
    PAGES,
    QUERY_POSTS,
    READING_METHODS,
    WHOLE,
    Door,
    Side,
)
from edge.prefix import card_pattern, events_pattern, member_pattern, path_pattern

COUNTRY_HEADER: Final = "loyalty-country"
HIDDEN: Final = ("/metrics",)
"""What nodes tell without a credential, and not to the world."""

DOOR_HEADER: Final = "loyalty-door"
IDLE: Final = "75s"  # five missed comments of an event stream
TYPE: Final = "type.googleapis.com/envoy."
_TIMEOUT: Final = "8s"  # above the nodes' own deadline of 5 s, with a forward in between
_RETRIES_MAX: Final = 2

Json = dict[str, Any]


def render_routes(door: Door) -> Json:
    """The route table of a door."""
    reading = [_header(":method", "|".join(READING_METHODS))]
    routes: list[Json] = [
        {"name": "hidden", "match": {"path": path}, "direct_response": {"status": 404}} for path in HIDDEN
    ]
    routes += [_refusal(path, methods) for path, methods in ON_BOTH_SIDES.items()]
    for path in QUERY_POSTS:
        routes += _by_header("query", door, {"path": path}, [])
    routes.append(_renamed(_route("command", door, door.nearest, "nearest", {"path": COMMANDS_DOCUMENT})))
    routes += [_told(_route("query", door, door.nearest, "nearest", {"path": path})) for path in PAGES]
    routes += _by_path("query", door, reading) + _by_header("query", door, {"prefix": "/"}, reading)
    routes += _by_path("command", door, []) + _by_header("command", door, {"prefix": "/"}, [])
    return {"name": "door", "virtual_hosts": [{"name": "api", "domains": ["*"], "routes": routes}]}


def cluster_name(side: Side, region: str) -> str:
    """The name of a side of a region."""
    return f"{side}-{region}"


def _refusal(path: str, methods: Sequence[str]) -> Json:
    """Refuses other methods than these; what a browser asks before it sends is for a node to say."""
    other = [
        {**_header(":method", "|".join(methods)), "invert_match": True},
        {"name": "access-control-request-method", "present_match": True, "invert_match": True},
    ]
    return {
        "name": "method",
        "match": {**_regex(path), "headers": other},
        "direct_response": {"status": 405},
        "response_headers_to_add": [{"header": {"key": "allow", "value": ",".join(methods)}}],
    }


def _by_path(side: Side, door: Door, headers: list[Json]) -> list[Json]:
    """Home, by the id in the path or the card that is looked up. Event streams come first: they last."""
    streams: list[Json] = []
    routes: list[Json] = []
    for region, number in door.numbers().items():
        card = {"name": "card", "string_match": _regex(card_pattern(number))}
        match = {**_regex(events_pattern(number)), "headers": headers}
        streams.append(_route(side, door, region, "member", match, timeout="0s"))
        routes += [
            _route(side, door, region, "member", {**_regex(path_pattern(number)), "headers": headers}),
            _route(side, door, region, "member", {"path": LOOKUP, "query_parameters": [card], "headers": headers}),
        ]
    return [*streams, *routes] if side == "query" else routes


def _by_header(side: Side, door: Door, anywhere: Json, headers: list[Json]) -> list[Json]:
    """Home by the header, else by country, else the nearest."""
    routes: list[Json] = []
    for region, number in door.numbers().items():
        by_member = _header(MEMBER_HEADER, member_pattern(number))
        routes.append(_route(side, door, region, "member", {**anywhere, "headers": [*headers, by_member]}))
    for region in door.topology.regions:
        if countries := door.geography.countries_of(region):
            by_country = _header(COUNTRY_HEADER, "|".join(countries))
            routes.append(_route(side, door, region, "country", {**anywhere, "headers": [*headers, by_country]}))
    return [*routes, _route(side, door, door.nearest, "nearest", {**anywhere, "headers": headers})]


def _renamed(route: Json) -> Json:
    """A command node's document, by the node's own name."""
    return {**route, "route": {**route["route"], "prefix_rewrite": DOCUMENT}}


def _told(route: Json) -> Json:
    """The node hears that a door is before it."""
    header = {"header": {"key": DOOR_HEADER, "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {**route, "request_headers_to_add": [header]}


def _regex(pattern: str) -> Json:
    return {"safe_regex": {"regex": pattern}}


def _header(name: str, pattern: str) -> Json:
    return {"name": name, "string_match": _regex(pattern)}


def _route(  # noqa: PLR0913 - what a route is made of
    side: Side, door: Door, region: str, why: str, match: Json, *, timeout: str = _TIMEOUT
) -> Json:
    action = {
        **_clusters(side, door, region),
        "timeout": timeout,
        "idle_timeout": IDLE,
        "retry_policy": _retries("reset" if side == "query" else "reset-before-request"),
    }
    return {"name": f"{side} {region} {why}", "match": match, "route": action}


def _clusters(side: Side, door: Door, region: str) -> Json:
    """The region, or the region and the next one by its share. One that is evacuated stands last in its own order."""
    share, following = door.share(region), door.order(region)[1:]
    if share in (0, WHOLE) or not following:
        return {"cluster": cluster_name(side, region)}
    parts = {region: share, following[0]: WHOLE - share}
    weights = [{"name": cluster_name(side, name), "weight": weight} for name, weight in parts.items()]
    return {"weighted_clusters": {"clusters": weights}}


def _retries(resets: str) -> Json:
    """Another node each time, and then another region."""
    priority = "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    hosts = "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": f"connect-failure,refused-stream,{resets}",
        "num_retries": _RETRIES_MAX,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {"@type": TYPE + priority, "update_frequency": 1},
        },
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": TYPE + hosts}}
        ],
        "host_selection_retry_max_attempts": 3,
    }
