"""A forked node is what an executed one would be; and who cannot be forked is executed."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.errors import StartFailed
from cluster.fork import ForkServer
from cluster.forkserver import Born, fork_parent
from cluster.node import first_environment, node_environment
from cluster.process import Child, ProcessSpec, kill_group, spawn
from cluster.run_file import Identity, RunRecord
from cluster.supervisor import Supervisor
from service.access import id_in_head
from tests.conftest import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has pidfd and tells children of a death")

MODULE = "tests.forked"
FORK = "fork_parent(('json',), Path({!r}))"


@pytest.fixture
def born(tmp_path: Path) -> Generator[Born]:
    """Forked outside of the loop, as a supervisor's is before it has one."""
    open_all_along = os.dup(0)
    os.set_inheritable(open_all_along, True)  # noqa: FBT003
    id_in_head(b"", b"")  # whoever forks may have drawn already what is drawn once for a process
    yield fork_parent((f"{MODULE}.__main__",), tmp_path / "forkserver.log")
    os.close(open_all_along)


@pytest.fixture
async def forks(born: Born) -> AsyncGenerator[ForkServer]:
    server = ForkServer(node_environment(), born, (f"{MODULE}.__main__",), fork_deadline_s=2.0)
    await server.start()
    yield server
    await server.close()


def spec(folder: Path, name: str = "one", **more: str) -> ProcessSpec:
    async def ready() -> str | None:
        return None if told_in(log) else "nothing is told yet"

    log = folder / f"{name}.log"
    argv = (sys.executable, "-P", "-m", MODULE, "--config", name)
    return ProcessSpec(name=name, argv=argv, log=log, probe=ready, env=node_environment() | more)


def told_in(log: Path) -> dict[str, Any]:
    text = log.read_text() if log.exists() else ""
    return json.loads(text.splitlines()[-1]) if text.endswith("\n") else {}


async def told(child: Child | None, process: ProcessSpec) -> dict[str, Any]:
    assert child is not None, "it was not forked"

    async def has_told() -> bool:
        return bool(told_in(process.log))

    await eventually(has_told, deadline_s=60.0)
    return told_in(process.log)


def parent_of(child: Child) -> psutil.Process:
    found = psutil.Process(child.pid).parent()
    assert found is not None
    return found


async def test_a_fork_is_what_an_executed_process_is(forks: ForkServer, tmp_path: Path) -> None:
    forked, executed = spec(tmp_path, "one", LOYALTY_X="1"), spec(tmp_path, "two", LOYALTY_X="1")
    child, other = await forks.fork(forked), await spawn(executed)
    one, two = await told(child, forked), await told(other, executed)
    kill_group(other.pid)
    assert child
    assert psutil.Process(child.pid).cmdline()[:6] == [*forked.argv]
    assert one["session"] == child.pid
    assert {key: one[key] for key in ("env", "folder", "files", "threads")} == {
        key: two[key] for key in ("env", "folder", "files", "threads")
    }
    assert one["words"] == ["--config", "one"]
    kill_group(child.pid)
    assert await child.wait() == -signal.SIGKILL
    await other.wait()


async def test_its_words_may_be_longer_than_those_of_the_supervisor(forks: ForkServer, tmp_path: Path) -> None:
    process = spec(tmp_path, "long" * 50)
    process = replace(process, env={name: value for name, value in process.env.items() if name != "PATH"})
    child = await forks.fork(process)
    answer = await told(child, process)
    assert child
    assert tuple(psutil.Process(child.pid).cmdline()) == process.argv
    assert answer["env"] == dict(process.env)


async def test_two_forks_differ_in_what_is_drawn_at_random(forks: ForkServer, tmp_path: Path) -> None:
    processes = [spec(tmp_path, name) for name in ("one", "two")]
    children = await asyncio.gather(*(forks.fork(process) for process in processes))
    answers = [await told(child, process) for child, process in zip(children, processes, strict=True)]
    assert answers[0]["request"] != answers[1]["request"]


async def test_its_exit_is_told(forks: ForkServer, tmp_path: Path) -> None:
    process = spec(tmp_path)
    child = await forks.fork(process)
    await told(child, process)
    assert child
    assert child.returncode is None
    child.send_signal(signal.SIGTERM)
    assert await child.wait() == child.returncode == 7


async def test_forks_end_with_whom_they_were_forked_from(forks: ForkServer, tmp_path: Path) -> None:
    process = spec(tmp_path)
    child = await forks.fork(process)
    await told(child, process)
    assert child
    identity = Identity.of(child.pid)
    parent_of(child).kill()
    assert await child.wait() == -signal.SIGKILL

    async def gone() -> bool:
        return not identity.alive()

    await eventually(gone)
    assert await forks.fork(process) is None


