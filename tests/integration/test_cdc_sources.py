"""Both sources against one real workload: the same changes, none lost, whatever ends a source in between."""

import asyncio
import sys
import threading
from typing import Any

import asyncpg
import orjson
import pytest

from cdc.pgoutput import PgoutputSource
from cdc.source import Batch
from command.migrate import create_slot
from tests.conftest import eventually
from tests.engine import as_superuser
from tests.project import PROJECT

LONG = "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(20_000))  # does not compress: lies out of line
SOURCES = ("pgoutput", "debezium")
DEADLINE_S = 60

HELD = """
SELECT s.confirmed_flush_lsn - '0/0'::pg_lsn, r.reply_time
FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
WHERE s.slot_name = 'held'
"""
INSERT_MEMBER = "INSERT INTO member VALUES ($1, $2, $3, '2026-11-22 10:00:00.5+00')"
INSERT_PURCHASE = "INSERT INTO purchase VALUES ($1, 1, 1, 's', 't', 'r', '2026-11-22', '2026-11-22 10:00:00+00', $2)"


class Recorder:
    """A source in a process of its own."""

    def __init__(self, kind: str, dsn: str, slot: str) -> None:
        self._argv = (sys.executable, "-m", "tests.cdc_recorder", kind, dsn, slot)
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, *, die_after: int = 0) -> None:
        pipe = asyncio.subprocess.PIPE
        self._child = await asyncio.create_subprocess_exec(
            *self._argv, str(die_after), cwd=PROJECT, stdout=pipe, stderr=pipe
        )

    async def finish(self) -> tuple[int, list[list[Any]]]:
        """Its exit status and what it yielded, once it has ended."""
        assert self._child is not None
        async with asyncio.timeout(DEADLINE_S):
            out, err = await self._child.communicate()
        assert self._child.returncode in {0, 3, -9}, err.decode()[-2000:]
        return self._child.returncode, [orjson.loads(line) for line in out.splitlines()]


async def end(client: asyncpg.Connection) -> None:
    await client.execute("SELECT pg_logical_emit_message(true, 'loyalty.end', '')")


async def workload(dsn: str, client: asyncpg.Connection) -> None:
    """Open transactions that interleave, many rows of one statement, key changes, values out of line, Unicode."""
    other = await asyncpg.connect(dsn)
    early = client.transaction()
    await early.start()
    await client.execute(INSERT_MEMBER, 1, 1, '{"name":"first to write, last to commit"}')
    await other.execute(INSERT_MEMBER, 2, 1, orjson.dumps({"name": 'Zoë 👩‍👩‍👧 \u2028 "quoted" \\ \t'}).decode())
    await other.execute("INSERT INTO identifier SELECT 'card', n::text, 2, 1 FROM generate_series(1, 1500) AS n")
    await client.execute("UPDATE member SET version = 2 WHERE member_id = 1")
    await early.commit()
    async with other.transaction():
        await other.execute(INSERT_MEMBER, 3, 1, f'"{LONG}"')
        await other.execute("UPDATE member SET version = version + 1 WHERE member_id = 3")
    await other.execute(INSERT_PURCHASE, 3, f'"{LONG}"')
    await other.execute("UPDATE purchase SET changed_version = 2, till = ''")
    await other.execute("UPDATE identifier SET value = 'new' WHERE value = '7'")
    await other.execute("UPDATE identifier SET version = 2 WHERE value IN ('8', '9')")
    await other.execute("DELETE FROM identifier WHERE value = '1'")
    await other.copy_records_to_table(
        "identifier",
        records=[("phone", f"+{n}", 1, 1) for n in range(700)],
        columns=["kind", "value", "member_id", "version"],
    )
    undone = other.transaction()
    await undone.start()
    await other.execute(INSERT_MEMBER, 4, 1, "{}")
    await undone.rollback()
    await other.close()


async def record(dsn: str, kind: str) -> list[list[Any]]:
    recorder = Recorder(kind, dsn, f"{kind}_whole")
    await recorder.start()
    status, changes = await recorder.finish()
    assert status == 0
    return changes


