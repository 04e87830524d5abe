"""Who is waited for: a process that is at work has time as long as it gets on."""

import asyncio
import resource
import sys
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from cluster import disk, run
from cluster.document import plan_of
from cluster.errors import ClusterError, StartFailed
from cluster.files import write_json
from cluster.process import ProcessSpec, log_size, log_tail, wait_ready

ROUNDS = 8  # each takes PROBE_INTERVAL_S, which is more than the deadline


async def started(tmp_path: Path, says: Iterator[str | None]) -> None:
    async def probe() -> str | None:
        return next(says)

    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    spec = ProcessSpec(
        name="eu-1-cdc", argv=(), log=tmp_path / "log", probe=probe, ready_deadline_s=0.01, at_work="rebuilding"
    )
    try:
        await wait_ready(spec, child)
    finally:
        child.kill()
        await child.communicate()


async def test_a_rebuild_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    await started(tmp_path, chain((f"rebuilding: {done} members" for done in range(ROUNDS)), repeat(None)))


@pytest.mark.parametrize("says", [repeat("rebuilding: 0 members"), (f"{n} ms old" for n in range(ROUNDS))])
async def test_what_does_not_get_on_is_given_up(tmp_path: Path, says: Iterator[str]) -> None:
    with pytest.raises(StartFailed, match="not ready after"):
        await started(tmp_path, says)


def test_the_end_of_a_log_tells_why_a_node_did_not_start_and_not_whom_it_has_answered(tmp_path: Path) -> None:
    log = tmp_path / "eu-command.log"
    log.write_text("a setting is wrong\n" + '{"event":"answered","status":200}\n' * 30)
    assert log_tail(log) == "a setting is wrong"
    before = log_size(log)
    with log.open("a") as more:
        more.write("another one is\n")
    assert log_tail(log, since=before) == "another one is"


def test_a_start_in_the_background_that_fails_tells_why_and_not_how_far_it_came() -> None:
    began = "2026-11-28T10:05:12Z   20.9 s  eu-command: starting"
    told = f"{began}\n2026-11-28T10:05:14Z   22.9 s  ap-1-valkey: stopped\nus-1-cdc did not start: exited with 1\nwhy"
    assert run._last_words(told) == "us-1-cdc did not start: exited with 1\nwhy"
    assert run._last_words(began) == began


def test_a_start_in_the_background_that_could_say_nothing_is_told_with_what_there_is_little_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk its log stays empty."""
    monkeypatch.setattr(disk, "FULL_PERCENT", 0)
    with pytest.raises(
        ClusterError, match=r"the start exited with 3 and wrote nothing in .*supervisor\.log\ndisk .* used"
    ):
        run.detach(plan_of({"data": tmp_path}), [], ("-c", "raise SystemExit(3)"))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """`No space left on device` alone does not tell where to make room."""
    path, (_, highest) = tmp_path / "run.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, highest))
    try:
        with pytest.raises(OSError) as failed:  # noqa: PT011 - which one it is depends on what is full
            write_json(path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (highest, highest))
    assert failed.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