async def test_one_that_does_not_answer_is_killed_and_all_are_executed(forks: ForkServer, tmp_path: Path) -> None:
    process = spec(tmp_path)
    child = await forks.fork(process)
    await told(child, process)
    assert child
    parent_of(child).suspend()
    assert await forks.fork(spec(tmp_path, "two")) is None
    assert await child.wait() == -signal.SIGKILL


async def test_what_only_a_new_interpreter_would_heed_is_executed(forks: ForkServer, tmp_path: Path) -> None:
    assert await forks.fork(spec(tmp_path, PYTHONDEVMODE="1")) is None


async def test_one_without_a_log_does_not_start(forks: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "one.log").mkdir()
    with pytest.raises(StartFailed, match="one"):
        await forks.fork(spec(tmp_path))


async def test_a_supervisor_restarts_a_fork_as_a_fork_and_after_that_by_executing(
    forks: ForkServer, tmp_path: Path
) -> None:
    supervisor = Supervisor(tmp_path, RunRecord(Identity.of(os.getpid())), forks=forks)
    process = spec(tmp_path)
    await supervisor.start(process)
    record = supervisor.run.processes["one"]
    parent = parent_of(supervisor.kept["one"].child)
    assert parent.pid != os.getpid()
    kill_group(supervisor.kept["one"].child.pid)

    async def restarted(times: int) -> bool:
        return record.restarts == times and record.state == "ready"

    await eventually(lambda: restarted(1))
    assert parent_of(supervisor.kept["one"].child) == parent
    parent.kill()
    await eventually(lambda: restarted(2))
    assert parent_of(supervisor.kept["one"].child).pid == os.getpid()
    await supervisor.stop(["one"])


async def test_a_fork_that_nobody_waits_for_any_more_is_ended_and_never_taken_for_the_next(
    forks: ForkServer, tmp_path: Path
) -> None:
    forks.fork_deadline_s = 60.0
    before = await forks.fork(spec(tmp_path, "before"))
    assert before
    server = parent_of(before)
    one, two = spec(tmp_path, "one"), spec(tmp_path, "two")
    server.suspend()
    asking = asyncio.create_task(forks.fork(one))
    for _ in range(10):
        await asyncio.sleep(0)
    asking.cancel()
    server.resume()
    assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], asyncio.CancelledError)

    child = await forks.fork(two)
    assert (await told(child, two))["words"] == ["--config", "two"]
    assert child
    assert psutil.Process(child.pid).cmdline()[:6] == [*two.argv]

    async def alone() -> bool:
        return {one.pid for one in server.children()} == {before.pid, child.pid}

    await eventually(alone)


async def test_one_that_does_not_end_in_time_is_killed_and_waited_for(
    born: Born, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.fork.CLOSE_DEADLINE_S", 0.0)
    server = ForkServer(node_environment(), born, (f"{MODULE}.__main__",))
    await server.start()
    psutil.Process(born.pid).suspend()
    await server.close()
    assert not psutil.pid_exists(born.pid)


async def test_it_ends_with_the_supervisor(tmp_path: Path) -> None:
    log = tmp_path / "forkserver.log"
    words = (f"from pathlib import Path; from cluster.forkserver import fork_parent; born = {FORK.format(str(log))}",)
    words = (*words, "print(born.pid, flush=True); input()")
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "; ".join(words)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=node_environment(),
    )
    assert supervisor.stdout
    parent = psutil.Process(int(await supervisor.stdout.readline()))
    supervisor.kill()
    await supervisor.wait()

    async def gone() -> bool:
        return not parent.is_running() or parent.status() == psutil.STATUS_ZOMBIE

    await eventually(gone)
    assert log.read_text() == ""


@pytest.mark.parametrize("last_word", ["pass", "raise ValueError"])
async def test_a_rehearsal_is_over_when_it_is_forked_and_may_fail(tmp_path: Path, last_word: str) -> None:
    """Else its children would share nothing of what it has done."""
    script = tmp_path / "supervisor.py"
    script.write_text(f"""
import os
from pathlib import Path
from cluster.forkserver import fork_parent

def rehearse():
    print(len(Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()), flush=True)
    {last_word}

fork_parent(("json",), Path({str(tmp_path / "forkserver.log")!r}), rehearse)
print("goes on", flush=True)
""")
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE, env=node_environment()
    )
    told, _ = await supervisor.communicate()
    assert told.split(b"\n")[:2] == [b"0", b"goes on"]


async def test_without_a_log_of_its_own_all_are_executed(tmp_path: Path) -> None:
    (tmp_path / "forkserver.log").mkdir()
    server = ForkServer.begin(node_environment(), tmp_path / "forkserver.log")
    await server.start()
    assert await server.fork(spec(tmp_path)) is None
    await server.close()


def test_what_the_supervisor_has_given_itself_since_is_no_environment_of_its_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "another.so")
    assert "LD_PRELOAD" not in first_environment()
    assert first_environment()["PATH"] == os.environ["PATH"]
