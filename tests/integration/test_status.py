"""What `loyalty status` is told by the servers of a shard."""

from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from rich.console import Console

from cluster.status import ShardHealth, StatusReport, _ask_server, render_status
from cluster.system import DEFAULT_PROGRAM, ensure_program
from command.program import apply_program
from shard_router.server import CDC_SLOT
from shard_router.topology import Region, Shard, TopologyDocument
from tests.conftest import DatabasePair

TOPOLOGY = TopologyDocument(
    epoch=1,
    regions={"eu": Region(number=1, command=["http://127.0.0.1:1"], query=["http://127.0.0.1:2"])},
    shards={
        name: Shard(region="eu", slots=[slots], servers=["postgresql://127.0.0.1:3"], valkey="redis://127.0.0.1:4")
        for name, slots in (("eu-1", (0, 2047)), ("eu-2", (2048, 4095)))
    },
)


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


async def test_the_program_in_force_is_told_and_the_coming_one_with_its_instant(
    database: str, second_database: str, tmp_path: Path
) -> None:
    text = DEFAULT_PROGRAM.read_text(encoding="utf-8")
    urls = [database, second_database]
    await apply_program(urls, text)
    await apply_program(urls, text + "\n# later\n", datetime(2099, 1, 1, tzinfo=UTC))
    shards = {name: ShardHealth() for name in TOPOLOGY.shards}
    for url, health in zip(urls, shards.values(), strict=True):
        await _ask_server(url, health)
    report = StatusReport(tmp_path, bool(shards), None, TOPOLOGY, {}, shards, {}, [], None, None, [])
    document = report.document()
    assert document["program_version"] == 1
    assert document["programs_to_come"] == [{"version": 2, "effective_at": "2099-01-01T00:00:00Z"}]
    with (console := Console(width=200)).capture() as screen:
        console.print(render_status(report))
    assert "program version 2 in force from 2099-01-01T00:00:00Z on" in screen.get()
    assert "program version 1 in force since " in screen.get()
    assert await ensure_program(urls, None) == 1
