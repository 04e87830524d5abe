"""Load, decide, record: two round trips per batch, and the second one commits.

Nothing is locked meanwhile. A lane decides its members in order; should another node have been
faster, the entry it wrote has the version this batch would write, and the journal's key refuses
the whole statement: then the batch runs again with its accounts locked, and what still conflicts
runs alone. COMMIT is never cancelled (rows no standby has would show); when the connection is
lost in it, nobody knows.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import orjson
import structlog

from command.answer import RenderedEntry
from command.batch import Batch, now_utc
from command.envelope import Answer, Envelope
from command.loaded import Extras, Loaded, entry_of, load_document, pairs
from command.program import NoProgramError, ProgramCache
from command.side import identifiers_of
from rules.command import (
    CancelRedemption,
    ChangeIdentifiers,
    CloseMember,
    Command,
    EnrolMember,
    RecordPurchase,
    RedeemReward,
)
from rules.program import Program
from shard_router.directory import Identifier
from shard_router.errors import ProblemError
from shard_router.pool import CONNECTION_ERRORS, ShardPools, ShardServers, Taken
from shard_router.statement import load_statements

Result = TypeVar("Result")

REFUSED: Final = 400
STATEMENTS: Final = load_statements(Path(__file__).with_name("store.sql"))
LOAD_LOCKED: Final = STATEMENTS["load"].replace("/* lock */", "FOR UPDATE")
ALWAYS_LOCKED: Final = (RedeemReward, CancelRedemption)
"""Commands on a reward's stock: many meet in one row, and waiting for it is cheaper than conflicts."""

_ON_IDENTIFIERS: Final = (ChangeIdentifiers, CloseMember)


class BatchConflictError(Exception):
    """The batch as a whole met a row another node wrote meanwhile: run its commands one by one."""


class LockedError(Exception):
    """A row that the batch needs is locked for long."""


class UnknownOutcomeError(Exception):
    """The connection went away while COMMIT was under way."""


class Store:
    """Runs batches on the primary of one shard.

    A connection that has run a batch well is kept for the next: the pool's way there and back costs a tenth of a batch.
    """

    def __init__(
        self, pools: ShardPools, shard: str, programs: ProgramCache, needs_claim: Callable[[Identifier], bool]
    ) -> None:
        """`needs_claim`: whether another shard may keep the claim of an identifier."""
        self._needs_claim = needs_claim
        self._pools = pools
        self._shard = shard
        self._programs = programs
        self._kept: list[_Line] = []

    async def run(self, envelopes: Sequence[Envelope], *, locked: bool = False) -> list[Answer]:
        """Answer a batch, durably.

        `shard_unavailable` (ProblemError): nothing was done. BatchConflictError: nothing was done, run each alone and
        locked. UnknownOutcomeError: the same keys tell later.
        """
        locked = locked or any(isinstance(envelope.command, ALWAYS_LOCKED) for envelope in envelopes)
        line = await self._line()
        try:
            async with line.servers.heard(line.taken.server):
                run = self._run_locked if locked else self._run
                answers = await run(line, envelopes)
        except LockedError as error:
            await line.give_back()
            if len(envelopes) > 1:
                raise BatchConflictError("somebody holds the lock of one of the members") from error
            raise ProblemError("shard_unavailable", "the member is locked; nothing was done") from error
        except BaseException:
            await line.give_back()
            raise
        self._kept.append(line)
        return answers

    async def close(self) -> None:
        """Give the kept connections back."""
        while self._kept:
            await self._kept.pop().give_back()

    async def _line(self) -> "_Line":
        """A kept connection that still leads to the primary, or a fresh one."""
        while self._kept:
            line = self._kept.pop()
            if line.servers is self._servers and line.servers.still_primary(line.taken.server):
                return line
            await line.give_back()
        return _Line(self._servers, await self._servers.take_primary())

    @property
    def _servers(self) -> ShardServers:
        return self._pools[self._shard]

    async def _run(self, line: "_Line", envelopes: Sequence[Envelope]) -> list[Answer]:
        connection = line.taken.connection
        try:
            batch, _, answers = await self._decide(connection, envelopes, STATEMENTS["load"])
        except Exception as error:
            raise _conflict_or(error) from error
        if batch.writes.has_more:
            transaction = connection.transaction()
            await transaction.start()
            await _in(transaction, _record(connection, batch))
            await _finally(line, transaction.commit())
        elif not batch.writes.empty:
            await _finally(line, _record_and_commit(connection, batch))
        return answers

    async def _run_locked(self, line: "_Line", envelopes: Sequence[Envelope]) -> list[Answer]:
        connection = line.taken.connection
        transaction = connection.transaction()
        await transaction.start()
        answers = await _in(transaction, self._decide_locked(connection, envelopes))
        await _finally(line, transaction.commit())
        return answers

    async def _decide_locked(self, connection: Any, envelopes: Sequence[Envelope]) -> list[Answer]:
        batch, loaded, answers = await self._decide(connection, envelopes, LOAD_LOCKED)
        await _check_refusals(connection, loaded, answers)
        if not batch.writes.empty:
            await _record(connection, batch)
        return answers

    async def due_members(self, limit: int) -> list[int]:
        """Members whom time alone changes now."""
        return [row["member_id"] for row in await self.rows("due_members", now_utc(), limit)]

    async def forget_answers(self, before: Any, limit: int) -> None:
        """Delete some stored answers older than `before`."""
        async with self._servers.primary() as connection:
            await connection.execute(STATEMENTS["forget_answers"], before, limit)

    async def due_errands(self, limit: int) -> list[Any]:
        """Errands that are due, taken for a while."""
        return await self.rows("due_errands", limit)

    async def finish_errand(self, member_id: int, version: int) -> None:
        """Forget an errand that is done."""
        async with self._servers.primary() as connection:
            await connection.execute(STATEMENTS["finish_errand"], member_id, version)

    async def rows(self, statement: str, *arguments: Any) -> list[Any]:
        """All rows of a named statement, read on the primary."""
        async with self._servers.primary() as connection:
            return await connection.fetch(STATEMENTS[statement], *arguments)

    async def value(self, statement: str, *arguments: Any) -> Any:
        """One value of a named statement, read on the primary."""
        async with self._servers.primary() as connection:
            return await connection.fetchval(STATEMENTS[statement], *arguments)

    async def _decide(
        self, connection: Any, envelopes: Sequence[Envelope], load: str
    ) -> tuple[Batch, list[Loaded], list[Answer]]:
        rows = await connection.fetch(load, load_document(envelopes))
        program = await self._programs.get(connection, rows[0]["program_version"])
        loaded = [
            Loaded(envelope, row, await _entry_of_receipt(connection, row))
            for envelope, row in zip(envelopes, rows, strict=True)
        ]
        _check_company(loaded)
        extras = await load_extras(connection, loaded, program)
        extras.programs = {
            version: await self._programs.get(connection, version) for version in _versions_referred_to(loaded)
        }
        batch = Batch(program, extras, self._needs_claim)
        try:
            return batch, loaded, [batch.decide(one) for one in loaded]
        except Exception as error:
            if len(loaded) == 1:
                raise
            raise BatchConflictError(f"a command cannot be written: {type(error).__name__}") from error


