"""Settings of a query node; the defaults suit a region on one network."""

from pathlib import Path

from pydantic import Field

from query.near import MEMBERS_MAX
from service.settings import AtLeastOne, NodeSettings


class QuerySettings(NodeSettings):
    """A node's settings and what bounds its reads."""

    token_wait_ms: int = Field(default=150, ge=0)
    """How long a query waits for the version its Consistency-Token demands before it asks a server."""
    cache_deadline_ms: AtLeastOne = 300
    """Longest time Valkey may take; then the standby answers and Valkey is left alone until it pings again.

    Far above what Valkey takes, because a stall of this very process looks the same from here, and asking Postgres
    instead would only add to the load.
    """
    batch_keys_max: AtLeastOne = 512
    """Keys per MGET: one that large takes Valkey about 0.2 ms, so that it delays no one else."""
    near_members_max: int = Field(default=MEMBERS_MAX, ge=0)
    """Members of each shard whose views a node keeps in its memory, some 1 kB each; 0: it asks Valkey each time."""
    standby_lag_ms_max: int = Field(default=5_000, ge=0)
    """A standby further behind is skipped."""
    waiters_max: AtLeastOne = 10_000
    """Queries and streams that wait for notifications at once; one more asks a server instead."""
    streams_max: AtLeastOne = 1_000
    """Event streams open at once. One key below `admin` has at most a quarter of them."""
    streams_per_member_max: AtLeastOne = 10
    """Event streams of one member: a few devices with a page or two each."""
    stream_comment_s: float = Field(default=15.0, gt=0)
    """An idle stream says something this often, so that proxies keep it."""
    door_state: Path | None = None
    """What the front door of this machine keeps; without, nobody here knows the shares of its traffic."""
    pool_size_max: AtLeastOne = 8
    """Connections per server and process; 3 nodes x 8 stay far below a standby's max_connections of 100."""
    statement_timeout_ms: AtLeastOne = 2_000
