"""One transaction per batch, two statements: load (with the locks) and record. Between them the batch decides.

COMMIT is never cancelled: with a synchronous standby that would show rows no standby has. When the
connection is lost after COMMIT was sent nobody knows the outcome, and the answers say so.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Final, Self

import asyncpg
import orjson
import structlog

from command.answer import RenderedEntry
from command.batch import Batch, now_utc
from command.envelope import Answer, Envelope
from command.loaded import Extras, Loaded, entry_of, load_arguments, pairs
from command.program import NoProgramError, ProgramCache
from command.side import identifiers_of
from rules.command import CancelRedemption, ChangeIdentifiers, Command, EnrolMember, RecordPurchase, RedeemReward
from rules.program import Program
from shard_router.errors import ProblemError
from shard_router.pool import CONNECTION_ERRORS, ShardServers
from shard_router.statement import load_statements

REFUSED: Final = 400
STATEMENTS: Final = load_statements(Path(__file__).with_name("store.sql"))


class BatchConflictError(Exception):
    """The batch as a whole met a row another node wrote meanwhile: run its commands one by one."""


class UnknownOutcomeError(Exception):
    """The connection went away while COMMIT was under way."""


class Store:
    """Runs batches on the primary of one shard."""

    def __init__(self, servers: ShardServers, programs: ProgramCache) -> None:
        self._servers = servers
        self._programs = programs

    async def run(self, envelopes: Sequence[Envelope]) -> list[Answer]:
        """Answer a batch, durably.

        `shard_unavailable` (ProblemError): nothing was done. BatchConflictError: nothing was done, run singly.
        UnknownOutcomeError: the same keys tell later.
        """
        async with self._servers.primary() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                answers = await self._decide(connection, envelopes)
            except BaseException as error:
                with suppress(*CONNECTION_ERRORS, asyncpg.PostgresError):
                    await transaction.rollback()
                raise _conflict_or(error) from error
            await _commit(connection, transaction)
            return answers

    async def due_members(self, limit: int) -> list[int]:
        """Members whom time alone changes now."""
        async with self._servers.primary() as connection:
            rows = await connection.fetch(STATEMENTS["due_members"], now_utc(), limit)
            return [row["member_id"] for row in rows]

    async def forget_answers(self, before: Any, limit: int) -> None:
        """Delete some stored answers older than `before`."""
        async with self._servers.primary() as connection:
            await connection.execute(STATEMENTS["forget_answers"], before, limit)

    async def due_errands(self, limit: int) -> list[Any]:
        """Errands that are due, taken for a while."""
        async with self._servers.primary() as connection:
            return await connection.fetch(STATEMENTS["due_errands"], limit)

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

    async def _decide(self, connection: Any, envelopes: Sequence[Envelope]) -> list[Answer]:
        rows = await connection.fetch(STATEMENTS["load"], *load_arguments(envelopes))
        program = await self._programs.get(connection, rows[0]["program_version"])
        loaded = [
            Loaded(envelope, row, await _entry_of_receipt(connection, row))
            for envelope, row in zip(envelopes, rows, strict=True)
        ]
        batch = Batch(program, await load_extras(connection, loaded, program))
        answers = [batch.decide(one) for one in loaded]
        await _check_refusals(connection, loaded, answers)
        if not batch.writes.empty:
            document = batch.writes.document(now_utc()).decode()
            if batch.writes.has_more:
                await connection.execute(STATEMENTS["record_more"], document)
            counts = await connection.fetchrow(STATEMENTS["record"], document)
            _check(counts, batch)
        return answers


def _conflict_or(error: BaseException) -> BaseException:
    """What the database says of a row or a value is about one command; the rest of the batch may go on alone."""
    mine = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.TransactionRollbackError)
    if isinstance(error, mine):
        return BatchConflictError(str(error))
    if isinstance(error, asyncpg.QueryCanceledError | asyncpg.LockNotAvailableError):
        return ProblemError("shard_unavailable", "the shard is too slow; nothing was done")
    if isinstance(error, NoProgramError):
        return ProblemError("shard_unavailable", str(error))
    return error


async def _commit(connection: Any, transaction: Any) -> None:
    with _SyncWatch(connection) as watch:
        try:
            await transaction.commit()
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            raise UnknownOutcomeError(type(error).__name__) from error
        if watch.wait_was_cancelled:
            raise UnknownOutcomeError("the wait for the standby was cancelled")


class _SyncWatch:
    """Listens for the warning by which Postgres says that it stopped waiting for the standby."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.wait_was_cancelled = False

    def __enter__(self) -> Self:
        self._connection.add_log_listener(self._hear)
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(asyncpg.InterfaceError):
            self._connection.remove_log_listener(self._hear)

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
    if purchases and program.asks_birth_date:
        rows = await connection.fetch(STATEMENTS["birth_dates"], [target for target, _ in purchases])
        extras.birth_dates = {
            row["member_id"]: date.fromisoformat(row["birth_date"]) for row in rows if row["birth_date"]
        }
    await _load_identifiers(connection, commands, extras)
    if any(isinstance(command, RedeemReward | CancelRedemption) for _, command in commands):
        stocked = [reward.code for reward in program.rewards.values() if reward.stock is not None]
        rows = await connection.fetch(STATEMENTS["lock_stock"], stocked)
        extras.stock_left = {row["reward"]: row["left"] for row in rows}
    return extras


async def _load_identifiers(connection: Any, commands: Sequence[tuple[int | None, Command]], extras: Extras) -> None:
    changes = [(target, command) for target, command in commands if isinstance(command, ChangeIdentifiers) and target]
    if not changes:
        return
    members = [target for target, _ in changes]
    for row in await connection.fetch(STATEMENTS["identifiers_of_members"], members):
        extras.identifiers.setdefault(row["member_id"], set()).add((row["kind"], row["value"]))
    for row in await connection.fetch(STATEMENTS["profiles"], members):
        extras.profiles[row["member_id"]] = orjson.loads(row["profile"])
    added = [name for _, command in changes for name in command.add]
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
