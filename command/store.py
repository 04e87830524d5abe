"""Load, decide, record: two round trips per batch, and the second one commits.

Nothing is locked meanwhile. A lane decides its members in order; should another node have been
faster, the entry it wrote has the version this batch would write, and the journal's key refuses
the whole statement: then the batch runs again with its accounts locked, and what still conflicts
runs alone. COMMIT is never cancelled (rows no standby has would show); when the connection is
lost in it, nobody knows.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import prometheus_client
import structlog

from command.batch import Batch
from command.claim import Claims
from command.envelope import Answer, Envelope
from command.load import Loaded, load, load_extras
from command.program import NoProgramError, ProgramCache
from command.record import record
from command.recorded import find_answered, find_recorded
from command.turn import each
from rules.command import (
    CancelRedemption,
    ChangeIdentifiers,
    CloseMember,
    EnrolMember,
    RedeemReward,
    UseRedemption,
)
from rules.program import Program
from shard_router.clock import ShardClock
from shard_router.errors import ProblemError, SlotGivenError
from shard_router.pool import CONNECTION_ERRORS, Connection, ShardPools, ShardServers, Taken
from shard_router.statement import load_statements

Result = TypeVar("Result")

DEBT_WRITTEN_OFF: Final = prometheus_client.Counter(
    "loyalty_debt_written_off_points", "Points that erased members owed.", registry=None
)
"""Counted once it is durable."""

STATEMENTS: Final = load_statements(Path(__file__).with_name("store.sql"))
ALWAYS_LOCKED: Final = (RedeemReward, UseRedemption, CancelRedemption)
"""Commands on a reward's stock: many meet in one row, and waiting for it is cheaper than conflicts. And those that may
show a code: two nodes must not count the guesses at it each for itself."""

ALONE: Final = (ChangeIdentifiers, CloseMember)

LATE_MAX_S: Final = 4.0
"""So long after its deadline, at most, a command that gives an identifier has written it: well before the lease ends
(shard_router.directory.LEASE_S), after which another member may be given it."""


class BatchConflictError(Exception):
    """The batch as a whole met a row another node wrote meanwhile, and did nothing: run it locked, see lane."""


class LockedError(Exception):
    """A row that the batch needs is locked for long."""


class UnknownOutcomeError(Exception):
    """The connection went away while COMMIT was under way."""


class Store:
    """Runs batches on the primary of one shard.

    A connection that has run a batch well is kept for the next: the pool's way there and back costs a tenth of a batch.
    """

    def __init__(self, pools: ShardPools, shard: str, programs: ProgramCache, claims: Claims) -> None:
        """`claims` tells which identifiers other shards may keep, and what is kept of those that go."""
        self._claims = claims
        self._pools = pools
        self._shard = shard
        self._programs = programs
        self._kept: list[_KeptConnection] = []
        self._program: Program | None = None
        self._begun: int | None = None

    async def run(
        self, envelopes: Sequence[Envelope], *, locked: bool = False, decided: Callable[[], None] | None = None
    ) -> list[Answer]:
        """Answer a batch, durably. `decided` is called when only writing it is left.

        `shard_unavailable` (ProblemError): nothing was done. BatchConflictError: nothing was done, run it again locked,
        and then each command alone. UnknownOutcomeError: the same keys tell later.
        """
        locked = locked or any(isinstance(envelope.command, ALWAYS_LOCKED) for envelope in envelopes)
        kept = await self._connection()
        try:
            envelopes = _dated(envelopes, kept.servers.clock)
            async with kept.servers.heard(kept.taken.server):
                run = self._run_locked if locked else self._run
                answers = await run(kept, envelopes, decided or _nobody_listens)
        except LockedError as error:
            await kept.give_back()
            if len(envelopes) > 1:
                raise BatchConflictError("somebody holds the lock of one of the members") from error
            raise ProblemError("shard_unavailable", "the member is locked; nothing was done") from error
        except SlotGivenError as error:
            await kept.give_back()
            if len(envelopes) > 1:
                raise BatchConflictError(error.detail) from error
            raise
        except BaseException:
            await kept.give_back()
            raise
        self._kept.append(kept)
        return answers

    def now(self) -> datetime:
        """The shard's time (see ShardClock)."""
        return self._servers.clock.now()

    async def close(self) -> None:
        """Give the kept connections back."""
        while self._kept:
            await self._kept.pop().give_back()

    async def _connection(self) -> "_KeptConnection":
        """A kept connection that still leads to the primary and was not ended there, or a fresh one."""
        while self._kept:
            kept = self._kept.pop()
            leads_there = kept.servers is self._servers and kept.servers.still_primary(kept.taken.server)
            if leads_there and kept.is_alive:
                return kept
            await kept.give_back()
        return _KeptConnection(self._servers, await self._servers.take_primary())

    @property
    def _servers(self) -> ShardServers:
        return self._pools[self._shard]

    async def _run(
        self, kept: "_KeptConnection", envelopes: Sequence[Envelope], decided: Callable[[], None]
    ) -> list[Answer]:
        connection = kept.taken.connection
        try:
            batch, answers = await self._decide(connection, envelopes, locked=False)
        except Exception as error:
            raise _conflict_or(error) from error
        decided()
        if batch.writes.has_more:
            transaction = connection.transaction()
            await transaction.start()
            await _in(transaction, _record(connection, batch, envelopes))
            await _finally(kept, transaction.commit())
        elif not batch.writes.empty:
            await _finally(kept, _record_and_commit(connection, batch))
        DEBT_WRITTEN_OFF.inc(batch.debt_written_off)
        return answers

    async def _run_locked(
        self, kept: "_KeptConnection", envelopes: Sequence[Envelope], decided: Callable[[], None]
    ) -> list[Answer]:
        connection = kept.taken.connection
        transaction = connection.transaction()
        await transaction.start()
        batch, answers = await _in(transaction, self._decide_locked(connection, envelopes))
        decided()
        await _finally(kept, transaction.commit())
        DEBT_WRITTEN_OFF.inc(batch.debt_written_off)
        return answers

    async def _decide_locked(self, connection: Connection, envelopes: Sequence[Envelope]) -> tuple[Batch, list[Answer]]:
        batch, answers = await self._decide(connection, envelopes, locked=True)
        if not batch.writes.empty:
            await _record(connection, batch, envelopes)
        return batch, answers

    async def due_members(self, limit: int) -> list[int]:
        """Members whom time alone changes now."""
        return [row["member_id"] for row in await self._look("due_members", self.now(), limit)]

    async def forget_answers(self, before: Any, limit: int) -> int:
        """Delete some stored answers older than `before`, as many as it tells."""
        async with self._servers.look() as connection:
            told = await connection.execute(STATEMENTS["forget_answers"], before, limit)
        return int(told.removeprefix("DELETE "))

    async def due_errands(self, limit: int) -> list[Any]:
        """Errands that are due, taken for a while."""
        return await self._look("due_errands", limit)

    async def finish_errand(self, member_id: int, version: int) -> None:
        """Forget an errand that is done."""
        async with self._servers.primary() as connection:
            await connection.execute(STATEMENTS["finish_errand"], member_id, version)

    async def rows(self, statement: str, *arguments: Any) -> list[Any]:
        """All rows of a named statement, read on the primary."""
        async with self._servers.primary() as connection:
            return await connection.fetch(STATEMENTS[statement], *arguments)

    async def _look(self, statement: str, *arguments: Any) -> list[Any]:
        async with self._servers.look() as connection:
            return await connection.fetch(STATEMENTS[statement], *arguments)

    async def value(self, statement: str, *arguments: Any) -> Any:
        """One value of a named statement, read on the primary."""
        async with self._servers.primary() as connection:
            return await connection.fetchval(STATEMENTS[statement], *arguments)

    async def _load(
        self, connection: Connection, envelopes: Sequence[Envelope], *, locked: bool
    ) -> tuple[Program, list[Loaded]]:
        """Read what a batch needs, and the program in force with the versions of its instants.

        The version that dates receipts is the one known here; a batch that meets a newer one is read again under it.
        """
        known = self._program or await self._programs.in_force(connection)
        moments = {one.receipt.occurred_at for one in envelopes if one.receipt and one.receipt.occurred_at}
        while True:
            program = await self._programs.covering(connection, known, moments)
            loaded = await load(connection, envelopes, program, locked=locked)
            version = loaded[0].row["program_version"]
            self._program = in_force = await self._programs.get(connection, version)
            if version != self._begun:
                await self._programs.begin(connection, version)
                self._begun = None if locked else version  # where it is locked a transaction runs, that may be undone
            if in_force is known:
                bought = {one.row["occurred_at"] for one in loaded if one.row["occurred_at"]}
                return await self._programs.covering(connection, known, moments | bought), loaded
            known = in_force

    async def _decide(
        self, connection: Connection, envelopes: Sequence[Envelope], *, locked: bool
    ) -> tuple[Batch, list[Answer]]:
        program, loaded = await self._load(connection, envelopes, locked=locked)
        _check_company(loaded)
        await find_answered(connection, loaded)
        await find_recorded(connection, program, loaded)
        extras = await load_extras(connection, loaded, program, self._claims)
        extras.programs = {
            version: await self._programs.get(connection, version) for version in _versions_referred_to(loaded)
        }
        batch = Batch(program, extras, self._claims)
        try:
            return batch, await each(batch.decide, loaded)
        except Exception as error:
            if len(loaded) == 1:
                raise
            raise BatchConflictError(f"a command cannot be written: {type(error).__name__}") from error


