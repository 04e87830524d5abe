"""What a batch has loaded: one row per command, and the facts only some commands need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from command.answer import RenderedEntry
from command.envelope import Envelope
from rules.codec import parse_state
from rules.outcome import Purchase
from rules.program import Program
from rules.state import Account


@dataclass(slots=True)
class Extras:
    """Facts beyond the loaded rows; the batch keeps them true while it threads its own changes."""

    taken_identifiers: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    kinds: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    stock_left: dict[str, int] = field(default_factory=dict[str, int])
    identifiers: dict[int, set[tuple[str, str]]] = field(default_factory=dict[int, set[tuple[str, str]]])
    profiles: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    programs: dict[int, Program] = field(default_factory=dict[int, Program])
    """by which redemptions to be cancelled took their stock"""


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


def load_document(envelopes: Sequence[Envelope]) -> str:
    """The one argument of the `load` statement: a JSON row per command, without what a command has not."""
    return orjson.dumps([_load_row(position, envelope) for position, envelope in enumerate(envelopes)]).decode()


def _load_row(position: int, envelope: Envelope) -> dict[str, Any]:
    row: dict[str, Any] = {"position": position, "key": envelope.key}
    if envelope.member_id is not None:
        row["member_id"] = envelope.member_id
    if envelope.identifier is not None:
        row["identifier_kind"], row["identifier_value"] = envelope.identifier
    if envelope.reference is not None:
        row["reference"] = envelope.reference
    if envelope.receipt is not None:
        row["store"], row["till"], row["business_date"], row["receipt"] = envelope.receipt.name[:4]
        row["receipt_kind"] = envelope.receipt.kind
    return row


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
