"""A rebuild whose primary is away for a while."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis

from cdc.rebuild import Rebuild, RebuildSettings
from cdc.sink import Position, Session
from command.migrate import create_slot
from shard_router.errors import ProblemError
from shard_router.pool import Connection, ShardServers
from tests.cdc_node import SLOT_OF_TESTS
from tests.cdc_world import MARK, MEMBERS, WatchedSession, fill, rebuilding, rebuilt, settled
from tests.conftest import eventually


class LeavingServers(ShardServers):
    """In the middle of a rebuild two probes find no primary; `meanwhile` is executed on the one that comes back."""

    meanwhile = "SELECT"
    reads = 0

    @asynccontextmanager
    async def primary(self) -> AsyncGenerator[Connection]:
        self.reads += 1
        if self.reads in {5, 6}:
            raise ProblemError("shard_unavailable", "eu-1: no primary")
        async with super().primary() as connection:
            if self.reads == 7:
                await connection.execute(self.meanwhile)
            yield connection


async def sizes_written_past(servers: ShardServers, valkey_url: str, done: Callable[[], Awaitable[bool]]) -> list[int]:
    """How many views and entries a rebuild wrote at a time, over servers that are away for a while."""
    stream = Session(valkey_url, MARK).open(Position("one", 1))
    sizes: list[int] = []

    def open_session() -> Session:
        session = WatchedSession(valkey_url, MARK, epoch=stream.epoch)
        session.sizes, session.breaks_at = sizes, 0
        return session

    rebuild = Rebuild(servers, RebuildSettings(SLOT_OF_TESTS, members_per_chunk=10, duty=1))
    async with rebuilding(rebuild, servers, open_session):
        await eventually(done)
        assert rebuild.state.trouble == ""
    stream.close()
    return sizes


@pytest.mark.parametrize(
    ("meanwhile", "begins_again"),
    [("SELECT", False), ("INSERT INTO incarnation (number, why) VALUES (7, 'a restore')", True)],
    ids=["the same primary comes back", "another history comes back"],
)
async def test_a_rebuild_waits_for_its_primary_and_goes_on_where_it_was_in_the_same_history(
    database: str, client: asyncpg.Connection, valkey_url: str, valkey: Redis, monkeypatch: pytest.MonkeyPatch,
    meanwhile: str, *, begins_again: bool,
) -> None:  # fmt: skip
    """On a busy machine a probe comes too late now and then: a million members are not begun again for that."""
    monkeypatch.setattr("cdc.rebuild.RETRY_S", 0.01)
    await create_slot(database, SLOT_OF_TESTS)
    await fill(client, entries=6)
    servers = LeavingServers("eu-1", [database], size_max=3, statement_timeout_ms=10_000)
    servers.meanwhile = meanwhile
    sizes = await sizes_written_past(servers, valkey_url, rebuilt(valkey))
    await settled(client, valkey)
    assert servers.reads > 7
    whole = len(MEMBERS) * 10
    assert sum(sizes) > whole if begins_again else sum(sizes) == whole
