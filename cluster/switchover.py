"""How `loyalty switchover` asks the supervisor: a file in the data folder, and another one with the outcome.

Only the supervisor may touch servers, and it is another process; a file needs no port and no credential, and who may
write it owns the data anyway.
"""

import time
from pathlib import Path

from pydantic import BaseModel

from cluster.errors import ClusterError
from cluster.files import read_json, write_json

DEADLINE_S = 90.0
POLL_INTERVAL_S = 0.1


class Outcome(BaseModel):
    """What became of a request."""

    done: bool
    words: str


def _asked(data: Path, shard: str) -> Path:
    return data / f"switchover-{shard}.asked"


def _told(data: Path, shard: str) -> Path:
    return data / f"switchover-{shard}.told"


def ask(data: Path, shard: str) -> str:
    """Have a shard's roles changed and wait for it; ClusterError when it is refused or takes too long."""
    _told(data, shard).unlink(missing_ok=True)
    write_json(_asked(data, shard), {})
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if (found := read_json(_told(data, shard))) is not None:
            outcome = Outcome.model_validate(found)
            if not outcome.done:
                raise ClusterError(outcome.words)
            return outcome.words
        time.sleep(POLL_INTERVAL_S)
    _asked(data, shard).unlink(missing_ok=True)
    raise ClusterError(f"{shard} was not switched over in {DEADLINE_S:.0f} s; `loyalty status` tells how it stands")


def is_asked(data: Path, shard: str) -> bool:
    """Whether somebody asks; a question is taken once."""
    try:
        _asked(data, shard).unlink()
    except FileNotFoundError:
        return False
    return True


def tell(data: Path, shard: str, outcome: Outcome) -> None:
    """Say what became of it."""
    write_json(_told(data, shard), outcome.model_dump())
