"""Settings of a query node; the defaults suit a region on one network."""

from pathlib import Path

from service.settings import NodeSettings


class QuerySettings(NodeSettings):
    """A node's settings and what bounds its reads."""

    in_flight_max: int = 192
    """Reads under way at once: at a node's best rate that is well under half a second of them."""
    token_wait_ms: int = 150
    """How long a query waits for the version its Consistency-Token demands before it asks a server."""
    cache_deadline_ms: int = 300
    """Longest time Valkey may take; then the standby answers and Valkey is left alone until it pings again.

    Far above what Valkey takes, because a stall of this very process looks the same from here, and asking Postgres
    instead would only add to the load.
    """
    batch_keys_max: int = 512
    """Keys per MGET: one that large takes Valkey about 0.2 ms, so that it delays no one else."""
    standby_lag_ms_max: int = 5_000
    """A standby further behind is skipped."""
    waiters_max: int = 10_000
    """Queries and streams that wait for notifications at once; one more asks a server instead."""
    streams_max: int = 1_000
    """Event streams open at once. One key below `admin` has at most a quarter of them."""
    streams_per_member_max: int = 10
    """Event streams of one member: a few devices with a page or two each."""
    stream_comment_s: float = 15.0
    """An idle stream says something this often, so that proxies keep it."""
    door_state: Path | None = None
    """What the front door of this machine keeps; without, nobody here knows the shares of its traffic."""
    pool_size_max: int = 8
    """Connections per server and process; 3 nodes x 8 stay far below a standby's max_connections of 100."""
    statement_timeout_ms: int = 2_000
