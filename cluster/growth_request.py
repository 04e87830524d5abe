"""What `loyalty region` and `loyalty shard` ask of the supervisor, and how long they wait for it."""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel

from cluster import question

TOPIC: Final = "region"
DEADLINE_S: Final = 240.0


Action = Literal["add", "drain", "remove", "add shard", "remove shard"]
"""The first three of a region."""


class Request(BaseModel):
    """What is asked of the supervisor. `after` is the region behind which a new one stands in the topology."""

    action: Action
    name: str
    after: str | None = None


def ask(data: Path, request: Request) -> str:
    """Have it done, and wait for it; ClusterError says why not."""
    late = f"not done after {DEADLINE_S:.0f} s; `loyalty status` tells how it stands. It may be asked for again."
    return question.ask(data, TOPIC, request.model_dump(), deadline_s=DEADLINE_S, late=late)
