"""The topology of one region with one shard, and no nodes."""

from collections.abc import Sequence
from typing import Any


def one_shard(servers: Sequence[str], valkey: str) -> dict[str, Any]:
    """Shard `eu-1` of region `eu`, with all slots."""
    return {
        "epoch": 1,
        "regions": {"eu": {"number": 1, "command": [], "query": []}},
        "shards": {"eu-1": {"region": "eu", "slots": [[0, 4095]], "servers": [*servers], "valkey": valkey}},
    }
