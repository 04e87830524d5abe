"""Envoy's configuration of a door: what it starts with, and routes and clusters as files that it reads again.

Such a file takes effect when it is renamed into its place. What strangers say about a client's country or address, and
how often Envoy should try, is taken off before anything looks at it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edge.decision import SIDES, Door, EdgeError
from edge.reply import Pages, render_replies
from edge.route import COUNTRY_HEADER, IDLE, TYPE, render_routes
from edge.upstream import CONNECTIONS_MAX, render_cluster

ROUTES, CLUSTERS, BOOTSTRAP = "routes.json", "clusters.json", "envoy.json"
STANDING: Final = (
    "Run by the project's tests: Envoy 1.40.0 on loopback, before real nodes. Never run before the public."
)
STRANGERS: Final = (
    COUNTRY_HEADER,
    "cf-ipcountry",
    "x-geo-country",
    "x-forwarded-for",
    "x-real-ip",
    "x-envoy-decorator-operation",
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-upstream-rq-timeout-ms",
)
"""What only the door itself may say."""
MEMORY_BYTES_MAX: Final = 1 << 30  # 10,000 connections and some 900 bodies whose end is missing
_BODY_BYTES_MAX: Final = 1_048_576  # as the nodes'
_BUFFER_BYTES_MAX: Final = 65_536  # of a connection; a body that is waited for has its own bound
_HEADERS_KB_MAX: Final = 32
_STREAMS: Final = {  # of one connection, as Envoy advises for strangers
    "max_concurrent_streams": 100,
    "initial_stream_window_size": 65_536,
    "initial_connection_window_size": 1_048_576,
}
_ARRIVAL: Final = "10s"  # of a head, and of a whole request: nodes wait no longer for a body
_MEMORY: Final = "fixed_heap"
# Half the world's countries in one expression; Envoy's own bound of 100 refuses the whole route table.
_BOUNDS: Final = {"re2.max_program_size.error_level": 4_096, "re2.max_program_size.warn_level": 4_096}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the door listens, what it knows clients by, and where its files lie.

    `geoip` is a MaxMind database (None: no country is known). `certificate` and `key` are PEM files for TLS.
    `pages` may read what the door itself answers.
    """

    folder: Path
    port: int
    admin_port: int
    host: str = "127.0.0.1"
    geoip: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    access_log: Path | None = None
    pages: Pages = field(default_factory=Pages)
    memory_bytes_max: int = MEMORY_BYTES_MAX


def render_envoy(door: Door, listening: Listening) -> dict[str, Json]:
    """Every file by its name: the bootstrap, and the two that may change while Envoy runs."""
    if (listening.certificate is None) != (listening.key is None):
        raise EdgeError("TLS needs both a certificate and its key")
    return {BOOTSTRAP: _bootstrap(listening, door.nearest), **render_dynamic(door)}


def render_dynamic(door: Door) -> dict[str, Json]:
    """The files that change with topology and evacuations."""
    clusters = [render_cluster(door, side, region) for side in SIDES for region in door.topology.regions]
    return {
        ROUTES: _resources("config.route.v3.RouteConfiguration", [render_routes(door)]),
        CLUSTERS: _resources("config.cluster.v3.Cluster", clusters),
    }


def _resources(kind: str, resources: list[Json]) -> Json:
    return {"resources": [{"@type": TYPE + kind, **one} for one in resources]}


def _file(path: Path) -> Json:
    source = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _bootstrap(listening: Listening, region: str) -> Json:
    return {
        "node": {"id": "door", "cluster": "loyalty", "metadata": {"standing": STANDING}},
        "admin": {"address": _socket("127.0.0.1", listening.admin_port)},
        "dynamic_resources": {"cds_config": _file(listening.folder / CLUSTERS)},
        "static_resources": {"listeners": [_listener(listening, region)]},
        "layered_runtime": {"layers": [{"name": "bounds", "static_layer": _BOUNDS}]},
        "overload_manager": _bounds(listening.memory_bytes_max),
    }


def _bounds(memory_bytes_max: int) -> Json:
    """How many connections, and how much memory: past that strangers would have the kernel end the door for all."""
    return {
        "refresh_interval": "0.25s",
        # From a quarter of the longest body on; of streams in one connection the largest are ended first.
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 18},
        "resource_monitors": [
            _monitor(
                "global_downstream_max_connections",
                "downstream_connections.v3.DownstreamConnectionsConfig",
                {"max_active_downstream_connections": CONNECTIONS_MAX},
            ),
            _monitor(_MEMORY, "fixed_heap.v3.FixedHeapConfig", {"max_heap_size_bytes": memory_bytes_max}),
        ],
        "actions": [
            _action("shrink_heap", {"threshold": {"value": 0.8}}),
            _action("reset_high_memory_stream", {"scaled": {"scaling_threshold": 0.8, "saturation_threshold": 0.9}}),
            _action("stop_accepting_requests", {"threshold": {"value": 0.9}}),
        ],
    }


