"""A supervisor that was stopped (Ctrl-Z, SIGSTOP), or is about to be gone: `status` tells, `down` ends it cleanly."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from cluster import run_file
from cluster.errors import ClusterError
from cluster.fence import is_stopped
from cluster.files import write_json
from cluster.run import stop_system
from cluster.run_file import Identity, RunRecord, exclusive, locked, read_run
from cluster.status import read_status
from tests.conftest import eventually
from tests.project import PROJECT

SUPERVISOR = """
import os, signal, sys
from pathlib import Path
from cluster.run_file import Identity, RunRecord, exclusive
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
with exclusive(Path(sys.argv[1])):
    RunRecord(Identity.of(os.getpid())).save(Path(sys.argv[1]))
    signal.sigwait([signal.SIGTERM])
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path)], cwd=PROJECT) as process:
        yield process
        process.kill()


async def test_one_that_was_stopped_is_told_and_ended_cleanly(
    tmp_path: Path, supervisor: subprocess.Popen[bytes]
) -> None:
    write_json(tmp_path / "topology.json", {"epoch": 1, "regions": {}, "shards": {}})
    await eventually(lambda: asyncio.to_thread((tmp_path / "run.json").exists))
    assert not [line for line in (await read_status(tmp_path)).warnings if "the supervisor (process" in line]
    supervisor.send_signal(signal.SIGSTOP)
    await eventually(lambda: asyncio.to_thread(is_stopped, supervisor.pid))
    (told,) = [line for line in (await read_status(tmp_path)).warnings if "the supervisor (process" in line]
    assert f"`kill -CONT {supervisor.pid}` wakes it" in told
    assert stop_system(tmp_path) == "stopped"
    assert supervisor.wait() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no clock but the machine's is known")
@pytest.mark.parametrize("step_s", [-3600.0, 60.0])
async def test_a_clock_that_was_set_makes_no_stranger_of_it(
    tmp_path: Path, supervisor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """What tells when a process started goes by the boot time, and that by the clock."""
    await eventually(lambda: asyncio.to_thread((tmp_path / "run.json").exists))
    before = psutil.Process.create_time

    def create_time(process: psutil.Process) -> float:
        return before(process) + step_s

    monkeypatch.setattr(psutil.Process, "create_time", create_time)
    assert stop_system(tmp_path) == "stopped"
    assert supervisor.wait() == 0


def dead() -> Identity:
    process = subprocess.Popen([sys.executable, "-c", ""])
    identity = Identity.of(process.pid)
    process.wait()
    return identity


@pytest.mark.parametrize("goes", [True, False])
def test_the_lock_of_one_that_was_killed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, goes: bool
) -> None:
    """Its other threads may live a little longer than its main one, by which it counts as gone."""
    RunRecord(dead()).save(tmp_path)
    held = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)

    def look(data: Path) -> RunRecord | None:
        if goes:
            fcntl.flock(held, fcntl.LOCK_UN)
        return read_run(data)

    monkeypatch.setattr(run_file, "read_run", look)
    monkeypatch.setattr(run_file, "DYING_MAX_S", run_file.DYING_MAX_S if goes else 0.0)
    assert locked(tmp_path) is not goes
    if not goes:
        with pytest.raises(ClusterError, match="in use by another supervisor"), exclusive(tmp_path):
            pass
    os.close(held)


@pytest.mark.parametrize("content", ['{"supervisor": {"pi', "[]"])
def test_who_cannot_read_who_runs_there_is_told_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ClusterError, match="remove the file, start anew"):
        stop_system(tmp_path)
