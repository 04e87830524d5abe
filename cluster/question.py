"""How a command of `loyalty` asks the supervisor: a file in the data folder, and another one with the outcome.

Only the supervisor may touch processes, and it is another process; a file needs no port and no credential, and who may
write it owns the data anyway.
"""

import secrets
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.errors import ClusterError
from cluster.files import read_json, write_json
from cluster.run_file import read_run

POLL_INTERVAL_S = 0.1
_ASKED, _TAKEN, _TOLD = ".asked", ".taken", ".told"


class Outcome(BaseModel):
    """What became of a question."""

    done: bool
    words: str


def ask(data: Path, topic: str, content: Any, *, deadline_s: float, late: str) -> str:
    """Ask, and wait for the outcome; ClusterError when it is refused, `late` when it takes longer, or nobody is left.

    Each question has a name of its own, in the order of time: who asks beside another one hears of their own alone.
    """
    name = f"{topic}.{time.time_ns():020}-{secrets.token_hex(4)}"
    asked, told = data / f"{name}{_ASKED}", data / f"{name}{_TOLD}"
    write_json(asked, {"until": time.time() + deadline_s, "content": content})
    until, run = time.monotonic() + deadline_s, read_run(data)
    try:
        while time.monotonic() < until:
            if (found := read_json(told)) is not None:
                outcome = Outcome.model_validate(found)
                if not outcome.done:
                    raise ClusterError(outcome.words)
                return outcome.words
            if run is not None and not run.supervisor.alive():
                raise ClusterError("the supervisor has gone meanwhile: `loyalty up`, then ask again, and it goes on")
            time.sleep(POLL_INTERVAL_S)
    finally:
        asked.unlink(missing_ok=True)
        told.unlink(missing_ok=True)
    raise ClusterError(late)


def take(data: Path, topic: str) -> Any:
    """What was asked first, None when nobody asks; a question is taken once, and not after who asked has gone."""
    for asked in sorted(data.glob(f"{topic}.*{_ASKED}")):
        question = read_json(asked)
        for before in data.glob(f"{topic}.*{_TAKEN}"):
            before.unlink(missing_ok=True)  # of a supervisor that died over it
        try:
            asked.rename(asked.with_suffix(_TAKEN))
        except FileNotFoundError:
            continue  # who asked has just gone
        if question is not None and time.time() < question["until"]:
            return question["content"]
    return None


def tell(data: Path, topic: str, outcome: Outcome) -> None:
    """Say what became of the one that was taken; OSError when it cannot be written down, now."""
    for taken in data.glob(f"{topic}.*{_TAKEN}"):
        question = read_json(taken)
        if question is not None and time.time() < question["until"]:
            write_json(taken.with_suffix(_TOLD), outcome.model_dump())
        taken.unlink(missing_ok=True)  # not before: where there is no room it may be told again