def _dated(envelopes: Sequence[Envelope], clock: ShardClock) -> Sequence[Envelope]:
    """The commands with the shard's time in the place of the node's. `shard_unavailable` when that is far off.

    None was received after now: where the node's clock says so, it was set back since, and now is as good as is known.
    """
    ahead, now = clock.ahead(), clock.now()
    if ahead is None and all(one.command.received_at <= now for one in envelopes):
        return envelopes
    times = [min(one.command.received_at - (ahead or timedelta()), now) for one in envelopes]
    return [
        replace(one, command=replace(one.command, received_at=at)) for one, at in zip(envelopes, times, strict=True)
    ]


def _nobody_listens() -> None:
    """What `decided` is for those who run one batch after another."""


def _check_company(loaded: Sequence[Loaded]) -> None:
    """BatchConflictError where a command that changes what a member is found by, or erases them, has company."""
    alone = [one.target for one in loaded if isinstance(one.envelope.command, ALONE)]  # their rows need one picture
    if alone:
        times = Counter(one.target for one in loaded)
        if any(times[target] > 1 for target in alone):
            raise BatchConflictError("a member's identifiers change beside other commands of theirs")


def _versions_referred_to(loaded: Sequence[Loaded]) -> set[int]:
    """The program versions by which redemptions to be cancelled were made."""
    versions = {
        one.row["referred_program_version"] for one in loaded if isinstance(one.envelope.command, CancelRedemption)
    }
    return versions - {None}


