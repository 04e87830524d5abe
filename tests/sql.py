"""What tests ask of a server of Postgres, and do to one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.conftest import eventually
from tests.engine import PostgresServer, as_superuser, skip_where_settings_are_fixed


async def fetch(dsn: str, sql: str, *arguments: object) -> list[asyncpg.Record]:
    """The rows of a statement, on a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(sql, *arguments)
    finally:
        await connection.close()


@asynccontextmanager
async def replay_paused(standby: str) -> AsyncGenerator[None]:
    """The standby receives and flushes, and shows nothing new."""
    connection = await asyncpg.connect(standby)

    async def paused() -> bool:
        return await connection.fetchval("SELECT pg_get_wal_replay_pause_state()") == "paused"

    await connection.execute("SELECT pg_wal_replay_pause()")
    try:
        await eventually(paused)
        yield
    finally:
        await connection.execute("SELECT pg_wal_replay_resume()")
        await connection.close()


@asynccontextmanager
async def without_standby(server: PostgresServer) -> AsyncGenerator[None]:
    """Every commit waits for a standby that does not come."""
    skip_where_settings_are_fixed()
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await connection.execute("SELECT pg_reload_conf()")
        yield
    finally:
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()


@asynccontextmanager
async def held_table(dsn: str) -> AsyncGenerator[None]:
    """A shard that does nothing: whoever reads an account waits."""
    holder: Any = await asyncpg.connect(as_superuser(dsn))
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await holder.close()
