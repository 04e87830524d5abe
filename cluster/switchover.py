"""How `loyalty switchover` asks the supervisor for the roles of a shard to be changed."""

from collections.abc import Awaitable
from pathlib import Path

from cluster import question
from cluster.errors import in_words
from cluster.question import Outcome

__all__ = ["Outcome", "answer", "ask", "is_asked"]

DEADLINE_S = 90.0


def ask(data: Path, shard: str) -> str:
    """Have a shard's roles changed and wait for it; ClusterError when it is refused or takes too long."""
    late = f"{shard} was not switched over in {DEADLINE_S:.0f} s; `loyalty status` tells how it stands"
    return question.ask(data, _topic(shard), {}, deadline_s=DEADLINE_S, late=late)


def is_asked(data: Path, shard: str) -> bool:
    """Whether somebody asks; a question is taken once."""
    return question.take(data, _topic(shard)) is not None


async def answer(data: Path, shard: str, work: Awaitable[Outcome]) -> None:
    """Do it and say what became of it, to whoever asked also where it fails."""
    outcome = Outcome(done=False, words=f"{shard} was not switched over; `loyalty status` tells how it stands")
    try:
        outcome = await work
    except Exception as error:
        outcome = Outcome(done=False, words=f"{shard} was not switched over: {in_words(error)}")
        raise
    finally:
        question.tell(data, _topic(shard), outcome)


def _topic(shard: str) -> str:
    return f"switchover-{shard}"
