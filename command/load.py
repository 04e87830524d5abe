"""What a batch reads before it decides: one row per command, and the facts that only some commands need."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from command.claim import Claims
from command.columns import MANY, OF, RowStatement
from command.envelope import Envelope, ReceiptName
from command.record import identifiers_of
from rules.codec import parse_state
from rules.command import (
    CancelRedemption,
    ChangeIdentifiers,
    CloseMember,
    Command,
    EnrolMember,
    RecordPurchase,
    RedeemReward,
    SendTransfer,
)
from rules.document import ReceiptDocument
from rules.guess import guessed
from rules.outcome import Purchase
from rules.program import Program
from rules.state import Account
from rules.stored import full_purchase
from rules.value import value
from service.stored_answer import RenderedEntry
from shard_router.directory import Identifier
from shard_router.pool import Connection
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("load.sql"))
_OPTIONAL_COLUMNS: Final = ("key", "identifier_kind", "reference", "receipt")
OPTIONAL: Final = (*_OPTIONAL_COLUMNS, "birthday")
"""What only some commands ask with; of buyers' birthdays a program asks."""
_LOAD: Final = RowStatement(STATEMENTS["load"])
_LOCK: Final = RowStatement(STATEMENTS["lock_accounts"])
LOCK_ACCOUNTS: Final = _LOCK.of_rows()
_SHOWN: Final = re.compile(r" AS (\w+),")
_NO_DOCUMENT: Final = (None,) * 6
_ON_IDENTIFIERS: Final = (ChangeIdentifiers, CloseMember)
_ON_STOCK: Final = (RedeemReward, CancelRedemption)


class NamedEntry(NamedTuple):
    """What a command must know of an earlier entry that it names: its kind, where it was made, a redemption's code."""

    kind: str
    store: str | None
    code: str | None = None


@dataclass(slots=True)
class Extras:
    """Facts beyond the loaded rows; the batch keeps them true while it threads its own changes."""

    taken_identifiers: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    former: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    entries: dict[tuple[int, int], NamedEntry] = field(default_factory=dict[tuple[int, int], NamedEntry])
    wrong_guesses: dict[tuple[int, int], list[datetime]] = field(default_factory=dict[tuple[int, int], list[datetime]])
    enrolled_at: dict[int, datetime] = field(default_factory=dict[int, datetime])
    stock_left: dict[str, int] = field(default_factory=dict[str, int])
    identifiers: dict[int, set[tuple[str, str]]] = field(default_factory=dict[int, set[tuple[str, str]]])
    profiles: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    programs: dict[int, Program] = field(default_factory=dict[int, Program])
    """by which redemptions to be cancelled took their stock"""


@value
class KnownReceipt:
    """Whose entry a receipt belongs to, the fingerprint (hex) of its content, and the entry.

    No entry: it is that of another shard's member, who has claimed the receipt here. `is_lost`: it is another member's
    after all, and the purchase was taken back.
    """

    member_id: int
    version: int
    fingerprint: str
    entry: RenderedEntry | None
    is_lost: bool = False


@dataclass(slots=True)
class Loaded:
    """A command with its row, the dates of its receipt (see ReceiptKey), and what that receipt already made.

    `answered`: the entry whose answer is stored under its key. `target`: the member it is for. `receipt_name`: the
    natural key under which its document is recorded.
    """

    envelope: Envelope
    row: Mapping[str, Any]
    dates: tuple[date, ...]
    recorded: KnownReceipt | None = None
    answered: RenderedEntry | None = None
    target: int | None = field(init=False)
    receipt_name: ReceiptName | None = field(init=False)

    def __post_init__(self) -> None:
        receipt = self.envelope.receipt
        self.target = self.row["target"]
        self.receipt_name = receipt.on(self.dates[0]) if receipt else None


async def load(
    connection: Connection, envelopes: Sequence[Envelope], program: Program, *, locked: bool
) -> list[Loaded]:
    """Read a row per command, in their order and in one snapshot; `locked` keeps the accounts for this transaction.

    `program` dates the receipts: should a row tell of a newer version, they have to be read again under that.
    """
    dates = [envelope.receipt.dates(program) if envelope.receipt else () for envelope in envelopes]
    commands = list(map(_command_row, range(len(envelopes)), envelopes, dates))
    columns = dict(zip(_LOAD.names, zip(*commands, strict=True), strict=True))
    asked = [name for name in _OPTIONAL_COLUMNS if columns[name].count(None) < len(commands)]
    if program.asks_birthday and "receipt" in asked:
        asked.append("birthday")
    if locked:
        await connection.execute(LOCK_ACCOUNTS, *(columns[name] for name in _LOCK.names))
    one = len(commands) == 1
    rows = await connection.fetch(load_statement((*asked,), one=one), *(commands[0] if one else columns.values()))
    return list(map(Loaded, envelopes, rows, dates))


@cache
def load_statement(asked: tuple[str, ...], *, one: bool) -> str:
    """`load` for commands that ask with these of OPTIONAL, and no others; few mixes of them ever occur."""
    lines: list[str] = []
    for line in STATEMENTS["load"].splitlines():
        text, _, part = line.partition(OF)
        if not part or part in asked:
            lines.append(text)
        elif part == MANY:
            lines.append(line)
        elif text.endswith(","):
            lines.append(" ".join(f"NULL AS {name}," for name in _SHOWN.findall(text)))
    statement = RowStatement("\n".join(lines))
    return statement.of_one() if one else statement.of_rows()


