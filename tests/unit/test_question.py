"""Questions to the supervisor: each is taken once, in order, and who asks hears of their own alone."""

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster import question, switchover
from cluster.errors import ClusterError
from cluster.files import write_json
from cluster.question import Outcome
from cluster.run_file import Identity, RunRecord, run_path
from tests.conftest import eventually


def answer(data: Path, times: int) -> list[str]:
    """As the supervisor does, one after the other."""
    taken: list[str] = []
    until = time.monotonic() + 60
    while len(taken) < times and time.monotonic() < until:
        if (content := question.take(data, "region")) is not None:
            taken.append(content)
            question.tell(data, "region", Outcome(done=content != "c", words=f"did {content}"))
    return taken


def test_who_asks_beside_others_hears_of_their_own_alone(tmp_path: Path) -> None:
    def ask(content: str) -> str:
        try:
            return question.ask(tmp_path, "region", content, deadline_s=60, late="late")
        except ClusterError as error:
            return f"refused: {error}"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, content) for content in "abc"]
        assert sorted(answer(tmp_path, 3)) == ["a", "b", "c"]
        assert [one.result() for one in asked] == ["did a", "did b", "refused: did c"]
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_waits_for_any_more_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="late"):
        question.ask(tmp_path, "region", "a", deadline_s=0, late="late")
    (tmp_path / "region.1-x.asked").write_text('{"until": 0, "content": "remove"}')  # whoever asked was killed
    assert question.take(tmp_path, "region") is None
    assert question.take(tmp_path, "switchover-eu-1") is None
    question.tell(tmp_path, "region", Outcome(done=True, words="done"))
    assert list(tmp_path.iterdir()) == []


def test_who_asks_hears_that_the_supervisor_has_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    identity = Identity.of(gone.pid)
    gone.wait()
    write_json(run_path(tmp_path), asdict(RunRecord(supervisor=identity)))
    with pytest.raises(ClusterError, match="the supervisor has gone"):
        question.ask(tmp_path, "region", "a", deadline_s=60, late="late")
    assert list(tmp_path.glob("region.*")) == []


async def test_who_asks_for_a_switchover_hears_also_of_one_that_failed(tmp_path: Path) -> None:
    async def fail() -> Outcome:
        raise ClusterError("eu-1-postgres-1 cannot be killed")

    asking = asyncio.create_task(asyncio.to_thread(switchover.ask, tmp_path, "eu-1"))
    await eventually(lambda: asyncio.to_thread(switchover.is_asked, tmp_path, "eu-1"))
    with pytest.raises(ClusterError):
        await switchover.answer(tmp_path, "eu-1", fail())
    with pytest.raises(ClusterError, match="was not switched over: eu-1-postgres-1 cannot be killed"):
        await asking
