"""A shard outlives its servers: frozen, killed or robbed of their data, one after the other, while a till goes on."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientSession

from tests.conftest import eventually
from tests.long import long
from tests.system.conftest import free_range, loyalty, start
from tests.system.till import System, basket

DEADLINE_S = 90.0
PAGE = 8192


@pytest.fixture
def place() -> Generator[tuple[Path, int]]:
    """Data folder and first port of a system of one region, to be broken."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-failover-", dir="/var/tmp"))
    folder.chmod(0o755)
    data, port = folder / "data", free_range(1)
    start(data, port, "--regions", "eu")
    yield data, port
    loyalty(data, "down")

    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def alone(place: tuple[Path, int]) -> AsyncGenerator[System]:
    data, port = place
    async with ClientSession() as session:
        yield System(data, port, json.loads(loyalty(data, "status", "--json").stdout), session)


def lose(folder: Path) -> None:
    """Delete a server's folder though the server still writes there."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


class Shop:
    """A till that posts one basket after another; it knows which were acknowledged."""

    def __init__(self, system: System, member_id: str) -> None:
        self.acknowledged: list[str] = []
        self._stop = asyncio.Event()
        self._selling = asyncio.create_task(self._sell(system, member_id))

    async def _sell(self, system: System, member_id: str) -> None:
        while not self._stop.is_set():
            receipt = f"failover-{len(self.acknowledged)}"
            reply = await system.insist("eu", "/v1/purchases", basket(member_id, "eu", receipt), key=receipt)
            assert reply.status == 201, reply.body
            self.acknowledged.append(receipt)

    async def sells_on(self) -> None:
        """Return when baskets that were begun from now on have been acknowledged."""
        wanted = len(self.acknowledged) + 5

        async def sold() -> bool:
            if self._selling.done():
                self._selling.result()
            return len(self.acknowledged) >= wanted

        await eventually(sold, deadline_s=DEADLINE_S)

    async def close(self) -> list[str]:
        self._stop.set()
        await self._selling
        return self.acknowledged


async def role_of(system: System, *, standby: bool) -> str:
    """The name of the shard's server in a role, once both are there."""
    found: list[str] = []

    async def whole() -> bool:
        document = json.loads((await asyncio.to_thread(loyalty, system.data, "status", "--json")).stdout)
        shard = document["regions"]["eu"]["shards"]["eu-1"]
        if not document["ready"] or not shard["primary"] or not shard["standbys"]:
            return False
        url = shard["standbys"][0] if standby else shard["primary"]
        port = int(url.rpartition(":")[2].partition("/")[0])
        found.append(f"eu-1-postgres-{port - system.port - 3}")
        return True

    await eventually(whole, deadline_s=DEADLINE_S)
    return found[-1]


@long
@pytest.mark.timeout(420)
async def test_a_shard_goes_on_whichever_server_freezes_or_loses_its_data(alone: System) -> None:
    shop = Shop(alone, await alone.enrol("eu"))
    await shop.sells_on()

    for what in ("both frozen", "frozen primary", "primary without data", "frozen standby", "standby without data"):
        name = await role_of(alone, standby="standby" in what)
        if what == "both frozen":
            os.kill(alone.processes()[await role_of(alone, standby=True)], signal.SIGSTOP)
        if "frozen" in what:
            os.kill(alone.processes()[name], signal.SIGSTOP)
        else:
            await asyncio.to_thread(lose, alone.data / "servers" / "eu-1" / name.removeprefix("eu-1-"))
        await shop.sells_on()
        if what == "frozen primary":
            assert await role_of(alone, standby=False) != name

    before = await role_of(alone, standby=False)

    async def switched() -> bool:  # not before the fresh standby has a copy of the projector's slot
        return (await asyncio.to_thread(loyalty, alone.data, "switchover", "eu-1")).returncode == 0

    await eventually(switched, deadline_s=DEADLINE_S)
    await shop.sells_on()
    assert await role_of(alone, standby=False) != before

    acknowledged = await shop.close()
    connection = await asyncpg.connect(
        json.loads(loyalty(alone.data, "status", "--json").stdout)["regions"]["eu"]["shards"]["eu-1"]["primary"]
    )
    receipts = [row["receipt"] for row in await connection.fetch("SELECT receipt FROM purchase")]
    await connection.close()
    assert sorted(receipts) == sorted(acknowledged)
    verified = await asyncio.to_thread(loyalty, alone.data, "verify")
    assert verified.returncode == 0, verified.stdout


@long
async def test_a_start_that_meets_a_damaged_page_goes_on_with_the_standby(alone: System) -> None:
    """Nobody had read the page before; the start does, to see which migrations there are."""
    primary = await role_of(alone, standby=False)
    connection = await asyncpg.connect(alone.status["regions"]["eu"]["shards"]["eu-1"]["primary"])
    path = await connection.fetchval("SELECT pg_relation_filepath('schema_migration')")
    await connection.close()
    assert (await asyncio.to_thread(loyalty, alone.data, "down")).returncode == 0
    page = alone.data / "servers" / "eu-1" / primary.removeprefix("eu-1-") / path
    with page.open("r+b") as file:
        file.write(b"\x55" * PAGE)
    await asyncio.to_thread(start, alone.data, alone.port, "--regions", "eu")
    assert await role_of(alone, standby=False) != primary
    verified = await asyncio.to_thread(loyalty, alone.data, "verify")
    assert verified.returncode == 0, verified.stdout
