"""A first region goes from a running system, its claims stay, and the supervisor is killed in between."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from cluster.document import Documents
from shard_router.topology import read_topology
from tests.conftest import eventually
from tests.system.conftest import free_range, loyalty, start, told
from tests.system.till import System, basket


@pytest.fixture
def two_regions() -> Generator[tuple[Path, int]]:
    """Data folder and first port of a system of its own."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-first-", dir="/var/tmp"))
    folder.chmod(0o755)
    data, port = folder / "data", free_range(regions=2)
    start(data, port, "--regions", "eu,us")
    yield data, port
    loyalty(data, "down")
    shutil.rmtree(folder, ignore_errors=True)


async def enrol(system: System, number: int, attempt: str) -> tuple[int, Any]:
    key = {"Idempotency-Key": f"first-{number}-{attempt}"}
    url = f"{system.node('us', 'command')}/v1/members"
    reply = await system.ask("POST", url, {"phone": f"+4930777{number:06}"}, **key)
    return reply.status, reply.json.get("code")


async def enrol_at(system: System, region: str, number: int) -> str:
    reply = await system.post(region, "/v1/members", {"email": f"first-{number}@example.com"})
    assert reply.status == 201
    return reply.json["member_id"]


@pytest.mark.timeout(600)
async def test_a_first_region_goes_and_no_phone_is_free_again(two_regions: tuple[Path, int]) -> None:
    data, port = two_regions
    topology = Documents(data).topology
    async with ClientSession() as session:
        system = System(data, port, await told(data), session)
        members = range(1, 41)
        assert {await enrol(system, number, "new") for number in members} == {(201, None)}
        assert set(read_topology(topology).claim_shards) == {"eu-1", "us-1"}
        first, second = [(await enrol_at(system, "us", number)) for number in (1, 2)]
        assert (await system.post("us", "/v1/purchases", basket(first, "eu", "kept"))).status == 201
        primary = await system.primary("eu")

        async def kept() -> bool:
            return await primary.fetchval("SELECT count(*) FROM receipt") == 1

        await eventually(kept)
        await primary.close()
        done = await asyncio.to_thread(loyalty, data, "region", "drain", "eu")
        assert done.returncode == 0, done.stderr

        removing = asyncio.create_task(asyncio.to_thread(loyalty, data, "region", "remove", "eu"))

        async def left() -> bool:
            assert not removing.done()
            return "eu" not in read_topology(topology).document.regions

        await eventually(left, deadline_s=240)
        os.kill(json.loads((data / "run.json").read_text())["supervisor"]["pid"], signal.SIGKILL)
        assert (await removing).returncode == 1
        await asyncio.to_thread(start, data, port)
        done = await asyncio.to_thread(loyalty, data, "region", "remove", "eu")
        assert (done.returncode, "eu is gone" in done.stdout) == (0, True), done.stderr
        assert not (data / "servers" / "eu-1").exists()
        assert set(read_topology(topology).claim_shards) == {"us-1"}
        late = await system.post("us", "/v1/purchases", basket(second, "eu", "kept"))
        assert (late.status, late.json["code"]) == (409, "receipt_conflict")
        assert {await enrol(system, number, "again") for number in members} == {(409, "member_exists")}
        assert await enrol(system, 99, "new") == (201, None)
        verdict = await asyncio.to_thread(loyalty, data, "verify")
        assert verdict.returncode == 0, verdict.stdout
        done = await asyncio.to_thread(loyalty, data, "region", "remove", "eu")
        assert (done.returncode, "there is no region eu" in done.stderr) == (1, True)
