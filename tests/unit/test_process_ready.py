"""Who is waited for: a process that is at work has time as long as it gets on."""

import asyncio
import sys
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from cluster.errors import StartFailed
from cluster.process import ProcessSpec, wait_ready

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
