"""The pair as the system runs it: a commit waits for the standby, which streams and keeps the CDC slot."""

import asyncpg

from command.migrate import create_slot
from tests.conftest import DatabasePair, eventually
from tests.engine import PostgresServer
from tests.sql import fetch


async def test_what_the_primary_commits_the_standby_shows(database_pair: DatabasePair) -> None:
    await fetch(database_pair.primary, "INSERT INTO member VALUES (7, 1, '{}', now())")

    async def shown() -> bool:
        return bool(await fetch(database_pair.standby, "SELECT 1 FROM member WHERE member_id = 7"))

    await eventually(shown)


async def test_the_standby_takes_no_writes(database_pair: DatabasePair) -> None:
    try:
        await fetch(database_pair.standby, "INSERT INTO member VALUES (8, 1, '{}', now())")
    except asyncpg.ReadOnlySQLTransactionError:
        return
    raise AssertionError("the standby took a write")


async def test_a_commit_is_synchronous_and_the_slot_permanent(postgres_pair: PostgresServer) -> None:
    (standby,) = await fetch(postgres_pair.url, "SELECT state, sync_state FROM pg_stat_replication")
    assert tuple(standby) == ("streaming", "sync")
    ((waits,),) = await fetch(postgres_pair.url, "SHOW synchronous_commit")
    assert waits == "on"
    (slot,) = await fetch(
        postgres_pair.url, "SELECT slot_type, temporary, active FROM pg_replication_slots WHERE slot_name = 'standby'"
    )
    assert tuple(slot) == ("physical", False, True)


async def test_the_change_slot_is_kept_on_the_standby_for_a_failover(database_pair: DatabasePair) -> None:
    await create_slot(database_pair.primary, "kept")

    async def synced() -> bool:
        """What copies slots sleeps for up to half a minute when it found nothing to do; a reload wakes it."""
        await fetch(database_pair.standby, "SELECT pg_reload_conf()")
        return bool(await fetch(database_pair.standby, "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'kept'"))

    await eventually(synced, deadline_s=40)


async def test_pages_are_checksummed_and_text_is_utf8_in_c_order(database: str) -> None:
    (row,) = await fetch(
        database,
        "SELECT current_setting('data_checksums'), current_setting('server_encoding'), datcollate FROM pg_database"
        " WHERE datname = current_database()",
    )
    assert tuple(row) == ("on", "UTF8", "C")


async def test_databases_are_apart_and_migrated(database: str) -> None:
    assert await fetch(database, "SELECT count(*) FROM account") == [(0,)]
