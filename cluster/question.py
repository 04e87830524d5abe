"""How a command of `loyalty` asks the supervisor: a file in the data folder, and another one with the outcome.

Only the supervisor may touch processes, and it is another process; a file needs no port and no credential, and who may
write it owns the data anyway.
"""

import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.errors import ClusterError
from cluster.files import read_json, write_json

POLL_INTERVAL_S = 0.1


class Outcome(BaseModel):
    """What became of a question."""

    done: bool
    words: str


def _asked(data: Path, topic: str) -> Path:
    return data / f"{topic}.asked"


def _told(data: Path, topic: str) -> Path:
    return data / f"{topic}.told"


def ask(data: Path, topic: str, content: Any, *, deadline_s: float, late: str) -> str:
    """Ask, and wait for the outcome; ClusterError when it is refused, or `late` when it takes longer."""
    _told(data, topic).unlink(missing_ok=True)
    write_json(_asked(data, topic), content)
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if (found := read_json(_told(data, topic))) is not None:
            outcome = Outcome.model_validate(found)
            if not outcome.done:
                raise ClusterError(outcome.words)
            return outcome.words
        time.sleep(POLL_INTERVAL_S)
    _asked(data, topic).unlink(missing_ok=True)
    raise ClusterError(late)


def take(data: Path, topic: str) -> Any:
    """What somebody asks, None when nobody does; a question is taken once."""
    content = read_json(_asked(data, topic))
    if content is not None:
        _asked(data, topic).unlink(missing_ok=True)
    return content


def tell(data: Path, topic: str, outcome: Outcome) -> None:
    """Say what became of it."""
    write_json(_told(data, topic), outcome.model_dump())
