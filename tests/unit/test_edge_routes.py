"""Envoy's routes, read as Envoy reads them, choose what the pure function chooses."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.decision import (
    COMMANDS_DOCUMENT,
    DOCUMENT,
    ON_BOTH_SIDES,
    PAGES,
    QUERY_POSTS,
    Door,
    EdgeError,
    make_door,
    methods_instead,
    side_of,
)
from edge.envoy import CLUSTERS, ROUTES, render_dynamic
from edge.geography import COUNTRIES
from edge.prefix import REFERENCES
from service.resource import METHODS
from shard_router.card import compose_card
from shard_router.member_id import REGION_NUMBER_MAX, compose_member_id, format_member_id
from tests.edge_world import NUMBERS, member_of, topology

DOORS = [
    make_door(topology(), nearest=nearest, evacuated=evacuated)
    for nearest in NUMBERS
    for evacuated in ([], ["eu"], ["us", "ap"])
]
RENDERED = [render_dynamic(door) for door in DOORS]

numbers = st.sampled_from([*NUMBERS.values(), REGION_NUMBER_MAX])  # the last is no region here
uniques = st.integers(0, 2**45 - 1)
big = st.builds(
    lambda number, slot, unique: format_member_id(compose_member_id(number, slot=slot, unique=unique)),
    numbers,
    st.integers(0, 4095),
    uniques,
)
ids = big | big.map(str.lower)
cards = st.builds(
    lambda number, unique: compose_card(number, slot=5, unique=unique), numbers, st.integers(0, 10**12 - 1)
)
scraps = st.text("0123456789abCDxy_-/.%", max_size=20)
named = ids | cards | scraps
references = st.builds(
    "/v1/{}/{}_{}-{}{}".format,
    st.sampled_from(sorted(REFERENCES)),
    st.sampled_from(sorted(REFERENCES.values())),
    named,
    st.integers(0, 2000),
    st.sampled_from(["", "/use", "/returns", "?x=1"]),
)
members = st.builds(
    "/v1/{}/{}{}".format,
    st.sampled_from(["members", "commands", "stores"]),
    named,
    st.sampled_from(["", "/account", "/events", "/events?ticket=x", "/", "?a=b", "x"]),
)
lookups = st.builds(
    "/v1/{}?{}card={}{}".format,
    st.sampled_from(["lookup", "lookup/", "rewards"]),
    st.sampled_from(["", "a=1&", "card&", "card=&", "discard=1&"]),
    named,
    st.sampled_from(["", "&card=0100000000000000000", "#x"]),
)
documents = st.sampled_from([DOCUMENT, COMMANDS_DOCUMENT, f"{COMMANDS_DOCUMENT}?x", "/commands", *PAGES, "/docs?x=1"])
posts = st.sampled_from([*QUERY_POSTS, *(f"{path}?x" for path in QUERY_POSTS), "/v1/purchases", "/v1/rewards"])
paths = references | members | lookups | posts | documents | scraps.map(lambda text: f"/{text}")
methods = st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"])
countries = st.none() | st.sampled_from([*COUNTRIES, "XX", "de", ""])


@settings(max_examples=1_000, deadline=None)
@given(st.integers(0, len(DOORS) - 1), methods, paths, st.none() | named, countries)
def test_envoy_chooses_what_the_decision_chooses(
    which: int, method: str, path: str, member: str | None, country: str | None
) -> None:
    door, files = DOORS[which], RENDERED[which]
    headers = {":method": method, "loyalty-member": member, "loyalty-country": country}
    route = first_match(files[ROUTES], path, {name: value for name, value in headers.items() if value is not None})
    chosen = door.decide(path, member, country)
    if instead := methods_instead(method, path):
        assert route["response_headers_to_add"] == [{"header": {"key": "allow", "value": ",".join(instead)}}]
        return
    cluster = route["route"]["cluster"]
    assert cluster.partition("-")[0] == side_of(method, path)
    assert regions_of(files[CLUSTERS], cluster) == chosen.regions
    assert route["name"].rpartition(" ")[2] == chosen.why


def first_match(routes: dict[str, Any], path: str, headers: dict[str, str]) -> dict[str, Any]:
    """The route that Envoy takes: conditions of one are all met, expressions match as a whole, the query is apart."""
    bare, _, query = path.partition("?")
    (host,) = routes["resources"][0]["virtual_hosts"]
    return next(one for one in host["routes"] if _matches(one["match"], bare, query, headers))


def _matches(match: dict[str, Any], bare: str, query: str, headers: dict[str, str]) -> bool:
    parameters = dict(reversed([pair.partition("=")[::2] for pair in query.split("&")]))
    wanted = [(headers, one) for one in match.get("headers", [])]
    wanted += [(parameters, one) for one in match.get("query_parameters", [])]
    return (
        match.get("path", bare) == bare
        and bare.startswith(match.get("prefix", ""))
        and ("safe_regex" not in match or _full(match["safe_regex"], bare))
        and all(_meets(given.get(one["name"]), one) for given, one in wanted)
    )


def _meets(text: str | None, condition: dict[str, Any]) -> bool:
    """What is not sent meets no condition on its text."""
    expression = condition.get("string_match")
    is_met = text is not None and (expression is None or _full(expression["safe_regex"], text))
    return is_met != condition.get("invert_match", False)


def _full(expression: dict[str, str], text: str) -> bool:
    return re.fullmatch(expression["regex"], text) is not None


def regions_of(clusters: dict[str, Any], name: str) -> tuple[str, ...]:
    """The regions of a cluster in the order in which Envoy tries them."""
    (cluster,) = [one for one in clusters["resources"] if one["name"] == name]
    localities = sorted(cluster["load_assignment"]["endpoints"], key=lambda one: one["priority"])
    assert [one["priority"] for one in localities] == list(range(len(localities)))
    return tuple(one["locality"]["region"] for one in localities)


def test_a_resource_on_both_sides_is_one_whose_methods_the_door_knows() -> None:
    divided: dict[str, tuple[str, ...]] = {}
    for path, allow in METHODS.items():
        if len({side_of(method, path) for method in allow.split(",")}) > 1:
            divided[re.sub(r"\{\w+\}", "[^/]+", path)] = tuple(allow.split(","))
    assert divided == ON_BOTH_SIDES


@pytest.mark.parametrize("path", [f"/v1/members/{member_of('us')}", "/v1/members/x"])
def test_what_a_browser_asks_before_it_sends_reaches_a_node(path: str) -> None:
    asked = {":method": "OPTIONS", "access-control-request-method": "DELETE"}
    assert first_match(RENDERED[0][ROUTES], path, asked)["route"]["cluster"].startswith("query-")


def door_with(url: str) -> Door:
    return make_door(topology({("eu", "command"): url}))


def test_a_cluster_has_the_nodes_of_its_side() -> None:
    urls = {(region, side): f"http://{region}-{side}:8080" for region in NUMBERS for side in ("command", "query")}
    for cluster in render_dynamic(make_door(topology(urls)))[CLUSTERS]["resources"]:
        side, _, _ = cluster["name"].partition("-")
        for locality in cluster["load_assignment"]["endpoints"]:
            (endpoint,) = locality["lb_endpoints"]
            address = endpoint["endpoint"]["address"]["socket_address"]
            assert address["address"] == urlsplit(urls[locality["locality"]["region"], side]).hostname


@pytest.mark.parametrize("url", ["https://eu:8443", "eu:8080", "http://eu:8080/api"])
def test_a_node_that_is_not_asked_by_plain_http_is_refused(url: str) -> None:
    with pytest.raises(EdgeError, match="http://HOST:PORT"):
        render_dynamic(door_with(url))


def test_only_what_cannot_have_been_done_is_sent_again() -> None:
    (host,) = render_dynamic(DOORS[0])[ROUTES]["resources"][0]["virtual_hosts"]
    asked = [route["route"] for route in host["routes"] if "route" in route]
    told = {route["cluster"].partition("-")[0]: route["retry_policy"]["retry_on"].split(",") for route in asked}
    assert "reset-before-request" in told["command"]
    assert not {"reset", "5xx", "gateway-error", "retriable-status-codes"} & set(told["command"])
