"""A pair under its guard: whatever befalls a disk, what was acknowledged stays, and whoever can takes its place."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from cluster import failover
from cluster.plan import ServerPlan
from cluster.process import Child, ProcessSpec
from cluster.supervisor import READY
from tests import engine
from tests.conftest import eventually
from tests.long import long
from tests.pair_world import DEADLINE_S, GuardedPair, fill, guarded_pair

PAGE = 8192
LITTLE = 40 << 20
BY_SUPERVISOR_AND_GUARD = 2

pytestmark = [
    pytest.mark.skipif(engine.engine_name() != "embedded", reason="containers have no supervisor of ours"),
    pytest.mark.timeout(180),
]


async def make_filler(world: GuardedPair, database: str) -> None:
    """A database that is on every server's disk and in no server's memory: its files are copied."""
    async with world.session() as primary:
        await primary.execute(f"CREATE DATABASE {database}_made")
        async with world.session(database=f"{database}_made") as made:
            await made.execute("CREATE TABLE filler AS SELECT generate_series(1, 500) AS n")

        async def copied() -> bool:  # the session that made it may not have ended yet
            try:
                await primary.execute(f"CREATE DATABASE {database} TEMPLATE {database}_made STRATEGY file_copy")
            except asyncpg.ObjectInUseError:
                return False
            return True

        await eventually(copied, deadline_s=DEADLINE_S)
    await world.write()

    async def everywhere() -> bool:
        for server in world.pair.servers:
            async with world.session(server) as session:
                if not await session.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
                    return False
        return True

    await eventually(everywhere, deadline_s=DEADLINE_S)


async def rows(world: GuardedPair, server: ServerPlan, database: str) -> int:
    async with world.session(server, database) as session:
        return await session.fetchval("SELECT count(*) FROM filler")


async def spoil_unseen(world: GuardedPair, server: ServerPlan, database: str, start: int = 0) -> None:
    """Write over a page of the table on one server's disk, from one of its bytes on."""
    async with world.session(server, database) as session:
        path = server.folder / str(await session.fetchval("SELECT pg_relation_filepath('filler')"))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x55" * (PAGE - start))


async def spoil_a_page(world: GuardedPair, server: ServerPlan, database: str) -> None:
    """Write over a page of the table on one server's disk, and have it read from there."""
    await spoil_unseen(world, server, database)
    with pytest.raises(asyncpg.DataCorruptedError):
        await rows(world, server, database)


@long
async def test_a_primary_with_a_damaged_page_is_replaced_and_copied_anew_and_a_standby_too() -> None:
    async with guarded_pair() as world:
        await make_filler(world, "one")
        former = world.pair.primary
        await spoil_a_page(world, former, "one")

        async def replaced() -> bool:
            return world.pair.primary is not former

        await eventually(replaced, deadline_s=DEADLINE_S)
        await world.whole()
        assert world.said("its pages are damaged: 1 had a wrong checksum: a standby takes its place") == 1
        assert await rows(world, former, "one") == 500

        await make_filler(world, "two")
        (standby,) = world.pair.standbys
        await spoil_a_page(world, standby, "two")
        await world.until_said("its pages are damaged: 1 had a wrong checksum: started anew")
        await world.whole()
        assert world.pair.primary is not standby
        assert await rows(world, standby, "two") == 500


