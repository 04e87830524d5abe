"""One region with a shard of its own, to which another joins and from which it goes."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from shard_router.topology import Topology, read_topology
from tests.system.conftest import free_range, loyalty, start, told
from tests.system.till import Reply, System

SOMEBODY_EVERYWHERE = """
    INSERT INTO account (member_id, version, available, pending, held, spent, expired, debt, issued, state)
    SELECT (4096 + slot::bigint) << 45, 1, 0, 0, 0, 0, 0, 0, 0, '{}' FROM generate_series(0, 4095) AS slot
"""
NOBODY = "DELETE FROM account WHERE member_id & (1::bigint << 45) - 1 = 0"


@pytest.fixture(scope="module")
def alone() -> Generator[tuple[Path, int]]:
    """Data folder and first port of a system of one region with one shard."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-shard-", dir="/var/tmp"))
    folder.chmod(0o755)
    data, port = folder / "data", free_range(regions=1)
    start(data, port, "--regions", "eu")
    yield data, port
    loyalty(data, "down")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def eu(alone: tuple[Path, int]) -> AsyncGenerator[System]:
    data, port = alone
    async with ClientSession() as session:
        yield System(data, port, await told(data), session)


async def shard(system: System, name: str, word: str = "add") -> tuple[int, str]:
    done = await asyncio.to_thread(loyalty, system.data, "shard", word, name)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


async def again(system: System) -> None:
    await asyncio.to_thread(loyalty, system.data, "down")
    await asyncio.to_thread(start, system.data, system.port, "--regions", "eu")
    system.status = await told(system.data)


def topology(system: System) -> Topology:
    return read_topology(system.data / "topology.json")


async def enrol(system: System, number: int) -> Reply:
    return await system.insist("eu", "/v1/members", {"phone": f"+4930666{number:06}"}, f"grown-{number}")
