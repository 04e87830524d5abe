"""Brings a shard's database to the schema of this code: plain SQL files, forward only, each in one transaction.

An advisory lock lets one process do it while others wait; what was applied stands in `schema_migration`.
"""

from pathlib import Path
from typing import Final

import asyncpg

from shard_router.incarnation import ensure_incarnation, is_continuous, prove_continuity
from shard_router.pool import Connection
from shard_router.server import CDC_SLOT
from shard_router.statement import load_statements

MIGRATIONS: Final = Path(__file__).with_name("migrations")
PUBLICATION: Final = "loyalty"

_FILES: Final = {file.name: file.read_text(encoding="utf-8") for file in sorted(MIGRATIONS.glob("*.sql"))}
_STATEMENTS: Final = load_statements(Path(__file__).with_name("migrate.sql"))
_GRANTS: Final = load_statements(Path(__file__).with_name("grant.sql"))


async def migrate(dsn: str) -> None:
    """Apply what is missing, publish what queries need, and say which login may do what.

    May be called again, also at the same time. `dsn` is that of the owner of the tables.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_STATEMENTS["lock_migrations"])
        await connection.execute(_STATEMENTS["create_migration_table"])
        applied = {row["name"] for row in await connection.fetch(_STATEMENTS["list_migrations"])}
        for name, text in _FILES.items():
            if name not in applied:
                await _apply(connection, name, text)
        if not await connection.fetchval(_STATEMENTS["find_publication"], PUBLICATION):
            await connection.execute(_STATEMENTS["create_publication"])
        await connection.execute(_GRANTS["grant_logins"])
    finally:
        await connection.close()


async def find_mark(connection: Connection, name: str) -> bool:
    """Whether work that is no SQL was done on a shard, under this name."""
    return bool(await connection.fetchval(_STATEMENTS["find_mark"], name))


async def set_mark(connection: Connection, name: str) -> None:
    """Note that it was done."""
    await connection.execute(_STATEMENTS["set_mark"], name)


async def create_slot(dsn: str, slot: str = CDC_SLOT) -> None:
    """Create the change stream's failover slot unless it is there. Changes from now on are kept for it.

    Where the shard was restored a new incarnation begins. One that was only lost is left to the projector: it knows how
    far the views have come, which may tell that more was lost.
    `dsn` is of a login that may replicate.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await ensure_incarnation(connection, slot)
        if not await connection.fetchval(_STATEMENTS["find_slot"], slot):
            if await is_continuous(connection, slot):
                return
            await connection.execute(_STATEMENTS["create_slot"], slot)
        await prove_continuity(connection, slot)
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection, name: str, text: str) -> None:
    async with connection.transaction():
        await connection.execute(text)
        await connection.execute(_STATEMENTS["note_migration"], name)