@pytest.mark.parametrize("start", [pytest.param(0, id="page", marks=long), pytest.param(PAGE // 2, id="half a page")])
async def test_a_page_that_nobody_reads_is_found_on_the_standby_which_is_copied_anew(start: int) -> None:
    async with guarded_pair(reading_pause_s=1.0) as world:
        await make_filler(world, "one")
        (standby,) = world.pair.standbys
        await spoil_unseen(world, standby, "one", start=start)
        await world.until_said("its pages are damaged: 1 were found by reading it: started anew")
        await world.whole()
        assert world.pair.primary is not standby
        assert await rows(world, standby, "one") == 500


async def test_a_standby_that_takes_over_with_a_damaged_page_gives_the_place_back_to_the_former() -> None:
    async with guarded_pair() as world:
        await make_filler(world, "one")
        former, (second,) = world.pair.primary, world.pair.standbys
        await spoil_unseen(world, second, "one")
        os.kill(world.pid(former), signal.SIGSTOP)

        async def seen() -> bool:
            if world.pair.primary is second:
                with suppress(OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError):
                    try:
                        await rows(world, second, "one")
                    except asyncpg.DataCorruptedError:
                        return True
            return False

        await eventually(seen, deadline_s=DEADLINE_S)

        async def given_back() -> bool:
            return world.pair.primary is former

        await eventually(given_back, deadline_s=DEADLINE_S)
        await world.whole()
        assert [await rows(world, server, "one") for server in (former, second)] == [500, 500]


@long
async def test_a_primary_whose_disk_is_full_is_replaced_by_one_that_has_room() -> None:
    async with guarded_pair(disks_mb=(320,)) as world:
        former = world.pair.primary
        await world.write()
        ballast = fill(former.folder.parent)

        async def replaced() -> bool:
            return world.pair.primary is not former

        await eventually(replaced, deadline_s=DEADLINE_S)
        ballast.unlink()
        await world.whole()
        assert world.said("its disk is full: a standby takes its place") == 1


@long
async def test_a_new_primary_that_freezes_while_the_former_is_brought_back_is_started_anew() -> None:
    async with guarded_pair() as world:
        (second,) = world.pair.standbys
        os.kill(world.pid(world.pair.primary), signal.SIGSTOP)
        await world.until_said("rewinding")
        os.kill(world.pid(second), signal.SIGSTOP)
        await world.whole()
        assert world.pair.primary is second
        assert world.said("it is frozen: started anew") == 1


@long
async def test_a_frozen_primary_is_started_anew_where_its_standby_goes_just_when_it_was_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with guarded_pair() as world:
        first, (second,) = world.pair.primary, world.pair.standbys
        kill = failover.fence

        async def kill_both(child: Child, folder: Path) -> bool:
            if folder == first.folder:
                os.kill(world.pid(second), signal.SIGSTOP)
            return await kill(child, folder)

        monkeypatch.setattr(failover, "fence", kill_both)
        os.kill(world.pid(first), signal.SIGSTOP)
        await world.until_said("a standby takes its place")
        await world.whole()
        assert world.pair.primary is first


async def test_a_former_primary_lies_beside_its_place_while_it_is_rewound_so_that_no_start_takes_it_for_one() -> None:
    async with guarded_pair() as world:
        former, there = world.pair.primary, list[bool]()
        tell = world.supervisor.on_change

        def listen(name: str, state: str) -> None:
            tell(name, state)
            if (name, state) == (former.name, "rewinding"):
                there.append(former.folder.exists())

        world.supervisor.on_change = listen
        os.kill(world.pid(former), signal.SIGSTOP)

        async def replaced() -> bool:
            return world.pair.primary is not former

        await eventually(replaced, deadline_s=DEADLINE_S)
        await world.whole()
        assert there == [False]
        assert not beside(former).exists()


async def test_a_walsender_that_was_stopped_is_woken_for_nobody_could_tell_it_to_end() -> None:
    async with guarded_pair() as world:
        async with world.session() as primary:
            pid = await primary.fetchval("SELECT pid FROM pg_stat_replication")
            os.kill(pid, signal.SIGSTOP)
            await primary.execute("SET synchronous_commit = local")
            await primary.execute("SELECT pg_terminate_backend($1)", pid)

            async def ended() -> bool:
                return not await primary.fetchval("SELECT true FROM pg_stat_activity WHERE pid = $1", pid)

            await eventually(ended, deadline_s=DEADLINE_S)
        await world.whole()
        assert world.said(f"process {pid} of a server was stopped: woken") == 1
        assert world.said("started anew") == 0


def beside(server: ServerPlan) -> Path:
    return server.folder.with_name(server.folder.name + ".aside")


def leave_little_room(folder: Path) -> Path:
    """Less than a copy takes, enough for a server that goes on for a while."""
    ballast = fill(folder)
    os.truncate(ballast, ballast.stat().st_size - LITTLE)
    return ballast


async def test_a_former_primary_that_cannot_be_rewound_is_kept_until_there_is_room_for_a_copy() -> None:
    async with guarded_pair(disks_mb=(320,)) as world:
        former = world.pair.primary
        await world.write()
        (former.folder / "global" / "pg_control").write_bytes(b"\0" * PAGE)
        ballast = leave_little_room(former.folder.parent)
        os.kill(world.pid(former), signal.SIGKILL)

        async def refused() -> bool:
            return world.said("not rewound, copied anew") == 1 and world.said("no room for a copy") > 0

        await eventually(refused, deadline_s=DEADLINE_S)
        assert (beside(former) / "base" / "1" / "PG_VERSION").exists()
        ballast.unlink()
        await world.whole()
        assert not beside(former).exists()


@long
async def test_a_damaged_standby_is_kept_until_its_copy_streams() -> None:
    async with guarded_pair(disks_mb=(320, 320), reading_pause_s=1.0) as world:
        await make_filler(world, "one")
        (standby,) = world.pair.standbys
        ballast = leave_little_room(standby.folder.parent)
        await spoil_unseen(world, standby, "one")

        async def refused() -> bool:
            return world.said("no room for a copy") > 0

        await eventually(refused, deadline_s=DEADLINE_S)
        assert (beside(standby) / "base" / "1" / "PG_VERSION").exists()
        assert not standby.folder.exists()
        ballast.unlink()
        await world.whole()
        assert not beside(standby).exists()
        assert await rows(world, standby, "one") == 500


# A projector that only looks: whether it meets a primary without its slot, which it would take for a restored one.
WATCHER = """
import asyncio, sys
import asyncpg

async def look(dsn):
    while True:
        await asyncio.sleep(0.01)
        try:
            server = await asyncpg.connect(dsn, timeout=1)
            if await server.fetchval("SELECT NOT pg_is_in_recovery() AND NOT EXISTS "
                                     "(SELECT FROM pg_replication_slots WHERE slot_name = 'loyalty_cdc')"):
                print("met", flush=True)
            await server.close(timeout=1)
        except SERVER_ERRORS:
            pass

async def main():
    await asyncio.gather(*map(look, sys.argv[1:]))

asyncio.run(main())
"""


async def test_the_projector_meets_no_new_primary_without_its_slot() -> None:
    async with guarded_pair() as world:
        async with world.session(database="loyalty") as database:
            slot = "SELECT pg_create_logical_replication_slot('loyalty_cdc', 'pgoutput', false, false, true)"
            await database.execute(slot)
        name, log = f"{world.pair.name}-cdc", world.pair.log("watcher")
        command = (sys.executable, "-c", WATCHER, *map(world.pair.url, world.pair.servers))
        await world.supervisor.start(ProcessSpec(name=name, argv=command, log=log, probe=no_trouble))
        try:
            former = world.pair.primary
            covered: list[bool] = []

            def listen(name: str, state: str) -> None:
                if (name, state) == (former.name, READY):
                    covered.append(bool(world.guard and world.guard.is_covered))

            world.supervisor.on_change = listen
            os.kill(world.pid(former), signal.SIGSTOP)
            await world.whole()

            async def is_back() -> bool:
                kept = world.supervisor.kept.get(name)
                return len(covered) == BY_SUPERVISOR_AND_GUARD and kept is not None and kept.child.returncode is None

            await eventually(is_back, deadline_s=DEADLINE_S)
            assert covered[-1], "as soon as the guard says that it is ready it may take over"
            assert world.pair.primary is not former
            assert "met" not in log.read_text()
        finally:
            await world.supervisor.stop([name])


async def no_trouble() -> None:
    return None


async def test_where_all_are_full_nobody_is_replaced_and_it_goes_on_when_there_is_room() -> None:
    async with guarded_pair(disks_mb=(320, 320)) as world:
        former = world.pair.primary
        ballasts: list[Path] = [fill(server.folder.parent) for server in world.pair.servers]
        await world.until_said("its disk is full; no standby with room")
        for ballast in ballasts:
            ballast.unlink()
        await world.whole()
        assert world.pair.primary is former
        assert world.said("takes its place") == 0


@long
async def test_a_primary_that_cannot_read_its_disk_is_replaced() -> None:
    async with guarded_pair() as world:
        former = world.pair.primary
        await world.write()
        if os.geteuid() == 0 and world.pair.tools.account is None:
            pytest.skip("root reads everything")
        for folder in ("base", "global"):
            for path in (former.folder / folder).rglob("*"):
                if path.is_file() and path.name != "pg_control":
                    path.chmod(0)

        async def replaced() -> bool:
            return world.pair.primary is not former

        await eventually(replaced, deadline_s=DEADLINE_S)
        await world.whole()
        assert world.said("its disk fails: could not open file") == 1


@long
async def test_the_fourth_failover_in_ten_minutes_waits_for_a_person() -> None:
    async with guarded_pair() as world:
        for number in range(1, 4):
            await world.whole()
            frozen = world.pair.primary
            os.kill(world.pid(frozen), signal.SIGSTOP)

            async def replaced(frozen: ServerPlan = frozen) -> bool:
                return world.pair.primary is not frozen

            await eventually(replaced, deadline_s=DEADLINE_S)
            assert world.said("it is frozen: a standby takes its place") == number
        await world.whole()
        stays = world.pair.primary
        os.kill(world.pid(stays), signal.SIGSTOP)
        await world.until_said("it is frozen; 3 failovers in ten minutes: look at it first")
        assert world.pair.primary is stays
        os.kill(world.pid(stays), signal.SIGCONT)
        await world.whole()
        assert world.pair.primary is stays