def _monitor(name: str, message: str, content: Json) -> Json:
    typed = {"@type": f"{TYPE}extensions.resource_monitors.{message}", **content}
    return {"name": f"envoy.resource_monitors.{name}", "typed_config": typed}


def _action(name: str, trigger: Json) -> Json:
    """What is done where memory runs short."""
    return {
        "name": f"envoy.overload_actions.{name}",
        "triggers": [{"name": f"envoy.resource_monitors.{_MEMORY}", **trigger}],
    }


def _socket(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(listening: Listening, region: str) -> Json:
    filters = [_typed("network", "http_connection_manager", "HttpConnectionManager", _connections(listening, region))]
    secure = {"transport_socket": _tls(listening.certificate, listening.key)} if listening.certificate else {}
    return {
        "name": "door",
        "address": _socket(listening.host, listening.port),
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES_MAX,
        "filter_chains": [{"filters": filters, **secure}],
    }


def _typed(kind: str, name: str, message: str, content: Json) -> Json:
    message_type = f"{TYPE}extensions.filters.{kind}.{name}.v3.{message}"
    return {"name": f"envoy.filters.{kind}.{name}", "typed_config": {"@type": message_type, **content}}


def _connections(listening: Listening, region: str) -> Json:
    """How HTTP is spoken. No client counts as one of ours: whoever is before the door is a stranger."""
    return {
        "stat_prefix": "door",
        "codec_type": "AUTO",
        "http2_protocol_options": _STREAMS,
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "loyalty"},
        "use_remote_address": True,
        "internal_address_config": {},
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "max_request_headers_kb": _HEADERS_KB_MAX,
        "request_headers_timeout": _ARRIVAL,
        "request_timeout": _ARRIVAL,
        "stream_idle_timeout": IDLE,
        "common_http_protocol_options": {"idle_timeout": IDLE},
        "server_header_transformation": "PASS_THROUGH",
        "early_header_mutation_extensions": [_without_strangers()],
        "local_reply_config": render_replies(region, listening.pages),
        "access_log": [_access_log(listening.access_log)] if listening.access_log else [],
        "rds": {"route_config_name": "door", "config_source": _file(listening.folder / ROUTES)},
        "http_filters": [
            *([_geoip(listening.geoip), _choose_again()] if listening.geoip else []),
            _typed("http", "buffer", "Buffer", {"max_request_bytes": _BODY_BYTES_MAX}),
            _typed("http", "router", "Router", {}),
        ],
    }


def _without_strangers() -> Json:
    message = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {"@type": TYPE + message, "mutations": [{"remove": name} for name in STRANGERS]},
    }


def _geoip(database: Path) -> Json:
    provider = {
        "@type": TYPE + "extensions.geoip_providers.maxmind.v3.MaxMindConfig",
        "city_db_path": str(database),
        "common_provider_config": {"geo_field_keys": {"country": COUNTRY_HEADER}},
    }
    content = {"provider": {"name": "envoy.geoip_providers.maxmind", "typed_config": provider}}
    return _typed("http", "geoip", "Geoip", content)


def _choose_again() -> Json:
    """Envoy chose a route before the country was known."""
    script = "function envoy_on_request(handle) handle:clearRouteCache() end"
    return _typed("http", "lua", "Lua", {"default_source_code": {"inline_string": script}})


def _access_log(path: Path) -> Json:
    fields = {
        "at": "%START_TIME%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "country": f"%REQ({COUNTRY_HEADER.upper()})%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",  # a query may carry a phone number
        "status": "%RESPONSE_CODE%",
        "chosen": "%ROUTE_NAME%",
        "node": "%UPSTREAM_HOST%",
        "region": "%RESP(LOYALTY-REGION)%",
        "request_id": "%RESP(REQUEST-ID)%",
        "flags": "%RESPONSE_FLAGS%",
        "ms": "%DURATION%",
    }
    log = {
        "@type": TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(path),
        "log_format": {"json_format": fields},
    }
    return {"name": "envoy.access_loggers.file", "typed_config": log}


def _tls(certificate: Path | None, key: Path | None) -> Json:
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    context = {
        "@type": TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [pair], "alpn_protocols": ["h2", "http/1.1"]},
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}
