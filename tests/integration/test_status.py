"""What `loyalty status` is told by the servers of a shard."""

import asyncpg

from cluster.status import ShardHealth, _ask_server
from shard_router.server import CDC_SLOT
from tests.conftest import DatabasePair


async def seen(pair: DatabasePair) -> ShardHealth:
    health = ShardHealth()
    for url in (pair.primary, pair.standby):
        await _ask_server(url, health)
    return health


async def test_status_tells_how_far_slot_and_standby_are_behind(database_pair: DatabasePair) -> None:
    health = await seen(database_pair)
    assert (health.primary, health.standbys) == (database_pair.primary, [database_pair.standby])
    assert (health.slot_bytes, health.unreachable) == (None, [])
    assert health.replay_bytes is not None
    client = await asyncpg.connect(database_pair.primary)
    await client.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", CDC_SLOT)
    try:
        await client.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 100000))")
        behind = (await seen(database_pair)).slot_bytes
    finally:
        await client.execute("SELECT pg_drop_replication_slot($1)", CDC_SLOT)
        await client.close()
    assert behind is not None
    assert behind > 100_000
