"""What a batch writes: rows by table, handed to the `record` statement as columns."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import orjson

from command.answer import problem_answer
from command.columns import RowStatement
from command.envelope import Answer, Envelope, ReceiptName
from command.slot import enter_slots
from rules.codec import instant_text, state_row
from rules.command import (
    CancelRedemption,
    CancelTransfer,
    ChangeIdentifiers,
    CloseMember,
    EnrolMember,
    RecordPurchase,
    RedeemReward,
    RevokeTransfer,
    SendTransfer,
    SettleTransfer,
)
from rules.outcome import Entry, Purchase
from rules.program import Program
from rules.state import Account
from rules.stored import short_account, short_postings, short_purchase
from service.stored_answer import LEFT_OUT, RenderedEntry
from shard_router.errors import ProblemError
from shard_router.member_id import format_member_id
from shard_router.pool import Connection
from shard_router.statement import load_statements

_STATEMENTS: Final = load_statements(Path(__file__).with_name("record.sql"))
_RECEIPT_KEY: Final = ("store", "till", "business_date", "receipt", "kind", "subject")
COMMON: Final = (
    "account",
    "account_change",
    "journal",
    "purchase",
    "purchase_change",
    "receipt",
    "unclaimed_receipt",
    "idempotency",
    "replay",
)
"""What `record` writes; all else is `record_more`'s."""
COUNTED: Final = ("account_change", "purchase_change", "replay")
_PARTS: Final = {table: RowStatement(_STATEMENTS[table]) for table in COMMON}
_FIRST: Final = "account_change"
_COUNT: Final = "\nRETURNING 1"


@dataclass(slots=True)
class Writes:
    """Rows by table; accounts apart, because only a member's last state is written."""

    accounts: dict[int, Account] = field(default_factory=dict[int, Account])
    rows: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    slots_entered: set[int] = field(default_factory=set[int])
    """The slots of enrolments, be they accepted or not: written only where they are still this shard's (see slot)."""

    def add(self, table: str, row: Any) -> None:
        """Add one row."""
        self.rows.setdefault(table, []).append(row)

    @property
    def changes(self) -> dict[str, int]:
        """How many rows must be as they had been read, by the part that changes them."""
        counts = {table: len(self.rows.get(table, ())) for table in COUNTED}
        return counts | {"account_change": len(self.accounts.keys() - self._new_members)}

    @property
    def _new_members(self) -> set[int]:
        return {row["member_id"] for row in self.rows.get("member", ())}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.rows and not self.accounts

    @property
    def has_more(self) -> bool:
        """Whether more than one statement is needed."""
        return bool(self.slots_entered) or not self.rows.keys() <= set(COMMON)

    def add_entry(self, entry: Entry, rendered: RenderedEntry, program_version: int) -> None:
        """Add one entry of the journal."""
        self.add(
            "journal",
            {
                "member_id": rendered.member_id,
                "version": rendered.version,
                "kind": entry.kind,
                "program_version": program_version,
                "occurred_at": entry.occurred_at,
                "recorded_at": entry.account.changed_at,
                "store": entry.store,
                "points": entry.points,
                "postings": short_postings(rendered.postings),
                "detail": {name: told for name, told in rendered.detail.items() if name not in LEFT_OUT},
                "account_after": short_account(rendered.account),
            },
        )

    def add_guess(self, member_id: int, version: int, guessed_at: datetime) -> None:
        """Add a wrong guess (see rules.guess)."""
        row = {"member_id": member_id, "version": version, "guessed_at": instant_text(guessed_at)}
        self.add("wrong_guess", row)

    def add_answer(self, envelope: Envelope, answer: Answer) -> None:
        """Add the first answer under a key."""
        self.add(
            "idempotency",
            {
                "key": envelope.key,
                "member_id": answer.member_id or envelope.member_id,
                "version": answer.version,
                "credential": envelope.credential,
                "fingerprint": envelope.fingerprint.text,
                "status": answer.status,
                "answer": orjson.Fragment(answer.stored or answer.body),
            },
        )

    def tables(self, answered_at: datetime) -> dict[str, list[Any]]:
        """The rows of each table of `record` that has some.

        In one order, so that two batches that meet in several rows or keys never wait for each other in a circle.
        """
        rows = self.rows
        for row in rows.get("idempotency", ()):
            row["answered_at"] = answered_at
        rows.get("idempotency", []).sort(key=itemgetter("key"))
        for table in ("receipt", "receipt_again"):
            rows.get(table, []).sort(key=itemgetter(*_RECEIPT_KEY))
        accounts = [_account_row(self.accounts[member_id]) for member_id in sorted(self.accounts)]
        new = self._new_members
        found = {
            **rows,
            "account": [row for row in accounts if row["member_id"] in new],
            "account_change": [row for row in accounts if row["member_id"] not in new],
            "replay": [{"key": key} for key in sorted(rows.get("replay", ()))],
        }
        return {table: found[table] for table in COMMON if found.get(table)}

    def more_tables(self) -> dict[str, list[Any]]:
        """Those of `record_more`, whose argument is one JSON document because few of its tables have rows."""
        return {table: rows for table, rows in self.rows.items() if table not in COMMON}


