"""What a batch has loaded: one row per command, and the facts only some commands need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import orjson

from command.answer import RenderedEntry
from command.envelope import Envelope
from rules.codec import parse_state
from rules.outcome import Purchase
from rules.state import Account


@dataclass(slots=True)
class Extras:
    """Facts beyond the loaded rows; the batch keeps them true while it threads its own changes."""

    taken_identifiers: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    kinds: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    birth_dates: dict[int, date] = field(default_factory=dict[int, date])
    stock_left: dict[str, int] = field(default_factory=dict[str, int])
    identifiers: dict[int, set[tuple[str, str]]] = field(default_factory=dict[int, set[tuple[str, str]]])
    profiles: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Loaded:
    """A command with its row; `entry` is what its receipt already made, if it did."""

    envelope: Envelope
    row: Mapping[str, Any]
    entry: RenderedEntry | None

    @property
    def target(self) -> int | None:
        """The member the command is for."""
        return self.row["target"]


def load_arguments(envelopes: Sequence[Envelope]) -> tuple[list[Any], ...]:
    """The arrays of the `load` statement, in its order."""
    receipts = [envelope.receipt for envelope in envelopes]
    return (
        [envelope.key for envelope in envelopes],
        [envelope.member_id for envelope in envelopes],
        [envelope.identifier and envelope.identifier[0] for envelope in envelopes],
        [envelope.identifier and envelope.identifier[1] for envelope in envelopes],
        [envelope.reference for envelope in envelopes],
        [receipt and receipt.store for receipt in receipts],
        [receipt and receipt.till for receipt in receipts],
        [receipt and receipt.business_date for receipt in receipts],
        [receipt and receipt.receipt for receipt in receipts],
        [receipt and receipt.kind for receipt in receipts],
    )


def account_of(loaded: Loaded) -> Account | None:
    """The account in a loaded row; None when the member does not exist."""
    row = loaded.row
    if row["version"] is None or loaded.target is None:
        return None
    totals = {name: row[name] for name in ("spent", "expired", "debt", "issued")}
    state = orjson.loads(row["state"])
    return parse_state(loaded.target, state, version=row["version"], status=row["status"], totals=totals)


def purchase_of(row: Mapping[str, Any]) -> Purchase:
    """The purchase in a loaded row."""
    receipt = {name: row[name] for name in ("store", "till", "receipt")}
    return Purchase(row["purchase_version"], receipt, row["occurred_at"], orjson.loads(row["document"]))


def entry_of(member_id: int, version: int, row: Mapping[str, Any]) -> RenderedEntry:
    """The entry of a journal row."""
    return RenderedEntry(
        member_id,
        version,
        row["points"],
        row["postings"].encode(),
        orjson.loads(row["detail"]),
        row["account_after"].encode(),
    )


def pairs(names: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Two arrays of a list of pairs."""
    listed = list(names)
    return [first for first, _ in listed], [second for _, second in listed]