def _check_company(loaded: Sequence[Loaded]) -> None:
    """Who changes what a member is found by, or erases him, does so alone: those rows are written from one picture."""
    times = Counter(one.target for one in loaded)
    for one in loaded:
        if isinstance(one.envelope.command, ChangeIdentifiers | CloseMember) and times[one.target] > 1:
            raise BatchConflictError("a member's identifiers change beside other commands of his")


def _versions_referred_to(loaded: Sequence[Loaded]) -> set[int]:
    """The program versions by which redemptions to be cancelled were made."""
    versions = {
        one.row["referred_program_version"] for one in loaded if isinstance(one.envelope.command, CancelRedemption)
    }
    return versions - {None}


async def _record(connection: Any, batch: Batch) -> None:
    """Write a batch inside a transaction."""
    document = batch.writes.document(now_utc()).decode()
    if batch.writes.has_more:
        await connection.execute(STATEMENTS["record_more"], document)
    (counts,) = await connection.fetch(STATEMENTS["record"], document)
    _check(counts, batch)


async def _record_and_commit(connection: Any, batch: Batch) -> None:
    """Write a batch by its one statement, which commits.

    Its counts need no look: all was read in one snapshot, and whatever touches an account or a purchase writes an
    entry, so a change since then meets the journal's key.
    """
    await connection.fetch(STATEMENTS["record"], batch.writes.document(now_utc()).decode())


async def _in(transaction: Any, work: Awaitable[Result]) -> Result:
    """Do work in a transaction, and undo it all when it fails."""
    try:
        return await work
    except BaseException as error:
        with suppress(*CONNECTION_ERRORS, asyncpg.PostgresError):
            await transaction.rollback()
        raise _conflict_or(error) from error


async def _finally(line: "_Line", commit: Awaitable[None]) -> None:
    """Do what commits. What the database refuses was not done; a connection lost in it leaves the outcome unknown."""
    line.wait_was_cancelled = False
    try:
        await commit
    except asyncpg.ReadOnlySQLTransactionError:
        raise  # nothing was done, and the pool must hear that this server is no primary any more
    except CONNECTION_ERRORS as error:
        raise UnknownOutcomeError(type(error).__name__) from error
    except asyncpg.PostgresError as error:
        raise _conflict_or(error) from error
    if line.wait_was_cancelled:
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


