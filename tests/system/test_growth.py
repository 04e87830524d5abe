"""A region that joins a running system, serves, and one that goes again: nobody who asks meanwhile notices."""

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector

from cluster.plan import find_envoy
from tests.conftest import eventually
from tests.long import long
from tests.system.conftest import free_range, loyalty, start, told
from tests.system.till import Reply, System


@pytest.fixture(scope="module")
def grown() -> Generator[tuple[Path, int]]:
    """Data folder and first port of a system of one region, of which the door (where there is one) knows."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-growth-", dir="/var/tmp"))
    folder.chmod(0o755)
    data, port = folder / "data", free_range(regions=3)
    start(data, port, "--regions", "eu")
    yield data, port
    loyalty(data, "down")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def small(grown: tuple[Path, int]) -> AsyncGenerator[System]:
    data, port = grown
    async with ClientSession() as session:
        yield System(data, port, await told(data), session)


async def region(system: System, *words: str) -> tuple[int, str]:
    done = await asyncio.to_thread(loyalty, system.data, "region", *words)
    return done.returncode, done.stdout + done.stderr


async def enrol(system: System, command: str, number: int) -> Reply:
    body = {"phone": f"+4930555{number:06}"}
    return await system.ask("POST", f"{command}/v1/members", body, **{"Idempotency-Key": f"growth-{number}"})


async def ask_the_door(system: System, answered: Counter[tuple[int, str]]) -> None:
    """Read and enrol for ever as an American client of the door, whose nearest region the new one will be."""
    headers = {"Authorization": f"Bearer {system.key}"}
    async with ClientSession(connector=TCPConnector(local_addr=("127.0.2.9", 0)), headers=headers) as session:
        for number in itertools.count(1):
            key = {"Idempotency-Key": f"growth-door-{number}"}
            async with session.get(f"{system.status['door']}/v1/rewards") as answer:
                answered[answer.status, answer.headers["Loyalty-Region"]] += 1
            member = {"phone": f"+4930666{number:06}"}
            async with session.post(f"{system.status['door']}/v1/members", json=member, headers=key) as answer:
                answered[answer.status, answer.headers["Loyalty-Region"]] += 1


@asynccontextmanager
async def the_door_asked(system: System) -> AsyncGenerator[None]:
    """While a region joins, and until it serves those to whom it is the nearest: none of them fails."""
    if find_envoy() is None:
        yield
        return
    answered: Counter[tuple[int, str]] = Counter()

    async def served_by_the_new() -> bool:
        return {(200, "us"), (201, "us")} <= answered.keys()

    asking = asyncio.create_task(ask_the_door(system, answered))
    try:
        yield
        await eventually(served_by_the_new, deadline_s=60)
    finally:
        asking.cancel()
        (end,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(end, asyncio.CancelledError), end
    assert {status for status, _ in answered} == {200, 201}


async def enrol_and_read(system: System, statuses: list[int], first: int) -> None:
    """Enrol members at the first region for ever, and read each."""
    for number in itertools.count(first):
        reply = await enrol(system, system.node("eu", "command"), number)
        statuses.append(reply.status)
        path = f"/v1/members/{reply.json['member_id']}/account"
        token = {"Consistency-Token": reply.headers["Consistency-Token"]}
        statuses.append((await system.ask("GET", system.node("eu", "query") + path, **token)).status)


@long
@pytest.mark.timeout(300)
async def test_a_region_joins_under_load_serves_and_stays(small: System) -> None:
    applying = await small.primary("eu")
    await applying.execute("SELECT pg_advisory_lock(hashtextextended('program apply', 0))")
    code, words = await region(small, "add", "us")  # its servers are up when that fails
    await applying.close()
    assert (code, "us" in (await told(small.data))["regions"]) == (1, False), words
    statuses: list[int] = []
    load = asyncio.create_task(enrol_and_read(small, statuses, 1))
    try:
        async with the_door_asked(small):
            code, words = await region(small, "add", "us")
            assert code == 0, words
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    assert set(statuses) == {201, 200}
    assert await region(small, "add", "us") == (1, "region us is there already\n")
    small.status = await told(small.data)
    if find_envoy() is not None:
        assert small.status["regions"]["us"]["share"] == 100

    us = small.node("us", "command")
    new = await enrol(small, us, 900_000)
    assert (new.status, new.headers["Loyalty-Region"]) == (201, "us")
    path = f"/v1/members/{new.json['member_id']}/account"
    token = {"Consistency-Token": new.headers["Consistency-Token"]}
    there = await small.ask("GET", small.node("eu", "query") + path, **token)
    assert (there.status, there.headers["Loyalty-Region"]) == (200, "us")
    body, key = {"phone": "+4930555000001"}, {"Idempotency-Key": "growth-again"}
    again = await small.ask("POST", f"{us}/v1/members", body, **key)
    assert (again.status, again.json["code"]) == (409, "member_exists")

    await asyncio.to_thread(loyalty, small.data, "down")
    await asyncio.to_thread(start, small.data, small.port)  # no regions named: those that are there
    assert {"eu", "us"} <= (await told(small.data))["regions"].keys()
    code, words = await region(small, "remove", "us")
    assert (code, "`loyalty region drain us` first" in words) == (1, True)
    assert (await region(small, "drain", "us"))[0] == 0
    refused = await enrol(small, us, 900_001)
    assert (refused.status, refused.json["code"], refused.json["retryable"]) == (503, "shard_unavailable", True)
    code, words = await region(small, "remove", "us")
    assert (code, "holds members" in words) == (1, True)


@pytest.mark.timeout(300)
async def test_a_region_where_nobody_ever_lived_goes_again(small: System) -> None:
    for word in ("add", "drain", "remove"):
        code, words = await region(small, word, "ap")
        assert code == 0, words
    status = await told(small.data)
    assert ("ap" in status["regions"], status["ready"]) == (False, True)
    assert not [name for name in status["processes"] if name.startswith("ap-")]
    code, words = await region(small, "remove", "eu")
    assert (code, "drain eu" in words) == (1, True)
    verdict = await asyncio.to_thread(loyalty, small.data, "verify")
    assert verdict.returncode == 0, verdict.stdout
