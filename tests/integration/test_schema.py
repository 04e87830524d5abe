"""The migrations lead to schema.sql, every statement prepares against it, and the hot one stays on indexes."""

from pathlib import Path

import asyncpg
import pytest

from command.migrate import migrate
from shard_router.array import know_arrays
from shard_router.statement import load_statements
from tests.engine import PostgresServer
from tests.project import PROJECT

FILES = sorted(
    file
    for folder in ("shard_router", "command", "query", "cdc", "verify")
    for file in (PROJECT / folder).glob("*.sql")
    if file.name not in {"schema.sql", "memory.sql"}  # memory.sql is SQLite's
)

ASKED_FOR_TYPES = "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE strpos(statement, $1) > 0)"
CATALOGUE = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migration'
        ORDER BY table_name, column_name
    """,
    "indexes": """
        SELECT indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> 'schema_migration' ORDER BY indexdef
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'schema_migration'
        ORDER BY 1, 2
    """,
}


async def catalogue(dsn: str) -> dict[str, list[tuple[object, ...]]]:
    connection = await asyncpg.connect(dsn)
    try:
        return {name: [tuple(row) for row in await connection.fetch(sql)] for name, sql in CATALOGUE.items()}
    finally:
        await connection.close()


async def test_the_migrations_lead_to_the_schema(database: str, postgres_server: PostgresServer) -> None:
    written = await postgres_server.create_database()
    connection = await asyncpg.connect(written)
    await connection.execute("DROP PUBLICATION loyalty; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.execute((PROJECT / "command" / "schema.sql").read_text())
    await connection.close()
    assert await catalogue(database) == await catalogue(written)
    await postgres_server.drop_database(written)


async def test_migrating_again_changes_nothing(database: str) -> None:
    before = await catalogue(database)
    await migrate(database)
    assert await catalogue(database) == before


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
async def test_every_statement_prepares(database: str, file: Path) -> None:
    connection = await asyncpg.connect(database)
    await know_arrays(connection)
    for statement in load_statements(file).values():
        await connection.prepare(statement)
    assert not await connection.fetchval(ASKED_FOR_TYPES, "typeinfo_tree")  # else shard_router/array.py lacks a type
    await connection.close()