class _Line:
    """A connection kept for batches. It hears Postgres warn that it stopped waiting for the standby."""

    def __init__(self, servers: ShardServers, taken: Taken) -> None:
        self.servers = servers
        self.taken = taken
        self.wait_was_cancelled = False
        taken.connection.add_log_listener(self._hear)

    async def give_back(self) -> None:
        with suppress(asyncpg.InterfaceError):
            self.taken.connection.remove_log_listener(self._hear)
        await self.taken.give_back()

    def _hear(self, _connection: Any, message: Any) -> None:
        if "synchronous replication" in str(message.message):
            self.wait_was_cancelled = True
            structlog.get_logger().error("standby_wait_cancelled", message=str(message.message))


async def load_extras(connection: Any, loaded: Sequence[Loaded], program: Program) -> Extras:
    """Ask for what only some commands need; most batches ask nothing here."""
    extras = Extras()
    commands = [(one.target, one.envelope.command) for one in loaded]
    wanted = [name for _, command in commands if isinstance(command, EnrolMember) for name in identifiers_of(command)]
    if wanted:
        rows = await connection.fetch(STATEMENTS["taken_identifiers"], *pairs(wanted))
        extras.taken_identifiers = {(row["kind"], row["value"]) for row in rows}
    purchases = [(target, command) for target, command in commands if isinstance(command, RecordPurchase) and target]
    holds = [(target, version) for target, command in purchases for version in command.capture_holds]
    if holds:
        rows = await connection.fetch(STATEMENTS["kinds_of_entries"], *pairs(holds))
        extras.kinds = {(row["member_id"], row["version"]): row["kind"] for row in rows}
    await _load_identifiers(connection, commands, extras)
    if any(isinstance(command, RedeemReward | CancelRedemption) for _, command in commands):
        stocked = [reward.code for reward in program.rewards.values() if reward.stock is not None]
        rows = await connection.fetch(STATEMENTS["lock_stock"], stocked)
        extras.stock_left = {row["reward"]: row["left"] for row in rows}
    return extras


async def _load_identifiers(connection: Any, commands: Sequence[tuple[int | None, Command]], extras: Extras) -> None:
    changes = [(target, command) for target, command in commands if target and isinstance(command, _ON_IDENTIFIERS)]
    if not changes:
        return
    members = [target for target, _ in changes]
    for row in await connection.fetch(STATEMENTS["identifiers_of_members"], members):
        extras.identifiers.setdefault(row["member_id"], set()).add((row["kind"], row["value"]))
    for row in await connection.fetch(STATEMENTS["profiles"], members):
        extras.profiles[row["member_id"]] = orjson.loads(row["profile"])
    added = [name for _, command in changes if isinstance(command, ChangeIdentifiers) for name in command.add]
    rows = await connection.fetch(STATEMENTS["taken_identifiers"], *pairs(added))
    extras.taken_identifiers |= {(row["kind"], row["value"]) for row in rows}


async def _entry_of_receipt(connection: Any, row: Mapping[str, Any]) -> RenderedEntry | None:
    if row["receipt_version"] is None or row["key_fingerprint"] is not None:
        return None
    member_id, version = row["receipt_member_id"], row["receipt_version"]
    return entry_of(member_id, version, await connection.fetchrow(STATEMENTS["entry_of"], member_id, version))


async def _check_refusals(connection: Any, loaded: Sequence[Loaded], answers: Sequence[Answer]) -> None:
    """Refuse a document only if it is really not recorded yet.

    Another node may have recorded it while this batch waited for the account: the row locked is new then, the look at
    receipts is not.
    """
    refused = [
        one.envelope.receipt
        for one, answer in zip(loaded, answers, strict=True)
        if answer.status >= REFUSED and one.row["receipt_version"] is None
    ]
    names = [receipt.name for receipt in refused if receipt is not None]
    if names and await connection.fetchval(STATEMENTS["receipts_known"], *map(list, zip(*names, strict=True))):
        raise BatchConflictError("a receipt was recorded meanwhile")


def _check(counts: Mapping[str, int], batch: Batch) -> None:
    """Every row must have been as it was read, or nothing of the batch may stand."""
    expected = (len(batch.writes.accounts), batch.writes.count("purchase_change"), batch.writes.count("replay"))
    if (counts["accounts"], counts["purchase_changes"], counts["replays"]) != expected:
        raise BatchConflictError("a row changed between load and record")
