"""A server's buffers have room for its data, and servers that share a machine share its memory."""

import os
from pathlib import Path

import pytest

from cluster.memory import MIB, buffers, data_bytes, memory_bytes, share_of
from cluster.pair import Pair
from cluster.plan import ServerPlan
from cluster.postgres import CONFIGURATION, PostgresTools
from cluster.run_file import Identity, RunRecord
from cluster.supervisor import Supervisor
from tests.engine import PASSWORDS

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("servers", "memory", "data", "expected"),
    [
        pytest.param(6, 24 * GIB, 3 * GIB, "1024MB", id="three grown pairs take a quarter of the machine together"),
        pytest.param(2, 24 * GIB, 3 * GIB, "3072MB", id="one pair may take more"),
        pytest.param(6, 24 * GIB, 32 * MIB, "96MB", id="an empty shard takes little"),
        pytest.param(6, 24 * GIB, 200 * MIB, "400MB", id="data may double before the next start"),
        pytest.param(12, 4 * GIB, 3 * GIB, "96MB", id="many servers on a small machine have what they always had"),
        pytest.param(1, 512 * GIB, 512 * GIB, "8192MB", id="beyond that the kernel's cache does as well"),
        pytest.param(0, 8 * GIB, 0, "96MB", id="no server of ours"),
    ],
)
def test_buffers(servers: int, memory: int, data: int, expected: str) -> None:
    assert buffers(share_of(memory, servers), data)["shared_buffers"] == expected


@pytest.mark.parametrize(("data", "expected"), [(0, "1MB"), (200 * MIB, "4MB"), (GIB, "16MB")])
def test_buffers_for_wal_grow_with_the_others(data: int, expected: str) -> None:
    assert buffers(64 * GIB, data)["wal_buffers"] == expected


def test_a_control_group_that_may_have_less_counts(tmp_path: Path) -> None:
    limited, free = tmp_path / "limited", tmp_path / "free"
    limited.write_text(f"{64 * MIB}\n")
    free.write_text("max\n")
    machine = memory_bytes([free, tmp_path / "absent"])
    assert memory_bytes([limited, free]) == 64 * MIB < machine


async def test_a_server_is_set_by_its_data_at_each_start(tmp_path: Path) -> None:
    server = ServerPlan(name="one", folder=tmp_path / "one", port=1)
    supervisor = Supervisor(tmp_path, RunRecord(Identity.of(os.getpid())))
    pair = Pair("eu-1", [server], PostgresTools(tmp_path, None), PASSWORDS, lambda _: tmp_path, supervisor, None, GIB)
    (server.folder / "base" / "5").mkdir(parents=True)
    with (server.folder / "base" / "5" / "16384").open("wb") as table:
        table.truncate(200 * MIB)
    assert data_bytes(server.folder) == 200 * MIB
    pair.configure(server)
    assert "shared_buffers = '400MB'" in (server.folder / CONFIGURATION).read_text()
