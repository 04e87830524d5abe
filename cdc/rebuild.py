"""Refills every view of a shard from Postgres while the stream goes on, and takes back what the database has lost.

Rows are read after the slot exists and written through the same guards, so it does not matter which of a row and its
changes comes first. Identifiers are ordered by lsn; a row read from the table gets the slot's `restart_lsn` as it was
before the reading: every change below it is in what is read, every change the stream may still bring lies above it.
That holds in one history of the database: while no server answers a rebuild waits and then goes on where it was, if the
primary goes on with the same one. Of many members the same work is done by a process of its own (apart.py).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeVar

import asyncpg
import structlog
from redis.exceptions import RedisError

from cdc.project import Operations, project
from cdc.rows import STATEMENTS, Bound, NotReady, Overtaken, Rows, gone, rows_after, without_row
from cdc.sink import Emptied, Fenced, Session
from cdc.source import Change
from query.views import HEADER_SIZE, in_logs
from shard_router.errors import LoyaltyError, ProblemError
from shard_router.pool import ShardServers

RETRY_S: Final = 1.0
MEMBERS_HERE: Final = 10_000  # a second or two of work, hardly more than a process takes to start
VIEW_KEYS: Final = "[ampi]:*"
OPERATIONS_PER_CHUNK: Final = 2_500
"""Views and entries: of 500 members who buy seldom, or of twenty who buy every day."""
ROWS_KEPT_S: Final = 900.0
"""A removal leaves a tombstone for an hour (apply.lua): a row read before it must have been written by then."""
_MEMBERS_AT_FIRST: Final = 20
_VIEWS_PER_MEMBER: Final = 5
_EXAMPLES_MAX: Final = 5

_NO_ANSWER: Final = (ProblemError, asyncpg.PostgresError, NotReady)
"""What reading raises while no server can answer: a probe that came too late on a busy machine is enough."""

INTERRUPTIONS: Final = (*_NO_ANSWER, RedisError, OSError, Fenced, Emptied, Overtaken)
"""What ends a rebuild before it is done."""

Result = TypeVar("Result")


class Interrupted(LoyaltyError):  # noqa: N818 - it tells what happened
    """The process that rebuilt has ended before it was done, or says what ended its work."""


class Unstarted(Interrupted):
    """There is no process that could rebuild."""


@dataclass(frozen=True, slots=True)
class RebuildSettings:
    """How gently. A duty of 0.5 rests as long as it works, and leaves the rest to the stream and to queries."""

    slot: str
    members_per_chunk: int = 500
    duty: float = 0.5


class Elsewhere(Protocol):
    """Where the work of a rebuild is done when it is much."""

    async def work(self, rebuild: "Rebuild") -> None:
        """As `Rebuild.work`, noting in its state how far it has come.

        Interrupted when it ends before it is done, Unstarted when nothing has been done there.
        """
        ...


class _Chunk(NamedTuple):
    """Some members, and what their views must be by the tables as they were at an instant (time.monotonic)."""

    members: list[int]
    operations: Operations
    read_at: float


@dataclass(slots=True)
class RebuildState:
    """What a rebuild has to tell."""

    complete: bool = False
    running: bool = False
    reason: str = ""
    members_done: int = 0
    members_total: int = 0
    refill_s: float = 0.0
    """From the first view of this rebuild that was written to the newest one."""
    completed: int = 0
    asked: int = 0
    """How often a rebuild was asked for since the process began."""
    served: int = 0
    """So many of them are done: a rebuild serves all that were asked for before it began."""
    trouble: str = ""
    lowered: int = 0
    """Views taken back since the process began."""


class Rebuild:
    """Runs one rebuild after another as they are asked for; one asked for meanwhile follows."""

    def __init__(self, servers: ShardServers, settings: RebuildSettings, elsewhere: Elsewhere | None = None) -> None:
        self._elsewhere = elsewhere
        self._rows = Rows(servers, settings.slot)
        self._settings = settings
        self.duty = settings.duty
        """Of the rebuild that runs."""
        self._duty_given = asyncio.Event()
        self._unsettled = False
        self._requested = asyncio.Event()
        self.state = RebuildState()

    def views_found(self, incomplete: str) -> None:
        """A new epoch has begun; incomplete views are rebuilt, if need be by one more run. Call on the event loop."""
        self.state.complete = not incomplete
        if incomplete:
            self.request(incomplete)

    def request(self, reason: str, *, duty: float | None = None) -> None:
        """Ask for a rebuild; call on the event loop. A duty that is given holds from now until all are done."""
        self.keep(duty or self.duty)
        self.state.reason = reason
        self.state.asked += 1
        self._requested.set()

    def keep(self, duty: float) -> None:
        """Go on with this duty."""
        self.duty = duty
        self._duty_given.set()

    async def run(self, open_session: Callable[[], Session]) -> None:
        """Serve requests for ever. One whose session or history ends starts from the beginning: twice is harmless."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await self._rebuild(open_session)
            except (*INTERRUPTIONS, Interrupted) as error:
                self.state.trouble = f"{type(error).__name__}: {error}"
                structlog.get_logger().warning("rebuild_interrupted", error=self.state.trouble)
                await asyncio.sleep(RETRY_S)
                self._requested.set()

    async def refresh(self, session: Session, changes: list[Change]) -> None:
        """Read the members of these changes again from the primary: they could not be projected."""
        await self._write(session, await self._rows.of_changes(changes))

    async def mend(self, session: Session, keys: Sequence[str]) -> list[str]:
        """Take out those of these views that cannot be parsed, and write them again; tells which there were."""
        taken = await asyncio.to_thread(session.discard, keys)
        if taken:
            # Only now: what the stream brought before may have been refused by what was there.
            truth = await self._rows.settled_truth(taken)
            if truth is None:
                raise NotReady("what was committed before does not show yet")
            await self._write(session, truth)
        return taken

    async def _rebuild(self, open_session: Callable[[], Session]) -> None:
        started_at = time.monotonic()
        self.state.running, self.state.members_done, self.state.refill_s, self.state.trouble = True, 0, 0.0, ""
        serves = self.state.asked
        structlog.get_logger().info("rebuild_started", reason=self.state.reason)
        try:
            if not await self._done_elsewhere():
                await self.work(open_session)
        finally:
            self.state.running = False
        self.state.completed += 1
        self.state.served = serves
        self.state.complete = not self._requested.is_set()  # a new epoch may just have begun
        self.duty = self.duty if self._requested.is_set() else self._settings.duty
        structlog.get_logger().info(
            "rebuild_completed", members=self.state.members_done, seconds=round(time.monotonic() - started_at, 3)
        )

    async def _done_elsewhere(self) -> bool:
        if self._elsewhere is None or not await self._rows.more_members_than(MEMBERS_HERE):
            return False
        try:
            await self._elsewhere.work(self)
        except Unstarted as error:
            structlog.get_logger().warning("rebuild_not_apart", error=str(error))
            return False
        return True

    async def work(self, open_session: Callable[[], Session]) -> None:
        """Go through all members and all views once, and declare that every view is there."""
        self._unsettled = False
        with closing(open_session()) as session:
            bound = await self._rows.bound()
            await self._refill(session, bound)
            await self._sweep(session, bound)
            await asyncio.to_thread(session.complete)

    async def _refill(self, session: Session, bound: Bound) -> None:
        """Write a chunk while the next one is read; nothing is read beyond that.

        What fails ends it before anything else is written. What waited until it was old is read again.
        """
        async with self._rows.reader(bound) as connection:
            self.state.members_total = await connection.fetchval(STATEMENTS["member_count"])
        size = min(_MEMBERS_AT_FIRST, self._settings.members_per_chunk)
        chunk = await self._read(bound, 0, size)
        began_at = time.monotonic()
        while chunk.members:
            started_at = time.monotonic()
            size = self._next_size(chunk)
            written, following = await asyncio.gather(
                self._put(session, bound, chunk), self._read(bound, chunk.members[-1], size), return_exceptions=True
            )
            if isinstance(written, BaseException):
                raise written
            if isinstance(following, BaseException):
                raise following
            self.state.members_done += len(chunk.members)
            self.state.refill_s = time.monotonic() - began_at
            await self._rest(started_at)
            if time.monotonic() - following.read_at > ROWS_KEPT_S:
                following = await self._read(bound, chunk.members[-1], size)
            chunk = following

    async def _read(self, bound: Bound, after: int, size: int) -> _Chunk:
        async def read() -> tuple[float, list[int], list[Change]]:
            read_at = time.monotonic()
            async with self._rows.reader(bound) as connection:
                return read_at, *await rows_after(connection, after, size, bound.floor)

        read_at, members, changes = await self._answer(bound, read)
        # Rendering holds up neither the heartbeat nor what the projector answers.
        return _Chunk(members, await asyncio.to_thread(project, changes), read_at)

    async def _answer(self, bound: Bound, read: Callable[[], Awaitable[Result]]) -> Result:
        """What is read, as soon as a server answers; Overtaken when it is of another history by then."""
        waits = False
        while True:
            try:
                if waits:
                    await self._rows.prove(bound)
                result = await read()
            except _NO_ANSWER as error:
                waits, self.state.trouble = True, f"{type(error).__name__}: {error}"
                structlog.get_logger().warning("rebuild_waits", error=self.state.trouble)
                await asyncio.sleep(RETRY_S)
            else:
                self.state.trouble = "" if waits else self.state.trouble
                return result

    async def _put(self, session: Session, bound: Bound, chunk: _Chunk) -> None:
        await self._lower(session, bound, await self._write(session, chunk.operations))

    def _next_size(self, chunk: _Chunk) -> int:
        """How many members have about so many views as is good to handle at once, by those of this chunk."""
        size = len(chunk.members) * OPERATIONS_PER_CHUNK // max(chunk.operations.size, 1)
        return max(1, min(size, self._settings.members_per_chunk))

    async def _sweep(self, session: Session, bound: Bound) -> None:
        """Look for views without a row: identifiers removed while no slot watched, and what the database has lost."""
        keys = session.keys(VIEW_KEYS, self._settings.members_per_chunk * _VIEWS_PER_MEMBER)
        while chunk := await asyncio.to_thread(next, keys, None):
            started_at = time.monotonic()
            rowless = await self._answer(bound, partial(self._without_row, bound, chunk))
            removed = {key: gone(bound.floor) for key in rowless if key.startswith("i:")}
            higher = await self._write(session, Operations(identifiers=removed)) if removed else {}
            others = [key for key in rowless if key not in removed]
            await self._lower(session, bound, await asyncio.to_thread(session.stored, others) | higher)
            await self._rest(started_at)

    async def _without_row(self, bound: Bound, keys: Sequence[str]) -> list[str]:
        async with self._rows.reader(bound) as connection:
            return await without_row(connection, keys)

    async def _write(self, session: Session, operations: Operations) -> dict[str, bytes]:
        """Write what was read; tells which views show more, with their values."""
        outcome = await asyncio.to_thread(session.refill, operations)
        failed = [f"{change.table} {why}" for change, why in operations.failed] + outcome.failed
        for failure in failed:
            structlog.get_logger().error("row_not_projected", failure=failure)
        return outcome.higher

    async def _lower(self, session: Session, bound: Bound, seen: dict[str, bytes]) -> None:
        """Take back views that show more than the database has: it lost what they show, to a failover or a restore.

        Nearly always the stream was just ahead of the row read. What it had brought when a view was seen has
        committed, so it shows once all that was under way then has ended: a view that is higher even then is none of
        its making. Afterwards the members are read once more, for the view refused what the stream brought meanwhile.
        """
        shown = await self._answer(bound, partial(self._rows.truth, seen)) if seen else Operations()
        suspects = lower_values(seen, shown)
        if not suspects or self._unsettled:
            return
        truth = await self._answer(bound, partial(self._rows.settled_truth, suspects))
        if truth is None:
            self._unsettled = True
            structlog.get_logger().warning("views_left_higher", why="a transaction or the stream does not settle")
            return
        lowered = await asyncio.to_thread(session.lower, lower_values(seen, truth), seen)
        if lowered:
            await self._restore(session, bound, lowered)

    async def _restore(self, session: Session, bound: Bound, lowered: list[str]) -> None:
        self.state.complete = False
        self.state.lowered += len(lowered)
        examples = [in_logs(key) for key in lowered[:_EXAMPLES_MAX]]
        structlog.get_logger().warning("views_lowered", count=len(lowered), examples=examples)
        truth = await self._answer(bound, partial(self._rows.settled_truth, lowered))
        if truth is None:
            raise NotReady("what was committed while views were lowered does not show yet")
        await self._write(session, truth)

    async def _rest(self, started_at: float) -> None:
        """Rest by the duty, or by another that is given meanwhile."""
        worked_s = time.monotonic() - started_at
        while (left_s := started_at + worked_s / self.duty - time.monotonic()) > 0:
            self._duty_given.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._duty_given.wait(), left_s)


def lower_values(seen: Mapping[str, bytes], truth: Operations) -> dict[str, bytes]:
    """What to put where a view shows more than the truth: b"" for what has no row. An equal identifier is no more."""
    values: dict[str, bytes] = {}
    for key, stored in seen.items():
        value = truth.identifiers.get(key) or truth.accounts.get(key) or truth.views.get(key, b"")
        same = key in truth.identifiers and value[HEADER_SIZE:] == stored[HEADER_SIZE:]
        unknown = not value and truth.failed  # its row may be the one that could not be projected
        if value[:HEADER_SIZE] < stored[:HEADER_SIZE] and not same and not unknown:
            values[key] = value
    return values
