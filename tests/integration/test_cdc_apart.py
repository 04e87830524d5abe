"""A rebuild in a process of its own: what it does, and what becomes of it when somebody ends on the way."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from cdc.apart import NICENESS, Apart
from cdc.rebuild import Rebuild, RebuildSettings
from cdc.rebuilder import Order
from cdc.sink import Position, Session
from command.migrate import create_slot
from shard_router.pool import ShardServers
from tests.cdc_node import SLOT_OF_TESTS
from tests.cdc_world import DEADLINE_S, MARK, fill, rebuilding, rebuilt, settled
from tests.conftest import eventually

RESTS = 0.000_01
"""A duty at which the first members are followed by minutes of rest."""

LEAST = 19
"""The niceness beyond which there is none."""


@dataclass
class World:
    """A shard with members, and a rebuild of it that counts as large."""

    database: str
    valkey_url: str
    epoch: str
    orders: list[Order] = field(default_factory=list[Order])

    def __post_init__(self) -> None:
        self.servers = ShardServers("eu-1", [self.database], size_max=3, statement_timeout_ms=10_000)
        self.rebuild = Rebuild(self.servers, RebuildSettings(SLOT_OF_TESTS, 10, 1.0), Apart(self.order))

    def order(self) -> Order:
        order = Order(
            shard="eu-1",
            servers=[self.database],
            valkey=self.valkey_url,
            epoch=self.epoch,
            slot=SLOT_OF_TESTS,
            members_per_chunk=10,
            log_level="info",
        )
        self.orders.append(order)
        return order

    def here(self) -> Session:
        return Session(self.valkey_url, MARK, epoch=self.epoch)

    async def process(self) -> psutil.Process:
        """The process, once it has written some members and rests."""

        async def rests() -> bool:
            return bool(self.rebuild.state.members_done and processes())

        await eventually(rests, deadline_s=DEADLINE_S)
        (process,) = processes()
        return process

    def begun(self, number: int) -> Callable[[], Awaitable[bool]]:
        async def again() -> bool:
            return len(self.orders) == number

        return again

    def served(self, number: int) -> Callable[[], Awaitable[bool]]:
        async def done() -> bool:
            return self.rebuild.state.served >= number

        return done


def processes() -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for one in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # also of one that has ended and is not waited for yet
            found += [one] if "cdc.rebuilder" in one.cmdline() else []
    return found


@pytest.fixture
async def world(database: str, client: asyncpg.Connection, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("cdc.rebuild.RETRY_S", 0.01)
    monkeypatch.setattr("cdc.rebuild.MEMBERS_HERE", 20)
    await create_slot(database, SLOT_OF_TESTS)
    await fill(client)
    with_epoch = Session(valkey_url, MARK).open(Position("one", 1))
    with_epoch.close()
    return World(database, valkey_url, with_epoch.epoch)


async def test_many_members_are_rebuilt_behind_everybody_else_by_a_process_that_ends(
    world: World, client: asyncpg.Connection, valkey: Redis
) -> None:
    world.rebuild.request("first", duty=RESTS)
    async with rebuilding(world.rebuild, world.servers, world.here):
        process = await world.process()
        assert process.nice() == min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, LEAST)
        assert os.getsid(process.pid) == process.pid
        world.rebuild.request("in a hurry", duty=1)
        await eventually(rebuilt(valkey), deadline_s=DEADLINE_S)
        await eventually(world.served(3), deadline_s=DEADLINE_S)
        await settled(client, valkey)
        assert world.rebuild.state.members_done == 60
        assert world.rebuild.state.refill_s > 0
    assert not processes()


async def test_a_rebuild_whose_process_is_killed_twice_begins_again_and_is_completed(
    world: World, client: asyncpg.Connection, valkey: Redis
) -> None:
    world.rebuild.request("first", duty=RESTS)
    async with rebuilding(world.rebuild, world.servers, world.here):
        for number in (1, 2):
            process = await world.process()
            process.kill()
            await eventually(world.begun(number + 1), deadline_s=DEADLINE_S)
        await world.process()
        world.rebuild.request("in a hurry", duty=1)
        await eventually(world.served(3), deadline_s=DEADLINE_S)
        await settled(client, valkey)
        assert world.rebuild.state.trouble == ""


async def test_a_process_that_is_fenced_or_finds_valkey_emptied_leaves_it_to_the_next_epoch(
    world: World, client: asyncpg.Connection, valkey: Redis
) -> None:
    world.rebuild.request("first", duty=RESTS)
    async with rebuilding(world.rebuild, world.servers, world.here):
        await world.process()
        await valkey.flushdb()
        world.rebuild.request("Valkey is empty", duty=1)

        async def told() -> bool:
            return world.rebuild.state.trouble.startswith("Interrupted: Emptied")

        await eventually(told, deadline_s=DEADLINE_S)
        assert not await rebuilt(valkey)()
        renewed = Session(world.valkey_url, MARK).open(Position("one", 1))
        renewed.close()
        world.epoch = renewed.epoch
        await eventually(rebuilt(valkey), deadline_s=DEADLINE_S)
        await settled(client, valkey)


async def test_a_rebuild_that_is_cancelled_takes_along_a_process_that_hears_nothing(
    world: World, valkey: Redis
) -> None:
    world.rebuild.request("first", duty=RESTS)
    async with rebuilding(world.rebuild, world.servers, world.here):
        process = await world.process()
        process.suspend()
    assert not psutil.pid_exists(process.pid)
    assert not await rebuilt(valkey)()


async def test_a_projector_that_can_start_no_process_rebuilds_by_itself(
    world: World, client: asyncpg.Connection, valkey: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in (str(tmp_path / "none"), "/bin/false"):
        await valkey.flushdb()
        opened = Session(world.valkey_url, MARK).open(Position("one", 1))
        opened.close()
        world.epoch = opened.epoch
        monkeypatch.setattr("sys.executable", program)
        world.rebuild.request("first")
        served = world.rebuild.state.asked
        running = asyncio.create_task(world.rebuild.run(world.here))
        await eventually(world.served(served), deadline_s=DEADLINE_S)
        await settled(client, valkey)
        running.cancel()
        await asyncio.wait({running})
    await world.servers.close()


async def test_the_process_ends_when_its_input_does(world: World) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cdc.rebuilder"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(world.order()).encode() + b"\n" + json.dumps(RESTS).encode() + b"\n")
    while not json.loads(await process.stdout.readline())["members_done"]:
        pass
    process.stdin.close()
    assert await process.wait() == 1
    await world.servers.close()
