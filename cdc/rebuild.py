"""Refills every view of a shard from Postgres while the stream goes on.

Rows are read after the slot exists and written through the same guards, so it does not matter which of a row and its
changes comes first. Identifiers are ordered by lsn; a row read from the table gets the slot's `restart_lsn` as it was
before the reading: every change below it is in what is read, every change the stream may still bring lies above it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from cdc.project import Operations, project
from cdc.sink import Emptied, Fenced, Session
from cdc.slot import STATEMENTS as SLOT_STATEMENTS
from cdc.source import Change
from query.views import RECENT_ENTRIES, header, identifier_key
from shard_router.errors import LoyaltyError, ProblemError
from shard_router.pool import Connection, ShardServers
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("rebuild.sql"))
RETRY_S: Final = 1.0
TABLES: Final = ("member", "journal", "purchase", "identifier")


class NotReady(LoyaltyError):  # noqa: N818 - it tells a state
    """The slot or the standby is not where a rebuild needs it yet; try again."""


@dataclass(frozen=True, slots=True)
class RebuildSettings:
    """How gently. A duty of 0.5 rests as long as it works, and leaves the rest to the stream and to queries."""

    slot: str
    members_per_chunk: int = 200
    duty: float = 0.5


@dataclass(slots=True)
class RebuildState:
    """What a rebuild has to tell."""

    complete: bool = False
    running: bool = False
    reason: str = ""
    members_done: int = 0
    members_total: int = 0
    completed: int = 0
    trouble: str = ""
    failed_rows: int = 0


class Rebuild:
    """Runs one rebuild after another as they are asked for; one asked for meanwhile follows."""

    def __init__(self, servers: ShardServers, settings: RebuildSettings) -> None:
        self._servers = servers
        self._settings = settings
        self._requested = asyncio.Event()
        self.state = RebuildState()

    def views_found(self, incomplete: str) -> None:
        """A new epoch has begun; incomplete views are rebuilt, if need be by one more run. Call on the event loop."""
        self.state.complete = not incomplete
        if incomplete:
            self.request(incomplete)

    def request(self, reason: str) -> None:
        """Ask for a rebuild; call on the event loop."""
        self.state.reason = reason
        self._requested.set()

    async def run(self, open_session: Callable[[], Session]) -> None:
        """Serve requests for ever. A rebuild that fails starts again from the beginning: twice is harmless."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self._rebuild(open_session)
            except (ProblemError, RedisError, OSError, Fenced, Emptied, NotReady) as error:
                self.state.trouble = f"{type(error).__name__}: {error}"
                structlog.get_logger().warning("rebuild_interrupted", error=self.state.trouble)
                await asyncio.sleep(RETRY_S)
                self._requested.set()

    async def refresh(self, session: Session, members: list[int]) -> None:
        """Read some members again from the primary: their changes could not be projected."""
        async with self._servers.primary() as connection:
            floor, _ = await self._slot_position(connection)
            operations = await read_members(connection, members, floor)
        await self._write(session, operations)

    async def _rebuild(self, open_session: Callable[[], Session]) -> None:
        started_at = time.monotonic()
        self.state.running, self.state.members_done, self.state.trouble = True, 0, ""
        structlog.get_logger().info("rebuild_started", reason=self.state.reason)
        session = open_session()
        try:
            async with self._servers.primary() as connection:
                floor, confirmed = await self._slot_position(connection)
            await self._refill(session, floor, confirmed)
            await self._sweep(session, floor, confirmed)
            await asyncio.to_thread(session.complete)
        finally:
            self.state.running = False
            session.close()
        self.state.completed += 1
        self.state.complete = not self._requested.is_set()  # a new epoch may just have begun
        structlog.get_logger().info(
            "rebuild_completed", members=self.state.members_done, seconds=round(time.monotonic() - started_at, 3)
        )

    async def _refill(self, session: Session, floor: int, confirmed: int) -> None:
        last = 0
        async with self._reader(confirmed) as connection:
            self.state.members_total = await connection.fetchval(STATEMENTS["member_count"])
        while True:
            started_at = time.monotonic()
            async with self._reader(confirmed) as connection:
                rows = await connection.fetch(STATEMENTS["members_after"], last, self._settings.members_per_chunk)
                members = [row["member_id"] for row in rows]
                operations = await read_members(connection, members, floor)
            if not members:
                return
            await self._write(session, operations)
            last = members[-1]
            self.state.members_done += len(members)
            await self._rest(started_at)

    async def _sweep(self, session: Session, floor: int, confirmed: int) -> None:
        """Remove the identifiers that have a view and no row: removed while no slot watched."""
        keys = session.keys(identifier_key("*", "*"), self._settings.members_per_chunk)
        while chunk := await asyncio.to_thread(next, keys, None):
            started_at = time.monotonic()
            asked = {key: tuple(key.split(":", 2)[1:]) for key in chunk}
            kinds, values = zip(*asked.values(), strict=True)
            async with self._reader(confirmed) as connection:
                rows = await connection.fetch(STATEMENTS["identifiers_present"], list(kinds), list(values))
            present = {(row["kind"], row["value"]) for row in rows}
            gone = {key: header(floor) for key, identifier in asked.items() if identifier not in present}
            await self._write(session, Operations(identifiers=gone))
            await self._rest(started_at)

    async def _write(self, session: Session, operations: Operations) -> None:
        failed = [f"{change.table} {why}" for change, why in operations.failed]
        failed += await asyncio.to_thread(session.refill, operations)
        self.state.failed_rows += len(failed)
        for failure in failed:
            structlog.get_logger().error("row_not_projected", failure=failure)

    async def _rest(self, started_at: float) -> None:
        worked_s = time.monotonic() - started_at
        await asyncio.sleep(worked_s * (1 / self._settings.duty - 1))

    async def _slot_position(self, connection: Connection) -> tuple[int, int]:
        found = await connection.fetchrow(SLOT_STATEMENTS["slot"], self._settings.slot)
        if found is None or found["confirmed"] is None:
            raise NotReady("the slot does not exist yet")
        return found["floor"], found["confirmed"]

    @asynccontextmanager
    async def _reader(self, confirmed: int) -> AsyncGenerator[Connection]:
        """A standby that shows what the slot has passed, else the primary."""
        async with AsyncExitStack() as stack:
            connection = await self._standby(stack, confirmed)
            yield connection or await stack.enter_async_context(self._servers.primary())

    async def _standby(self, stack: AsyncExitStack, confirmed: int) -> Connection | None:
        try:
            connection = await stack.enter_async_context(self._servers.standby())
            return connection if await connection.fetchval(STATEMENTS["has_replayed"], confirmed) else None
        except ProblemError:
            return None


async def read_members(connection: Connection, members: list[int], floor: int) -> Operations:
    """The operations that make the views of these members from what the tables hold."""
    changes: list[Change] = []
    for table in TABLES:
        limit = (RECENT_ENTRIES,) if table == "journal" else ()
        rows = await connection.fetch(STATEMENTS[table], members, *limit)
        changes += as_changes(table, rows, floor)
    return project(changes)


def as_changes(table: str, rows: Iterable[Any], floor: int) -> list[Change]:
    """Rows as if they had just been inserted."""
    return [Change(table, "insert", dict(row), 0, floor) for row in rows]
