"""Rebuilds that are asked for: each is served, by one run or by several."""

import asyncpg
import pytest
from redis.asyncio import Redis

from cdc.rebuild import Rebuild, RebuildSettings
from cdc.sink import Fenced, Position, Session
from command.migrate import create_slot
from shard_router.pool import ShardServers
from tests.cdc_node import SLOT_OF_TESTS
from tests.cdc_world import MARK, fill, rebuilding, settled
from tests.conftest import eventually


async def test_who_is_in_a_hurry_says_so_and_the_next_rebuild_rests_again(
    database: str, client: asyncpg.Connection, valkey_url: str, valkey: Redis
) -> None:
    """At a duty of a hundred thousandth the first chunk alone would be followed by minutes of rest."""
    await create_slot(database, SLOT_OF_TESTS)
    await fill(client)
    stream = Session(valkey_url, MARK).open(Position("one", 1))
    servers = ShardServers("eu-1", [database], size_max=3, statement_timeout_ms=10_000)
    rebuild = Rebuild(servers, RebuildSettings(SLOT_OF_TESTS, members_per_chunk=10, duty=0.000_01))
    rebuild.request("first", duty=1)

    async def served() -> bool:
        return rebuild.state.served == 2

    async with rebuilding(rebuild, servers, lambda: Session(valkey_url, MARK, epoch=stream.epoch)):
        await eventually(served)
        await settled(client, valkey)
        assert rebuild.state.refill_s > 0
        assert rebuild.duty == 0.000_01
    stream.close()


async def test_a_rebuild_asked_for_while_another_is_interrupted_is_served_by_the_next(
    database: str, client: asyncpg.Connection, valkey_url: str, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the second one to be completed would wait for ever: there is only one."""
    monkeypatch.setattr("cdc.rebuild.RETRY_S", 0.01)
    await create_slot(database, SLOT_OF_TESTS)
    await fill(client)
    stream = Session(valkey_url, MARK).open(Position("one", 1))
    servers = ShardServers("eu-1", [database], size_max=3, statement_timeout_ms=10_000)
    rebuild = Rebuild(servers, RebuildSettings(SLOT_OF_TESTS, duty=1))

    def open_session() -> Session:
        if rebuild.state.asked == 1:
            rebuild.request("asked for")
            raise Fenced("of a projector that was just starting")
        return Session(valkey_url, MARK, epoch=stream.epoch)

    async def served() -> bool:
        return rebuild.state.served == 2

    async with rebuilding(rebuild, servers, open_session):
        await eventually(served)
        await settled(client, valkey)
        assert rebuild.state.completed == 1
        assert not rebuild.state.running
    stream.close()