@cache
def record_statement(tables: tuple[str, ...], *, one: bool = False, counted: bool = True) -> str:
    """The statement that writes some tables, in COMMON's order; few mixes of them ever occur.

    `one`: a single row of each. What is not `counted` costs less. Either way PostgreSQL changes the accounts first: for
    whatever is written afterwards a batch may wait for another one, but that one waits for no account.
    """
    parts: dict[str, str] = {}
    first = 1
    for table in tables:
        parts[table] = _PARTS[table].of_one(first) if one else _PARTS[table].of_rows(first)
        first += len(_PARTS[table])
    counts = (f"(SELECT count(*) FROM {table}_written) AS {table}" for table in tables if table in COUNTED)  # noqa: S608 - our own names
    main = f"SELECT {', '.join(counts)}"
    if not counted and _FIRST in parts:
        main = parts.pop(_FIRST).removesuffix(_COUNT)
    beside = ", ".join(f"{table}_written AS (\n{text}\n)" for table, text in parts.items())
    return f"WITH {beside}\n{main}" if beside else main


async def record(
    connection: Connection, writes: Writes, answered_at: datetime, *, counted: bool = True
) -> Mapping[str, int]:
    """Write it all; when `counted`, tell by table how many of the rows to be changed were as they had been read.

    Outside of a transaction the statement commits, so there must be no rows for `record_more`.
    """
    if writes.slots_entered:
        await enter_slots(connection, writes.slots_entered)
    rows = writes.tables(answered_at)
    counts: Mapping[str, int] = {}
    if rows:
        one = max(map(len, rows.values())) == 1
        arguments: list[Any] = []
        for table, of_table in rows.items():
            arguments += _PARTS[table].values(of_table[0]) if one else _PARTS[table].columns(of_table)
        found = await connection.fetch(record_statement(tuple(rows), one=one, counted=counted), *arguments)
        counts = dict(found[0]) if found else {}
    if more := writes.more_tables():
        await connection.execute(_STATEMENTS["record_more"], orjson.dumps(more).decode())
    return counts


def write_side(writes: Writes, envelope: Envelope, entry: RenderedEntry, program: Program) -> None:
    """Add the rows a command's entry brings with it, apart from its purchase.

    `program` is the one by which stock was taken: for a cancelled redemption that of the redemption.
    """
    command = envelope.command
    match command:
        case RecordPurchase():  # the most of them, so they are asked for first
            pass
        case EnrolMember():
            _write_member(writes, command, entry.version)
        case RedeemReward(reward=reward, quantity=quantity):
            _write_stock(writes, reward, quantity, program)
        case CancelRedemption():
            _write_stock(writes, entry.detail["reward"], -entry.detail["quantity"], program)
        case SendTransfer() | SettleTransfer() | CancelTransfer() | RevokeTransfer():
            _write_transfer(writes, command, entry)
        case CloseMember():
            _write_erasure(writes, envelope, entry)
        case _:
            pass
    for kind in ("referral", "referral_return"):
        if kind in entry.detail:
            _write_errand(writes, entry, kind, entry.detail[kind])


def write_identifiers(
    writes: Writes, envelope: Envelope, entry: RenderedEntry, profile: dict[str, Any], has: Container[tuple[str, str]]
) -> None:
    """Add what changes with a member's identifiers; `profile` shows the newest of each kind and is kept true.

    What they have already stays as it is when it is added once more.
    """
    command = envelope.command
    if not isinstance(command, ChangeIdentifiers):
        return
    for kind, value in command.remove:
        writes.add("identifier_removed", {"kind": kind, "value": value, "member_id": entry.member_id})
        if profile.get(kind) == value:
            del profile[kind]
    for kind, value in command.add:
        if (kind, value) not in has:
            row = {"kind": kind, "value": value, "member_id": entry.member_id, "version": entry.version}
            writes.add("identifier", row)
        if not (command.respells and kind in profile):
            profile[kind] = value
    row = {"member_id": entry.member_id, "version": entry.version, "profile": dict(profile)}
    writes.add("member_change", row)


