"""Settings of a command node."""

from pydantic import Field

from service.settings import NodeSettings


class CommandSettings(NodeSettings):
    """A node's settings and how many batches a shard has in flight."""

    lanes_per_shard: int = Field(default=1, ge=1, le=64)
    """One lane makes the fullest batches, so the least work per command; more pay where Postgres has cores to spare."""
