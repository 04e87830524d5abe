"""A shard that was added, and in which nobody ever lived, goes again while people enrol; cut short, it goes on."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.conftest import eventually
from tests.long import long
from tests.system.conftest import loyalty, told
from tests.system.one_region import NOBODY, SOMEBODY_EVERYWHERE, again, enrol, shard, topology
from tests.system.one_region import alone as alone  # noqa: PLC0414
from tests.system.one_region import eu as eu  # noqa: PLC0414
from tests.system.till import System


@asynccontextmanager
async def people_enrol(system: System) -> AsyncGenerator[None]:
    """All the time, and none of them fails."""

    async def for_ever() -> None:
        for number in itertools.count(1):
            reply = await enrol(system, number)
            assert reply.status == 201, reply.body

    load = asyncio.create_task(for_ever())
    yield
    assert not load.done()
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)


async def add_with_one_slot(system: System) -> None:
    """So that hardly anybody is enrolled there."""
    connection = await system.primary("eu")
    await connection.execute(SOMEBODY_EVERYWHERE.replace("4095)", "4094)"))
    code, words = await shard(system, "eu-2")
    assert (code, "in 1 of 4,096 slots" in words) == (0, True), words
    await connection.execute(NOBODY)
    await connection.close()
    system.status = await told(system.data)


async def second(system: System) -> asyncpg.Connection:
    return await asyncpg.connect(system.status["regions"]["eu"]["shards"]["eu-2"]["primary"])


@long
@pytest.mark.timeout(900)
async def test_a_shard_in_which_nobody_lives_goes_again(eu: System) -> None:
    for name, why in (("eu-1", "keeps the receipts of eu"), ("eu-2", "there is no shard"), ("us-2", "no region us")):
        code, words = await shard(eu, name, "remove")
        assert (code, why in words) == (1, True), words
    await add_with_one_slot(eu)
    enrolling = await second(eu)
    await enrolling.execute("SELECT pg_advisory_lock_shared(7261002)")  # one enrolment that does not end
    code, words = await shard(eu, "eu-2", "remove")
    await enrolling.close()
    assert (code, "nothing was given, ask again" in words) == (1, True), words
    async with people_enrol(eu):
        code, words = await shard(eu, "eu-2", "remove")
    assert (code, "eu-2 is gone" in words) == (0, True), words
    document = topology(eu).document
    assert [(name, one.slots, one.receipts) for name, one in document.shards.items()] == [("eu-1", [(0, 4095)], None)]
    assert await shard(eu, "eu-2", "remove") == (1, "there is no shard eu-2")

    await add_with_one_slot(eu)
    giving = await second(eu)
    await giving.execute("INSERT INTO given_slot (slot, receiver) VALUES (4095, 'eu-1')")  # and cut short there
    await giving.close()
    await again(eu)

    async def is_gone() -> bool:
        return list(topology(eu).document.shards) == ["eu-1"]

    await eventually(is_gone, deadline_s=120)
    connection = await eu.primary("eu")
    assert await connection.fetch("SELECT FROM given_slot") == []
    await connection.close()
    verdict = await asyncio.to_thread(loyalty, eu.data, "verify")
    assert verdict.returncode == 0, verdict.stdout
