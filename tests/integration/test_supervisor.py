"""The supervisor with real processes: what dies comes back, what is stopped stays away, nothing is left behind."""

import asyncio
import dataclasses
import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cluster import process
from cluster.errors import ClusterError, StartFailed
from cluster.node import PROJECT
from cluster.process import ProcessSpec, rotate_log
from cluster.run_file import Identity, ProcessRecord, RunRecord, exclusive, read_run, stop_orphans
from cluster.supervisor import Supervisor
from tests.conftest import eventually
from tests.engine import free_port, server_folder, valkey_process

# A supervisor of one Valkey that tells when it is up and then waits to be killed.
LONELY_SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from cluster.run_file import Identity, RunRecord
from cluster.supervisor import Supervisor
from tests.engine import valkey_process

async def live(data, port):
    supervisor = Supervisor(data, RunRecord(Identity.of(os.getpid())))
    await supervisor.start(valkey_process(data, port)[0])
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(live(Path(sys.argv[1]), int(sys.argv[2])))
"""


@pytest.fixture
async def supervisor() -> AsyncGenerator[Supervisor]:
    with server_folder() as data:
        supervisor = Supervisor(data, RunRecord(Identity.of(os.getpid())))
        yield supervisor
        await supervisor.stop(list(supervisor.kept))


def valkey_spec(supervisor: Supervisor, port: int) -> ProcessSpec:
    return valkey_process(supervisor.data, port)[0]


def recorded(data: Path) -> Identity:
    run = read_run(data)
    assert run is not None
    identity = run.processes["valkey"].identity
    assert identity is not None
    return identity


async def test_a_killed_process_is_restarted_and_counted(supervisor: Supervisor) -> None:
    await supervisor.start(valkey_spec(supervisor, free_port()))
    first = recorded(supervisor.data)
    os.kill(first.pid, signal.SIGKILL)
    record = supervisor.run.processes["valkey"]

    async def back() -> bool:
        return record.restarts == 1 and record.state == "ready"

    await eventually(back)
    assert recorded(supervisor.data) != first
    assert record.last_exit == "killed by SIGKILL"


@pytest.mark.parametrize("gone", ["users.acl", "valkey.conf", "."])
async def test_a_killed_process_whose_files_are_gone_is_restarted_with_the_same_ones(
    supervisor: Supervisor, gone: str
) -> None:
    await supervisor.start(valkey_spec(supervisor, free_port()))
    folder, record = supervisor.data / "valkey", supervisor.run.processes["valkey"]
    before = {path.name: path.read_text() for path in folder.iterdir()}
    lost = folder / gone
    lost.unlink() if lost.is_file() else shutil.rmtree(lost)
    os.kill(recorded(supervisor.data).pid, signal.SIGKILL)

    async def back() -> bool:
        return record.restarts > 0 and record.state == "ready"

    await eventually(back)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


async def test_only_what_dies_again_waits_before_it_starts_again(supervisor: Supervisor) -> None:
    told: list[str] = []
    supervisor.on_change = lambda _name, state: told.append(state)
    await supervisor.start(valkey_spec(supervisor, free_port()))
    record = supervisor.run.processes["valkey"]

    async def back() -> bool:
        return record.restarts == deaths and record.state == "ready"

    for deaths in (1, 2, 3):  # noqa: B007 - back() reads it
        os.kill(recorded(supervisor.data).pid, signal.SIGKILL)
        await eventually(back)
    assert [state for state in told if "restart in" in state] == [
        f"killed by SIGKILL, restart in {pause} s" for pause in ("0.0", "0.2", "0.4")
    ]


async def test_a_process_that_falls_silent_is_killed_and_restarted(supervisor: Supervisor) -> None:
    told: list[str] = []
    supervisor.on_change = lambda _name, state: told.append(state)
    supervisor.silent_max_s, supervisor.ask_interval_s = 0.5, 0.05
    await supervisor.start(valkey_spec(supervisor, free_port()))
    first = recorded(supervisor.data)
    os.kill(first.pid, signal.SIGSTOP)
    await restarted(supervisor.run.processes["valkey"])
    assert recorded(supervisor.data) != first
    assert any("silent for" in state for state in told)


async def test_a_process_that_refuses_to_answer_is_killed_and_restarted(supervisor: Supervisor) -> None:
    supervisor.silent_max_s, supervisor.ask_interval_s = 0.5, 0.05
    refusing = [True]

    async def alive() -> str | None:
        return "refused" if refusing else None

    await supervisor.start(dataclasses.replace(valkey_spec(supervisor, free_port()), alive=alive))
    await restarted(supervisor.run.processes["valkey"])
    refusing.clear()
    restarts = supervisor.run.processes["valkey"].restarts
    await supervisor.stop(["valkey"])
    assert supervisor.run.processes["valkey"].restarts == restarts


async def test_a_process_that_answers_late_is_left_alone(supervisor: Supervisor) -> None:
    supervisor.silent_max_s, supervisor.ask_interval_s = 10.0, 0.01
    asked = asyncio.Event()
    let_answer = asyncio.Event()

    async def alive() -> str | None:
        asked.set()
        await let_answer.wait()
        return None

    await supervisor.start(dataclasses.replace(valkey_spec(supervisor, free_port()), alive=alive))
    await asked.wait()
    let_answer.set()
    asked.clear()
    await asked.wait()  # it was asked again
    assert supervisor.run.processes["valkey"].restarts == 0


async def test_one_question_that_is_lost_is_no_silence(supervisor: Supervisor) -> None:
    supervisor.silent_max_s, supervisor.ask_interval_s = 0.5, 0.02
    asked = 0
    asked_often = asyncio.Event()

    async def alive() -> str | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        if asked == 50:  # long after the first should have been answered
            asked_often.set()
        return None

    await supervisor.start(dataclasses.replace(valkey_spec(supervisor, free_port()), alive=alive))
    await asked_often.wait()
    assert supervisor.run.processes["valkey"].restarts == 0


async def test_what_was_answered_while_the_supervisor_was_away_is_no_silence(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.silent_max_s, supervisor.ask_interval_s = 0.5, 0.02
    loop, ahead_s = asyncio.get_running_loop(), 0.0
    time_of = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_of() + ahead_s)
    told: list[str] = []
    asked_often = asyncio.Event()
    asked = 0

    async def alive() -> str | None:
        nonlocal asked, ahead_s
        asked += 1
        if asked == 1:
            ahead_s = 0.7  # as after a stop of this process: all timers are due before what has come is read
        for _turn in range(5):
            await asyncio.sleep(0)
        if asked == 10:
            asked_often.set()
        return None

    supervisor.on_change = lambda _name, state: told.append(state)
    await supervisor.start(dataclasses.replace(valkey_spec(supervisor, free_port()), alive=alive))
    await asked_often.wait()
    assert not [state for state in told if "silent" in state]


async def test_a_process_that_cannot_start_says_why_with_its_log(supervisor: Supervisor) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartFailed, match=r"valkey did not start: exited with 1(.|\n)*Address already in use"):
            await supervisor.start(valkey_spec(supervisor, taken.getsockname()[1]))


async def test_a_stopped_process_stays_away(supervisor: Supervisor) -> None:
    await supervisor.start(valkey_spec(supervisor, free_port()))
    identity = recorded(supervisor.data)
    await supervisor.stop(["valkey"])
    assert not identity.alive()
    assert supervisor.run.processes["valkey"].state == "stopped"


async def restarted(record: ProcessRecord) -> None:
    async def back() -> bool:
        return record.restarts == 1 and record.state == "ready"

    await eventually(back, deadline_s=20)


async def test_on_a_full_disk_a_killed_process_is_restarted_all_the_same(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    supervisor.on_change = lambda name, state: told.append((name, state))
    supervisor.upkeep_s = 0.05
    await supervisor.start(valkey_spec(supervisor, free_port()))
    first = recorded(supervisor.data)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(RunRecord, "save", _no_space)
        os.kill(first.pid, signal.SIGKILL)
        await restarted(supervisor.run.processes["valkey"])
    assert ("run.json", "not written: [Errno 28] No space left on device") in told

    async def written_when_it_can_be() -> bool:
        return recorded(supervisor.data) == supervisor.run.processes["valkey"].identity

    await eventually(written_when_it_can_be)


def _no_space(_record: RunRecord, _data: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_trouble_nobody_foresaw_does_not_end_the_keeping(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.supervisor.BACK_OFF_MAX_S", 0.1)
    troubles = [RuntimeError("a probe that breaks")]
    spec = valkey_spec(supervisor, free_port())

    async def probe() -> str | None:
        if supervisor.run.processes["valkey"].restarts and troubles:
            raise troubles.pop()
        return await spec.probe()

    def listen(_name: str, state: str) -> None:
        if "restart in" in state:
            raise BrokenPipeError("a terminal that is gone")

    supervisor.on_change = listen
    await supervisor.start(dataclasses.replace(spec, probe=probe))
    for _ in range(2):
        restarts = supervisor.run.processes["valkey"].restarts
        os.kill(recorded(supervisor.data).pid, signal.SIGKILL)

        async def again(restarts: int = restarts) -> bool:
            return supervisor.run.processes["valkey"].restarts == restarts + 1

        await eventually(again)
    assert not troubles


def test_a_log_is_emptied_beneath_the_process_that_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 3)
    log = tmp_path / "one.log"
    log.touch(mode=0o644)
    with process.open_log(log) as child:
        for line in (b"old\n", b"new"):
            child.write(line)
            child.flush()
            rotate_log(log)
    assert (log.read_bytes(), (tmp_path / "one.log.1").read_bytes()) == (b"new", b"old\n")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (log, tmp_path / "one.log.1")] == [0o640, 0o640]


async def test_a_log_is_kept_small_while_its_process_runs(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.upkeep_s = 0.05
    spec = valkey_spec(supervisor, free_port())
    await supervisor.start(spec)
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 100)

    async def emptied() -> bool:
        return spec.log.with_suffix(".log.1").exists() and spec.log.stat().st_size == 0

    await eventually(emptied)


async def test_a_log_is_rotated_at_a_restart(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = valkey_spec(supervisor, free_port())
    await supervisor.start(spec)
    spec.log.write_bytes(b"x" * 100_001)
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 100_000)
    os.kill(recorded(supervisor.data).pid, signal.SIGKILL)
    await restarted(supervisor.run.processes["valkey"])
    assert spec.log.with_suffix(".log.1").read_bytes().startswith(b"x" * 100_000)


def lonely_supervisor(data: Path) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-c", LONELY_SUPERVISOR, str(data), str(free_port())],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    return child


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
async def test_kill_9_of_the_supervisor_takes_its_children_along() -> None:
    with server_folder() as data, lonely_supervisor(data) as child:
        identity = recorded(data)
        child.kill()

        async def gone() -> bool:
            return not identity.alive()

        await eventually(gone)


def test_what_outlives_its_supervisor_is_found_and_stopped(tmp_path: Path) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    run = RunRecord(Identity(pid=orphan.pid, started_at_s=0))
    run.processes["orphan"] = ProcessRecord("ready", log="", identity=Identity.of(orphan.pid))
    run.save(tmp_path)
    assert stop_orphans(tmp_path) == ["orphan"]
    assert orphan.wait(5) == -signal.SIGTERM


def test_a_stranger_with_the_same_process_id_is_left_alone() -> None:
    assert not Identity(os.getpid(), started_at_s=1.0).alive()
    assert Identity.of(os.getpid()).alive()


def test_two_supervisors_never_share_a_data_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(ClusterError, match="in use by another supervisor"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass
