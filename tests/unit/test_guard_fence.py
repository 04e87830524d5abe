"""What a guard does about a server that cannot be killed: nobody takes its place as long as it is there."""

import os
from pathlib import Path

import pytest

from cluster.failover import Guard
from cluster.pair import Pair
from cluster.plan import ServerPlan
from cluster.postgres import PostgresTools
from cluster.process import Child, ProcessSpec, kill_group
from cluster.run_file import Identity, RunRecord
from cluster.supervisor import Supervisor
from tests.engine import PASSWORDS


async def no_trouble() -> None:
    return None


async def is_stuck(_child: Child, _folder: Path) -> bool:
    """As a process is that waits for a disk that never answers."""
    return False


async def test_what_could_not_be_killed_is_not_gone_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerPlan(name="eu-1-postgres-1", folder=tmp_path / "postgres-1", port=1, standby="standby")
    supervisor = Supervisor(tmp_path, RunRecord(Identity.of(os.getpid())))
    tools = PostgresTools(tmp_path, None)
    pair = Pair("eu-1", [server], tools, PASSWORDS, lambda name: tmp_path / name, supervisor)
    guard = Guard(pair, supervisor, "eu-1-cdc")
    log = tmp_path / "log"
    await supervisor.start(ProcessSpec(name=server.name, argv=("sleep", "60"), log=log, probe=no_trouble))
    child = supervisor.kept[server.name].child
    try:
        with monkeypatch.context() as patched:
            patched.setattr("cluster.failover.fence", is_stuck)
            assert [await guard._fence(server) for _ in range(2)] == [False, False]
        assert await guard._fence(server)
        assert child.returncode is not None
    finally:
        if child.returncode is None:
            kill_group(child.pid)