def _command_row(position: int, envelope: Envelope, dates: tuple[date, ...]) -> tuple[Any, ...]:
    """What `load` is asked about one command, in the order of its columns."""
    receipt, identifier = envelope.receipt, envelope.identifier or (None, None)
    document = receipt.on(dates[0]) if receipt else _NO_DOCUMENT
    return (position, envelope.key, envelope.member_id, *identifier, envelope.reference, *document)


def account_of(loaded: Loaded) -> Account | None:
    """The account in a loaded row; None when the member does not exist."""
    row = loaded.row
    if row["version"] is None or loaded.target is None:
        return None
    totals = {name: row[name] for name in ("spent", "expired", "debt", "issued")}
    totals["incarnation"] = row["incarnation"] or 0
    state = orjson.loads(row["state"])
    return parse_state(loaded.target, state, version=row["version"], status=row["status"], totals=totals)


def purchase_of(row: Mapping[str, Any]) -> Purchase:
    """The purchase in a loaded row."""
    receipt: ReceiptDocument = {"store": row["store"], "till": row["till"], "receipt": row["receipt"]}
    return Purchase(row["purchase_version"], receipt, row["occurred_at"], full_purchase(orjson.loads(row["document"])))


def pairs(names: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Two arrays of a list of pairs."""
    listed = list(names)
    return [first for first, _ in listed], [second for _, second in listed]


async def load_extras(connection: Connection, loaded: Sequence[Loaded], program: Program, claims: Claims) -> Extras:
    """Ask for what only some commands need; most batches ask nothing here."""
    extras = Extras()
    commands = [(one.target, one.envelope.command) for one in loaded if _asks_more(one.envelope.command)]
    if not commands:
        return extras
    wanted = [name for _, command in commands if isinstance(command, EnrolMember) for name in identifiers_of(command)]
    await _load_taken(connection, wanted, claims, extras)
    purchases = [(target, command) for target, command in commands if isinstance(command, RecordPurchase) and target]
    holds = [(target, version) for target, command in purchases for version in command.capture_holds]
    if holds:
        rows = await connection.fetch(STATEMENTS["entries_named"], *pairs(holds))
        extras.entries = {(row["member_id"], row["version"]): NamedEntry(row["kind"], row["store"]) for row in rows}
    guesses = [(target, what) for target, command in commands if target and (what := guessed(command)) is not None]
    if guesses:
        rows = await connection.fetch(STATEMENTS["wrong_guesses"], *pairs(guesses))
        extras.wrong_guesses = {(row["member_id"], row["version"]): row["guessed_at"] for row in rows}
    senders = [target for target, command in commands if target and isinstance(command, SendTransfer)]
    if senders and program.transfers.min_account_days:
        rows = await connection.fetch(STATEMENTS["enrolled_at"], senders)
        extras.enrolled_at = {row["member_id"]: row["enrolled_at"] for row in rows}
    await _load_identifiers(connection, commands, extras)
    added = [name for _, command in commands if isinstance(command, ChangeIdentifiers) for name in command.add]
    await _load_taken(connection, added, claims, extras)
    if any(isinstance(command, _ON_STOCK) for _, command in commands):
        stocked = [reward.code for reward in program.rewards.values() if reward.stock is not None]
        rows = await connection.fetch(STATEMENTS["lock_stock"], stocked)
        extras.stock_left = {row["reward"]: row["left"] for row in rows}
    return extras


def _asks_more(command: Command) -> bool:
    """Whether a command may need more than its row: a basket does only for its holds."""
    return not isinstance(command, RecordPurchase) or bool(command.capture_holds)


async def _load_taken(connection: Connection, names: Sequence[Identifier], claims: Claims, extras: Extras) -> None:
    """Learn which identifiers members here have, and which cards of this shard had one who left lately."""
    if not names:
        return
    hashes = [[] if claims.needs_claim(name) else claims.hashes(name) for name in names]
    wanted = [(*name, text) for name, texts in zip(names, hashes, strict=True) for text in texts or [None]]
    for row in await connection.fetch(STATEMENTS["taken_identifiers"], *map(list, zip(*wanted, strict=True))):
        if row["taken"]:
            extras.taken_identifiers.add((row["kind"], row["value"]))
        if row["former"]:
            extras.former.add((row["kind"], row["value"]))


async def _load_identifiers(
    connection: Connection, commands: Sequence[tuple[int | None, Command]], extras: Extras
) -> None:
    changes = [(target, command) for target, command in commands if target and isinstance(command, _ON_IDENTIFIERS)]
    if not changes:
        return
    members = [target for target, _ in changes]
    for row in await connection.fetch(STATEMENTS["identifiers_of_members"], members):
        extras.identifiers.setdefault(row["member_id"], set()).add((row["kind"], row["value"]))
    for row in await connection.fetch(STATEMENTS["profiles"], members):
        extras.profiles[row["member_id"]] = orjson.loads(row["profile"])
