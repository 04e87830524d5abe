"""A second shard joins a region that sells meanwhile: new members live on it, old ones stay, and a restart keeps it."""

import asyncio
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from shard_router.member_id import parse_member_id
from shard_router.topology import Topology, read_topology
from tests.long import long
from tests.system.conftest import free_range, loyalty, start
from tests.system.till import Reply, System, basket

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


async def told(data: Path) -> dict[str, Any]:
    return json.loads((await asyncio.to_thread(loyalty, data, "status", "--json")).stdout)


async def shard(system: System, name: str, word: str = "add") -> tuple[int, str]:
    done = await asyncio.to_thread(loyalty, system.data, "shard", word, name)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


async def again(system: System) -> None:
    await asyncio.to_thread(loyalty, system.data, "down")
    await asyncio.to_thread(start, system.data, system.port, "--regions", "eu")
    system.status = await told(system.data)


def topology(system: System) -> Topology:
    return read_topology(system.data / "topology.json")


def home(system: System, member: str) -> str:
    return topology(system).shard_of(parse_member_id(member))


async def enrol(system: System, number: int) -> Reply:
    return await system.insist("eu", "/v1/members", {"phone": f"+4930666{number:06}"}, f"grown-{number}")


async def enrol_and_buy(system: System, members: list[str]) -> None:
    for number in itertools.count(1000):
        reply = await enrol(system, number)
        assert reply.status == 201, reply.body
        member = reply.json["member_id"]
        body = basket(member, "eu", f"meanwhile-{number}")
        bought = await system.insist("eu", "/v1/purchases", body, f"bought-{number}")
        assert bought.status == 201, bought.body
        members.append(member)


async def lifetime(system: System, member: str) -> tuple[int, int]:
    reply = await system.get("eu", f"/v1/members/{member}/account")
    return reply.status, reply.json["balance"]["lifetime"] if reply.status == 200 else -1


async def is_refused_while_no_slot_is_empty(eu: System) -> None:
    for name, why in (("eu", "is no name of a shard"), ("us-2", "there is no region us"), ("eu-1", "is there already")):
        code, words = await shard(eu, name)
        assert (code, why in words) == (1, True), words
    connection = await eu.primary("eu")
    await connection.execute(SOMEBODY_EVERYWHERE)
    try:
        code, words = await shard(eu, "eu-2")
    finally:
        await connection.execute(NOBODY)
        await connection.close()
    assert (code, "moving slots between shards comes later" in words) == (1, True), words
    assert list(topology(eu).document.shards) == ["eu-1"]


async def stays_as_somebody_lives_there(eu: System) -> None:
    code, words = await shard(eu, "eu-2", "remove")
    assert (code, "eu-2 holds members" in words) == (1, True), words
    assert topology(eu).document.shards["eu-2"].state == "active"


@long
@pytest.mark.timeout(900)
async def test_a_shard_joins_under_load_takes_newcomers_and_stays(eu: System) -> None:
    await is_refused_while_no_slot_is_empty(eu)
    old = (await enrol(eu, 1)).json["member_id"]
    await eu.insist("eu", "/v1/purchases", basket(old, "eu", "old"), "bought-old")
    enrolling = await eu.primary("eu")
    await enrolling.execute("SELECT pg_advisory_lock_shared(7261002)")  # one enrolment that does not end
    code, words = await shard(eu, "eu-2")
    await enrolling.close()
    assert (code, "nothing was given, ask again" in words) == (1, True), words
    joining = topology(eu).document.shards["eu-2"]
    assert (joining.state, joining.slots) == ("joining", [])
    await again(eu)  # goes on with a shard that takes nobody yet
    assert (eu.status["ready"], set(eu.status["regions"]["eu"]["shards"])) == (True, {"eu-1", "eu-2"})

    members: list[str] = []
    load = asyncio.create_task(enrol_and_buy(eu, members))
    code, words = await shard(eu, "eu-2")
    assert not load.done()
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    assert (code, "eu-2 takes new members in 2,0" in words) == (0, True), words
    assert await shard(eu, "eu-2") == (1, "shard eu-2 is there already")
    code, words = await shard(eu, "eu-3")
    assert (code, "at most 2 shards" in words) == (1, True)

    newcomers = [(await enrol(eu, number)).json["member_id"] for number in range(2, 26)]
    assert {home(eu, member) for member in newcomers} == {"eu-1", "eu-2"}
    assert home(eu, old) == "eu-1"
    await stays_as_somebody_lives_there(eu)
    there = next(member for member in newcomers if home(eu, member) == "eu-2")
    bought = await eu.insist("eu", "/v1/purchases", basket(there, "eu", "there"), "bought-there")
    assert bought.status == 201
    replayed = await eu.post("eu", "/v1/members", {"phone": "+4930666000002"}, key="grown-2")
    assert (replayed.headers["Idempotent-Replayed"], replayed.json["member_id"]) == ("true", newcomers[0])
    ready = await eu.ask("GET", f"{eu.node('eu', 'command')}/readyz?verbose")
    assert (ready.status, b"primary eu-2: ok" in ready.body) == (200, True)

    before = {member: await lifetime(eu, member) for member in (old, there, *members)}
    assert {status for status, _ in before.values()} == {200}
    await again(eu)
    assert (eu.status["ready"], set(eu.status["regions"]["eu"]["shards"])) == (True, {"eu-1", "eu-2"})
    assert {member: await lifetime(eu, member) for member in before} == before
    verdict = await asyncio.to_thread(loyalty, eu.data, "verify")
    assert verdict.returncode == 0, verdict.stdout
