"""Three servers under their guard: what befalls a second one while the first is being mended."""

import asyncio
import os
import shutil
import signal

import psutil
import pytest

from cluster import switchover
from cluster.plan import ServerPlan
from shard_router.ending import end
from tests import engine
from tests.conftest import eventually, so
from tests.long import long
from tests.pair_world import DEADLINE_S, GuardedPair, guarded_pair

pytestmark = [
    pytest.mark.skipif(engine.engine_name() != "embedded", reason="containers have no supervisor of ours"),
    pytest.mark.timeout(180),
]


def copying() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if one.name() == "pg_basebackup"]


@long
async def test_a_standby_that_hangs_is_started_anew_while_the_other_is_copied() -> None:
    """Commits wait for either of them, and the one that is copied may be so for hours."""
    async with guarded_pair(standbys=2) as world:
        await world.whole()
        lost, frozen = world.pair.standbys

        shutil.rmtree(lost.folder)
        await eventually(so(lambda: bool(copying())), deadline_s=DEADLINE_S)
        (copy,) = copying()
        copy.suspend()
        os.kill(world.pid(frozen), signal.SIGSTOP)
        await world.until_said("it is frozen: started anew")
        assert copy.is_running()
        copy.resume()
        await world.whole()


async def has_slots(world: GuardedPair, standby: ServerPlan) -> bool:
    """Whether a standby has copied the slot; it is moved on, as a projector would, for the copy to be kept."""
    async with world.session(database="loyalty") as primary:
        await primary.execute("SELECT pg_replication_slot_advance('loyalty_cdc', pg_current_wal_flush_lsn())")
    found = await world.pair.received(standby)
    return found is not None and found.has_slots


@long
async def test_a_switchover_takes_the_standby_that_has_the_slots() -> None:
    """One that was copied just now has them not, and it may be as far, and the first by name."""
    async with guarded_pair(standbys=2) as world:
        async with world.session(database="loyalty") as database:
            slot = "SELECT pg_create_logical_replication_slot('loyalty_cdc', 'pgoutput', false, false, true)"
            await database.execute(slot)
        first, second = world.pair.standbys
        async with world.session(first) as session:
            await session.execute("ALTER SYSTEM SET sync_replication_slots = off")

        async def second_alone() -> bool:  # the guard has the first read its settings
            return not await has_slots(world, first) and await has_slots(world, second)

        await eventually(second_alone, deadline_s=DEADLINE_S)
        await asyncio.to_thread(switchover.ask, world.supervisor.data, world.pair.name)
        assert world.pair.primary is second
        await world.whole()


@long
async def test_of_two_standbys_without_a_primary_the_one_that_acknowledged_takes_its_place() -> None:
    """The first has less, and nobody who could tell runs any more."""
    async with guarded_pair(standbys=2) as world:
        await world.whole()
        assert world.watching
        await end(world.watching)
        lost, (first, second) = world.pair.primary, world.pair.standbys
        await world.supervisor.stop([first.name])
        await world.write()
        await world.supervisor.stop([lost.name])
        await world.supervisor.stop([second.name])
        shutil.rmtree(lost.folder)

        await world.pair.outlive()
        assert world.pair.primary is second
        assert await world.pair.has_projector_slot(), "without it the shard would be taken for a restored one"
        async with world.session() as primary:
            assert await primary.fetchval("SELECT count(*) FROM book") == len(world.written)
        for standby in world.pair.standbys:
            await world.pair.copy(standby)
        await world.write()
