"""What a node asks its primary for again and again takes turns: at rest one session does for all of it."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from command.register import Register
from command.settler import settle_due
from shard_router.pool import ShardServers
from tests.command_node import REWARDS, running_command_node, told
from tests.engine import as_login

SESSIONS = """SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'loyalty' AND datname = current_database() AND backend_type = 'client backend'"""


async def test_all_that_a_node_looks_for_at_once_takes_one_session(
    database: str, tmp_path: Path, client: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard_router.look.TURN_S", 60)  # else a busy machine would make them go at once
    async with running_command_node(database, tmp_path, program=REWARDS) as node:
        assert await client.fetchval(SESSIONS) == 1
        inner, (shard,) = node.inner, node.inner.shards()
        servers, register = inner.pools[shard], Register(inner)
        for _ in range(5):
            await asyncio.gather(
                settle_due(inner, shard),
                inner.lanes_of(shard).store.forget_answers(inner.now(), 10),
                node.courier.work_through(shard),
                register.work_through(shard),
                told(node, "/readyz"),
                servers.look_again(),
            )
        assert await client.fetchval(SESSIONS) == 1


async def test_a_look_that_takes_long_keeps_nobody(database: str, client: asyncpg.Connection) -> None:
    """Nor does it keep what a node does for a request."""
    servers = ShardServers("eu-1", [as_login(database, "node")], size_max=4, statement_timeout_ms=5_000)
    async with servers.look():
        async with servers.primary() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        async with servers.look() as connection:
            assert await connection.fetchval("SELECT 2") == 2
        await servers.look_again()
        assert servers.still_primary(servers.servers[0])
        assert await client.fetchval(SESSIONS) == 2
    await servers.close()
