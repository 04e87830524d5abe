"""A benchmark that is ended while it measures starts stops what it has started."""

import asyncio
import signal
import sys
from pathlib import Path

import psutil

from tests.conftest import eventually, so
from tests.project import PROJECT
from tests.system.conftest import free_range


def begun(folder: Path) -> bool:
    return any(folder.glob("loyalty-start-*/data/servers/*/*/postmaster.pid"))


def of_folder(folder: Path) -> list[int]:
    """Processes that have this folder among their words."""
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if any(str(folder) in word for word in one.info["cmdline"] or ())]


async def test_nothing_is_left_of_a_start_that_was_measured(tmp_path: Path) -> None:
    bench = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster", "bench", "targets", "--data", "data", "--port", str(free_range()),
        cwd=tmp_path, env={"PYTHONPATH": str(PROJECT)}, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    await eventually(so(lambda: begun(tmp_path)), deadline_s=60.0)
    bench.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(bench.wait(), 60) == 130
    assert not of_folder(tmp_path)
