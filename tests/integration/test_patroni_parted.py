"""A shard under Patroni whose networks part, and whose etcd dies.

As in test_patroni.py nothing acknowledged is missing or there twice afterwards, and `verify` finds nothing.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from shard_router.server import SERVER_ERRORS
from tests.patroni_system import System, running_system  # noqa: F401 - the fixture `system`
from tests.patroni_world import ETCD, Member

WATCHED_S = 30.0  # longer than a lease of 20 s
BOOK = "CREATE TABLE IF NOT EXISTS book (n integer PRIMARY KEY)"


@asynccontextmanager
async def insisting(member: Member) -> AsyncGenerator[list[int]]:
    """Somebody who knows one server only, and writes there whatever comes; the numbers it acknowledged."""
    acknowledged: list[int] = []

    async def insist() -> None:
        number = 0
        while True:
            with suppress(*SERVER_ERRORS):
                async with asyncio.timeout(5):
                    connection = await asyncpg.connect(member.url(), timeout=2)
                    try:
                        while True:
                            number += 1
                            await connection.execute("INSERT INTO book VALUES ($1)", number)
                            acknowledged.append(number)
                            await asyncio.sleep(0)
                    finally:
                        connection.terminate()
            await asyncio.sleep(0)

    task = asyncio.create_task(insist())
    try:
        yield acknowledged
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def timeline(system: System) -> int:
    return int((await system.shard.told())[0]["timeline"])


def need_networks(system: System) -> None:
    if system.shard.hosts.why_not:
        pytest.skip(system.shard.hosts.why_not)


async def keeps_selling(system: System) -> None:
    """For longer than any lease."""
    with suppress(TimeoutError):
        async with asyncio.timeout(WATCHED_S):
            while True:
                await system.sells_on()


@pytest.mark.timeout(400)
async def test_a_primary_cut_off_from_etcd_and_the_others_is_replaced_and_acknowledges_nothing_that_is_lost(
    system: System,
) -> None:
    """Nodes and clients still reach it; the others do not, and it hears of nobody."""
    need_networks(system)
    shard = system.shard
    await shard.ask(await shard.leader(), BOOK)
    known: list[int] = []

    async def cut(member: Member) -> None:
        others = [one.name for one in await shard.others()]
        async with insisting(member) as acknowledged:
            shard.hosts.cut(member.name, ETCD, *others)
            try:
                await system.sells_on(40)
            finally:
                shard.hosts.heal(member.name, ETCD, *others)
            await shard.whole()
        known.extend(acknowledged)

    await system.endure("primary cut off", cut)
    connection = await asyncpg.connect((await shard.leader()).url())
    there = {row["n"] for row in await connection.fetch("SELECT n FROM book")}
    await connection.execute("DROP TABLE book")
    await connection.close()
    assert set(known) <= there


@pytest.mark.timeout(400)
async def test_a_primary_that_lost_etcd_alone_goes_on_while_the_others_answer_it(system: System) -> None:
    need_networks(system)
    before = await timeline(system)

    async def cut(member: Member) -> None:
        system.shard.hosts.cut(member.name, ETCD)
        try:
            await keeps_selling(system)
        finally:
            system.shard.hosts.heal(member.name, ETCD)

    await system.endure("primary without etcd", cut)
    assert await timeline(system) == before


@pytest.mark.timeout(400)
async def test_without_any_etcd_the_primary_goes_on_and_all_is_as_it_was_when_they_are_back(system: System) -> None:
    before = await timeline(system)

    async def lose(_: Member) -> None:
        await system.shard.etcd.kill()
        try:
            await keeps_selling(system)
        finally:
            await system.shard.etcd.start()

    await system.endure("all etcd killed", lose)
    assert await timeline(system) == before


@pytest.mark.timeout(400)
async def test_one_etcd_killed_changes_nothing(system: System) -> None:
    before = await timeline(system)

    async def lose(_: Member) -> None:
        await system.shard.etcd.kill("a")
        await keeps_selling(system)
        await system.shard.etcd.start("a")

    await system.endure("one etcd killed", lose)
    assert await timeline(system) == before
