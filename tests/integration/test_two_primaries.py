"""A former primary that does not know that it was overtaken, and a standby of which nobody knows how far it is."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from cdc.slot import find_primary
from query.replica import STATEMENTS
from shard_router.pool import PROBE_TIMEOUT_S, ShardServers
from tests.conftest import eventually
from tests.engine import embedded_postgres, in_database
from tests.query_servers import own_valkey
from tests.query_world import ShardPlace, add_entry, has, member, open_world, reader_of, replayed, write_member

ADA = member(1)
STANDS_STILL_S = 40.0
"""Longer than a busy machine does."""

pytestmark = pytest.mark.usefixtures("impatient")


@asynccontextmanager
async def frozen(url: str) -> AsyncGenerator[None]:
    """A server stands still with all its processes while the block lasts."""
    server = await asyncpg.connect(url)
    postmaster = psutil.Process(int((await server.fetchval("SELECT pg_read_file('postmaster.pid')")).split("\n", 1)[0]))
    await server.close()
    processes = [postmaster, *postmaster.children()]
    tell(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        tell(processes, signal.SIGCONT)


def tell(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Signal those that are still there: the backend of a connection that was just closed is about to end."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


async def wait_for_no_standby(url: str) -> None:
    """Have a server commit, and end, without a standby that confirms."""
    server = await asyncpg.connect(url)
    await server.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    await server.execute("SELECT pg_reload_conf()")
    await server.close()


async def test_of_two_servers_that_take_writes_the_one_on_the_highest_timeline_is_the_primary() -> None:
    async with embedded_postgres(standby=True) as pair:
        assert pair.standby_url is not None
        servers = [pair.url, pair.standby_url]
        assert await find_primary(servers) == pair.url
        assert await find_primary([pair.standby_url]) is None
        standby = await asyncpg.connect(pair.standby_url)
        try:
            assert await standby.fetchval("SELECT pg_promote()")
            assert await find_primary(servers) == pair.standby_url
            assert await find_primary(servers[::-1]) == pair.standby_url
            promoted = await standby.fetchval("SELECT inet_server_port()")
            for order in (servers, servers[::-1]):
                nodes = ShardServers("eu-1", order, size_max=2, statement_timeout_ms=5_000)
                async with nodes.primary() as primary:
                    assert await primary.fetchval("SELECT inet_server_port()") == promoted
                await nodes.close()
        finally:
            await standby.close()
        await wait_for_no_standby(pair.url)


async def test_a_node_follows_the_new_primary_while_the_former_is_frozen() -> None:
    """Nobody ends a connection to it, and it answers no request to cancel what it does."""
    async with embedded_postgres(standby=True) as pair:
        assert pair.standby_url is not None
        nodes = ShardServers("eu-1", [pair.url, pair.standby_url], size_max=2, statement_timeout_ms=5_000)
        async with nodes.primary() as primary:
            former = await primary.fetchval("SELECT inet_server_port()")
        standby = await asyncpg.connect(pair.standby_url)
        try:

            async def leads(server: str) -> bool:
                async with asyncio.timeout(STANDS_STILL_S):  # who waits for the frozen one waits for ever
                    await nodes.look_again()
                return nodes.still_primary(server)

            async def is_left() -> bool:
                return not await leads(pair.url)

            async with frozen(pair.url):
                await eventually(is_left)
                assert await standby.fetchval("SELECT pg_promote()")
                await eventually(lambda: leads(str(pair.standby_url)))
                async with nodes.primary() as primary:
                    assert await primary.fetchval("SELECT inet_server_port()") != former
        finally:
            await standby.close()
        await nodes.close()
        await wait_for_no_standby(pair.url)


async def test_who_has_patience_waits_for_a_primary_that_answers_late() -> None:
    """As `verify` does: on a busy machine to connect may take longer than a probe."""
    async with embedded_postgres() as server:
        nodes = ShardServers("eu-1", [server.url], size_max=1, statement_timeout_ms=5_000, patience_s=90)

        async def one() -> int:
            async with nodes.primary() as primary:
                return await primary.fetchval("SELECT 1")

        async with frozen(server.url):
            asked = asyncio.create_task(one())
            await asyncio.wait({asked}, timeout=PROBE_TIMEOUT_S * 3)
            assert not asked.done()
        assert await asked == 1
        await nodes.close()


@pytest.mark.timeout(120)
async def test_a_query_node_follows_the_new_primary_though_the_former_answers_without_an_error(tmp_path: Path) -> None:
    async with embedded_postgres(standby=True) as pair, own_valkey() as valkey:
        assert pair.standby_url is not None
        former = await pair.create_database()
        promoted = in_database(pair.standby_url, former.rpartition("/")[2])
        await write_member(former, ADA)
        place = ShardPlace([former, promoted], valkey.url)
        async with open_world(tmp_path, {"eu-1": place}) as world:
            await eventually(lambda: has(reader_of(world).primary, ADA, 1))
            await eventually(lambda: replayed(reader_of(world), ADA, 1))
            await wait_for_no_standby(promoted)
            standby = await asyncpg.connect(promoted)
            assert await standby.fetchval("SELECT pg_promote()")
            await standby.close()
            await add_entry(promoted, ADA, 2)
            await eventually(lambda: has(reader_of(world).primary, ADA, 2))
        await wait_for_no_standby(pair.url)


async def test_a_standby_that_never_replayed_a_commit_and_is_behind_is_not_fresh() -> None:
    async with embedded_postgres(standby=True) as pair:
        assert pair.standby_url is not None
        standby = await asyncpg.connect(pair.standby_url)
        try:
            assert await standby.fetchval("SELECT pg_last_xact_replay_timestamp()") is None
            await standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            await standby.execute("SELECT pg_reload_conf()")
            while await standby.fetchval(
                "SELECT count(*) FROM pg_stat_get_wal_receiver() AS r WHERE r.pid IS NOT NULL"
            ):
                pass
            assert await standby.fetchval(STATEMENTS["measure_lag"], 0.0) > 10**12
        finally:
            await standby.close()