async def _record(connection: Connection, batch: Batch, envelopes: Sequence[Envelope]) -> None:
    """Write a batch inside a transaction, which must not commit identifiers that others may have been given by now.

    Until it ends, whoever asks for them waits. So it is enough that they were written while their leases lasted: this
    process may have been stopped before, and a statement have been under way for as long as a network was cut.
    """
    _check(await record(connection, batch.writes, datetime.now(UTC)), batch)
    if "identifier" in batch.writes.rows and any(_is_late(one) for one in envelopes):
        raise BatchConflictError("what was leased for a member may be another's by now")


def _is_late(envelope: Envelope) -> bool:
    gives = isinstance(envelope.command, (EnrolMember, ChangeIdentifiers))
    return gives and time.monotonic() > envelope.deadline + LATE_MAX_S


async def _record_and_commit(connection: Connection, batch: Batch) -> None:
    """Write a batch by its one statement, which commits.

    Its counts need no look: all was read in one snapshot, and whatever touches an account or a purchase writes an
    entry, so a change since then meets the journal's key.
    """
    await record(connection, batch.writes, datetime.now(UTC), counted=False)


async def _in(transaction: Any, work: Awaitable[Result]) -> Result:
    """Do work in a transaction, and undo it all when it fails."""
    try:
        return await work
    except BaseException as error:
        with suppress(*CONNECTION_ERRORS, asyncpg.PostgresError):
            await transaction.rollback()
        raise _conflict_or(error) from error


async def _finally(kept: "_KeptConnection", commit: Awaitable[None]) -> None:
    """Do what commits. What the database refuses was not done; a connection lost in it leaves the outcome unknown."""
    kept.wait_was_cancelled = False
    try:
        await commit
    except asyncpg.ReadOnlySQLTransactionError:
        raise  # nothing was done, and the pool must hear that this server is no primary any more
    except CONNECTION_ERRORS as error:
        raise UnknownOutcomeError(type(error).__name__) from error
    except asyncpg.PostgresError as error:
        raise _conflict_or(error) from error
    if kept.wait_was_cancelled:
        raise UnknownOutcomeError("the wait for the standby was cancelled")


def _conflict_or(error: BaseException) -> BaseException:
    """What the database says of a row or a value is about one command; the rest of the batch may go on alone."""
    mine = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.TransactionRollbackError)
    if isinstance(error, mine):
        # Its words may quote what a member is found by, which no log may show.
        return BatchConflictError(f"{type(error).__name__} {getattr(error, 'constraint_name', None) or ''}".strip())
    if isinstance(error, asyncpg.LockNotAvailableError):
        return LockedError()
    if isinstance(error, asyncpg.QueryCanceledError):
        return ProblemError("shard_unavailable", "the shard is too slow; nothing was done")
    if isinstance(error, NoProgramError):
        return ProblemError("shard_unavailable", str(error))
    return error


class _KeptConnection:
    """A connection kept for batches. It hears Postgres warn that it stopped waiting for the standby."""

    def __init__(self, servers: ShardServers, taken: Taken) -> None:
        self.servers = servers
        self.taken = taken
        self.wait_was_cancelled = False
        taken.connection.add_log_listener(self._hear)

    @property
    def is_alive(self) -> bool:
        """Whether its session was not ended by the server; one that was is no connection of the pool any more."""
        with suppress(asyncpg.InterfaceError):
            return not self.taken.connection.is_closed()
        return False

    async def give_back(self) -> None:
        with suppress(asyncpg.InterfaceError):
            self.taken.connection.remove_log_listener(self._hear)
        await self.taken.give_back()

    def _hear(self, _connection: Connection, message: Any) -> None:
        if "synchronous replication" in str(message.message):
            self.wait_was_cancelled = True
            structlog.get_logger().error("standby_wait_cancelled", message=str(message.message))


def _check(counts: Mapping[str, int], batch: Batch) -> None:
    """Every row must have been as it was read, or nothing of the batch may stand."""
    if any(counts.get(table, 0) != count for table, count in batch.writes.changes.items()):
        raise BatchConflictError("a row changed between load and record")
