"""The replication slot: found, freed of a dead holder, or made anew.

A slot made anew has a gap before it. So the views are declared incomplete first (sink.Session.open, told where the
slot would resume) and the slot is made after: a crash in between leaves incomplete views, never a silent gap.
"""

import asyncio
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from cdc.sink import Position
from shard_router.errors import LoyaltyError
from shard_router.server import SERVER_ERRORS
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("slot.sql"))
CONNECT_TIMEOUT_S: Final = 2
RELEASE_TIMEOUT_S: Final = 15.0  # wal_sender_timeout is 10 s
_ABSENT: Final = 2**53 - 1  # beyond any watermark, and exact in Lua's numbers


class SlotUnusable(LoyaltyError):  # noqa: N818 - it tells what is wrong
    """The slot belongs to something else or cannot be freed; the message says which."""


async def find_primary(servers: list[str]) -> str | None:
    """The DSN of the server that takes writes, on the highest timeline when several say so; None while there is none.

    All are asked at once: a former primary that thaws does not know yet that it was overtaken.
    """
    found = await asyncio.gather(*(_timeline(dsn) for dsn in servers))
    primaries = {dsn: timeline for dsn, timeline in zip(servers, found, strict=True) if timeline is not None}
    return max(primaries, key=primaries.__getitem__, default=None)


async def _timeline(dsn: str) -> int | None:
    """The timeline of a server that takes writes; None for a standby, and for one that does not answer."""
    try:
        async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
            connection = await connect(dsn)
            try:
                return await connection.fetchval(STATEMENTS["timeline_of_primary"])
            finally:
                await connection.close(timeout=CONNECT_TIMEOUT_S)
    except SERVER_ERRORS:
        return None


async def connect(dsn: str) -> asyncpg.Connection:
    """A connection of its own; OSError, TimeoutError or PostgresError."""
    return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "loyalty cdc"})


async def system_of(connection: asyncpg.Connection) -> str:
    """Which database this is, as the mark in Valkey names it."""
    return str(await connection.fetchval(STATEMENTS["system"]))


async def timeline_of(connection: asyncpg.Connection) -> int:
    """The timeline of a primary."""
    return int(await connection.fetchval(STATEMENTS["timeline_of_primary"]) or 0)


async def resume_position(connection: asyncpg.Connection, slot: str) -> Position:
    """From where the slot would resume: beyond everything when it is missing or lost. And how far this primary goes."""
    system = await system_of(connection)
    found = await connection.fetchrow(STATEMENTS["slot"], slot)
    usable = found is not None and not found["lost"]
    ends_at = await connection.fetchval(STATEMENTS["end_of_wal"])
    return Position(system, found["confirmed"] if found and usable else _ABSENT, ends_at)


async def secure_slot(connection: asyncpg.Connection, slot: str) -> None:
    """Leave a slot that is ours and free. SlotUnusable when the name is taken or its holder does not let go."""
    found = await connection.fetchrow(STATEMENTS["slot"], slot)
    if found and not found["ours"]:
        raise SlotUnusable(f"{slot} is a slot of another database or plugin")
    if found and found["active_pid"]:
        await _free(connection, slot)
    if found and found["lost"]:
        structlog.get_logger().error("slot_lost", slot=slot)
        await connection.execute(STATEMENTS["drop_slot"], slot)
        found = None
    if not found:
        structlog.get_logger().error("slot_missing", slot=slot, consequence="views are rebuilt")
        await connection.execute(STATEMENTS["create_slot"], slot)


async def _free(connection: asyncpg.Connection, slot: str) -> None:
    try:
        async with asyncio.timeout(RELEASE_TIMEOUT_S):
            while (found := await connection.fetchrow(STATEMENTS["slot"], slot)) and found["active_pid"]:
                structlog.get_logger().warning("slot_holder_terminated", slot=slot, pid=found["active_pid"])
                await connection.execute(STATEMENTS["terminate"], found["active_pid"])
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise SlotUnusable(f"the holder of {slot} does not let go") from error