def write_release(
    writes: Writes, entry: RenderedEntry, claims: Iterable[tuple[str, str]], forget_at: datetime | None
) -> None:
    """Add the errand that frees identifiers whose claims other shards keep; until `forget_at` they are remembered."""
    document: dict[str, Any] = {"identifiers": sorted(map(list, claims))}
    if forget_at:
        document["forget_at"] = instant_text(forget_at)
    if document["identifiers"]:
        _write_errand(writes, entry, "release", document)


def write_purchase(
    writes: Writes, purchase: Purchase, entry: RenderedEntry, *, business_date: date | None, version_before: int | None
) -> None:
    """Add a new purchase, or the change of one; `version_before` is what the row must still show."""
    row: dict[str, Any] = {
        "member_id": entry.member_id,
        "version": purchase.version,
        "changed_version": entry.version,
        "document": short_purchase(purchase.document),
    }
    if purchase.version == entry.version:
        times = {"business_date": business_date, "occurred_at": purchase.occurred_at}
        writes.add("purchase", row | purchase.receipt | times)
    elif version_before is not None:
        _write_purchase_change(writes, row, version_before)


def identifiers_of(command: EnrolMember) -> list[tuple[str, str]]:
    """Every (kind, value) by which a new member can be found."""
    profile = command.profile | {"card": command.card}
    return [(kind, profile[kind]) for kind in ("card", "phone", "email") if profile.get(kind)]


def receipt_row(name: ReceiptName) -> dict[str, Any]:
    """A receipt's key as columns."""
    return dict(zip(_RECEIPT_KEY, name, strict=True))


def _account_row(account: Account) -> dict[str, Any]:
    return {
        "member_id": account.member_id,
        "version": account.version,
        "status": account.status,
        "available": account.available,
        "pending": account.pending,
        "held": account.held,
        "spent": account.spent,
        "expired": account.expired,
        "debt": account.debt,
        "issued": account.issued,
        "state": state_row(account),
        "due_at": account.due_at,
    }


def _write_member(writes: Writes, command: EnrolMember, version: int) -> None:
    member_id, now = command.member_id, instant_text(command.received_at)
    member = {"member_id": member_id, "version": version, "profile": command.profile, "enrolled_at": now}
    writes.add("member", member)
    for kind, value in identifiers_of(command):
        writes.add("identifier", {"kind": kind, "value": value, "member_id": member_id, "version": version})


def _write_stock(writes: Writes, reward: str, change: int, program: Program) -> None:
    known = program.rewards.get(reward)
    if known is not None and known.stock is not None:
        writes.add("stock", {"reward": reward, "change": change})


def _write_transfer(
    writes: Writes, command: SendTransfer | SettleTransfer | CancelTransfer | RevokeTransfer, entry: RenderedEntry
) -> None:
    match command:
        case SendTransfer():
            _write_errand(writes, entry, "transfer", entry.detail)
        case RevokeTransfer():
            # Unknown again: should its sender's entry come back by another restore, it is delivered anew.
            row = {"store": format_member_id(command.sender), "receipt": str(command.transfer), "kind": "transfer"}
            writes.add("receipt_removed", {**row, "member_id": entry.member_id, "version": command.received})
        case _:
            writes.add("errand_done", {"member_id": entry.member_id, "version": command.transfer})


def _write_errand(writes: Writes, entry: RenderedEntry, kind: str, document: Mapping[str, Any]) -> None:
    row = {"member_id": entry.member_id, "version": entry.version, "kind": kind, "document": document}
    writes.add("errand", row)


def _write_erasure(writes: Writes, envelope: Envelope, entry: RenderedEntry) -> None:
    """Erase at once what this shard has. Stored answers that show identifiers become what a late command gets."""
    closed = problem_answer(envelope, ProblemError("member_closed"))
    answer = {"status": closed.status, "answer": orjson.Fragment(closed.body)}
    writes.add("erase", {"member_id": entry.member_id, "version": entry.version, **answer})


def _write_purchase_change(writes: Writes, row: dict[str, Any], version_before: int) -> None:
    """The last change in a batch counts; it must meet the row as it was before the whole batch."""
    changes = writes.rows.setdefault("purchase_change", [])
    created = writes.rows.get("purchase", [])
    name = (row["member_id"], row["version"])
    same = [one for one in (*created, *changes) if (one["member_id"], one["version"]) == name]
    if same:
        same[0].update(document=row["document"], changed_version=row["changed_version"])
    else:
        changes.append({**row, "version_before": version_before})
