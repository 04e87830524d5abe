"""What `loyalty region` and `loyalty shard` ask of the supervisor, and how long they wait for it."""

from pathlib import Path
from typing import Final

from pydantic import BaseModel

from cluster import question

TOPIC: Final = "region"
DEADLINE_S: Final = 240.0


class Request(BaseModel):
    """What is asked of the supervisor: of a region or, "add shard" and "remove shard", of a shard.

    `after` is the region behind which a new one stands in the topology.
    """

    action: str
    name: str
    after: str | None = None


def ask(data: Path, request: Request) -> str:
    """Have it done, and wait for it; ClusterError says why not."""
    late = f"not done after {DEADLINE_S:.0f} s; `loyalty status` tells how it stands. It may be asked for again."
    return question.ask(data, TOPIC, request.model_dump(), deadline_s=DEADLINE_S, late=late)