async def test_both_sources_yield_the_same_changes(database: str, client: asyncpg.Connection) -> None:
    for kind in SOURCES:
        await create_slot(database, f"{kind}_whole")
    await workload(database, client)
    await end(client)
    native, debezium = [await record(database, kind) for kind in SOURCES]
    for ours, theirs in zip(native, debezium, strict=True):
        assert ours == theirs
    tables = [table for table, *_ in native]
    assert tables.count("identifier") == 1500 + 2 + 2 + 1 + 700
    unchanged = [row for table, operation, row, *_ in native if (table, operation) == ("purchase", "update")]
    assert "document" not in unchanged[0]
    assert [row["member_id"] for table, operation, row, *_ in native if (table, operation) == ("member", "insert")] == [
        2,
        1,
        3,
    ]


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_source_killed_in_mid_batch_loses_nothing(database: str, client: asyncpg.Connection, kind: str) -> None:
    for slot in ("oracle", "killed"):
        await create_slot(database, slot)
    await workload(database, client)
    recorder = Recorder(kind, database, "killed")
    await recorder.start(die_after=1000)
    status, before = await recorder.finish()
    assert (status, len(before)) == (-9, 1000)
    await workload_after(client)
    await end(client)
    await released(client, "killed")
    await recorder.start()
    status, after = await recorder.finish()
    oracle = Recorder("pgoutput", database, "oracle")
    await oracle.start()
    _, wanted = await oracle.finish()
    assert status == 0
    assert wanted[:1000] == before
    assert after == wanted[len(wanted) - len(after) :]
    assert len(before) + len(after) >= len(wanted)


async def test_nothing_of_a_batch_is_acknowledged_while_it_is_being_applied(
    database: str, client: asyncpg.Connection
) -> None:
    await create_slot(database, "held")
    await workload_after(client)
    begun, go_on = threading.Event(), threading.Event()

    def handle(_batch: Batch) -> None:
        begun.set()
        go_on.wait(DEADLINE_S)

    source = PgoutputSource(database, slot="held", publication="loyalty")
    watching = await asyncpg.connect(as_superuser(database))
    before, _ = await watching.fetchrow(HELD)
    running = asyncio.create_task(asyncio.to_thread(source.run, handle))
    try:
        await asyncio.to_thread(begun.wait, DEADLINE_S)
        for _ in range(2):  # while it waits it says that it lives
            _, replied_at = await watching.fetchrow(HELD)

            async def replied(since: Any = replied_at) -> bool:
                return (await watching.fetchrow(HELD))[1] != since

            await eventually(replied, deadline_s=DEADLINE_S)
        assert (await watching.fetchrow(HELD))[0] == before
        go_on.set()

        async def acknowledged() -> bool:
            return (await watching.fetchrow(HELD))[0] > before

        await eventually(acknowledged, deadline_s=DEADLINE_S)
    finally:
        go_on.set()
        await asyncio.to_thread(source.stop)
        await running
        await watching.close()


async def workload_after(client: asyncpg.Connection) -> None:
    await client.execute("INSERT INTO identifier SELECT 'email', n::text, 1, 1 FROM generate_series(1, 300) AS n")
    await client.execute("UPDATE member SET version = version + 1")


@pytest.mark.parametrize("kind", SOURCES)
async def test_a_dropped_connection_ends_the_source_and_the_next_goes_on(
    database: str, client: asyncpg.Connection, kind: str
) -> None:
    await create_slot(database, "dropped")
    recorder = Recorder(kind, database, "dropped")
    await recorder.start()
    await workload_after(client)

    async def acknowledged() -> bool:
        sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'dropped' AND active"
        return bool(await client.fetchval(sql))

    await eventually(acknowledged, deadline_s=DEADLINE_S)
    await client.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'dropped'"
    )
    status, before = await recorder.finish()
    assert status == 3
    await workload_after_again(client)
    await end(client)
    await released(client, "dropped")
    await recorder.start()
    status, after = await recorder.finish()
    assert status == 0
    keys = {row["value"] for table, _, row, *_ in before + after if table == "identifier"}
    assert keys == {str(n) for n in range(1, 601)}


async def workload_after_again(client: asyncpg.Connection) -> None:
    await client.execute("INSERT INTO identifier SELECT 'email', n::text, 1, 1 FROM generate_series(301, 600) AS n")


async def released(client: asyncpg.Connection, slot: str) -> None:
    """The server has noticed that the slot's holder is gone."""

    async def free() -> bool:
        return not await client.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot)

    await eventually(free, deadline_s=DEADLINE_S)
