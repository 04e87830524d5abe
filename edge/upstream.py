"""Envoy's clusters: a side of a region, with the same side of the other regions behind it as lower priorities.

Hosts are names or addresses. What is unwell takes nothing: not by `/readyz`, not after two connections that failed.
"""

from typing import Any, Final
from urllib.parse import urlsplit

from edge.decision import Door, EdgeError, Side
from edge.route import TYPE, cluster_name

CONNECTIONS_MAX: Final = 10_000  # of clients, as the nodes'
_IDLE: Final = "60s"  # less than the nodes' 75 s: who lets go first must be the one that sends
_HTTP_PORT: Final = 80

Json = dict[str, Any]


def render_cluster(door: Door, side: Side, region: str) -> Json:
    """One cluster with its nodes; EdgeError for a node that is not asked by plain HTTP."""
    name = cluster_name(side, region)
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "0.5s",
        "lb_policy": "LEAST_REQUEST",
        # Nodes that are all unwell get nothing rather than everything: another region has some that are well.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "close_connections_on_host_health_failure": True,
        "health_checks": [_HEALTH],
        "outlier_detection": _OUTLIERS,
        "circuit_breakers": {"thresholds": [_BREAKER]},
        "typed_extension_protocol_options": _PROTOCOL,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"priority": priority, "locality": {"region": other}, "lb_endpoints": _nodes(door, side, other)}
                for priority, other in enumerate(door.order(region))
            ],
        },
    }


_HEALTH: Final[Json] = {
    "timeout": "1.5s",
    "interval": "1s",
    "no_traffic_interval": "1s",
    "unhealthy_threshold": 2,
    "healthy_threshold": 2,
    "http_health_check": {"path": "/readyz"},
}
_OUTLIERS: Final[Json] = {
    # An answer of a node, a 503 too, has words for its client: only connections that fail count against it.
    "split_external_local_origin_errors": True,
    "enforcing_consecutive_5xx": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    "consecutive_local_origin_failure": 2,
    "interval": "1s",
    "base_ejection_time": "2s",
    "max_ejection_time": "10s",
    "max_ejection_percent": 100,
}
# Nodes refuse in words what is too much, so this binds nobody before they do. An event stream holds one connection all
# the time; and when a region dies, all that it had under way is sent again at once.
_BREAKER: Final[Json] = dict.fromkeys(
    ("max_connections", "max_pending_requests", "max_requests", "max_retries"), CONNECTIONS_MAX
)
_PROTOCOL: Final[Json] = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": _IDLE},
        "explicit_http_config": {"http_protocol_options": {}},
    }
}


def _nodes(door: Door, side: Side, region: str) -> list[Json]:
    document = door.topology.regions[region]
    urls = document.command if side == "command" else document.query
    return [{"endpoint": {"address": _address(url)}} for url in urls]


def _address(url: str) -> Json:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise EdgeError(f"the door asks nodes by http://HOST:PORT, not {url}")
    return {"socket_address": {"address": parts.hostname, "port_value": parts.port or _HTTP_PORT}}
