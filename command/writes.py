"""Everything a batch writes, by table, as the one JSON document the `record` statement takes."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from command.answer import RenderedEntry
from command.envelope import Answer, Envelope
from rules.codec import instant_text, state_document
from rules.outcome import Entry
from rules.state import Account

COMMON: Final = frozenset({"journal", "purchase", "purchase_change", "receipt", "idempotency", "replay"})
"""Tables of the `record` statement; all others belong to `record_more`."""


@dataclass(slots=True)
class Writes:
    """Rows by table; accounts apart, because only a member's last state is written."""

    accounts: dict[int, Account] = field(default_factory=dict[int, Account])
    rows: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    def add(self, table: str, row: Any) -> None:
        """Add one row."""
        self.rows.setdefault(table, []).append(row)

    def count(self, table: str) -> int:
        """How many rows a table gets."""
        return len(self.rows.get(table, ()))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.rows and not self.accounts

    @property
    def has_more(self) -> bool:
        """Whether there are rows for `record_more`."""
        return not COMMON.issuperset(self.rows)

    def add_entry(self, entry: Entry, rendered: RenderedEntry, program_version: int) -> None:
        """Add one entry of the journal."""
        self.add(
            "journal",
            {
                "member_id": rendered.member_id,
                "version": rendered.version,
                "kind": entry.kind,
                "program_version": program_version,
                "occurred_at": instant_text(entry.occurred_at),
                "recorded_at": instant_text(entry.account.changed_at),
                "store": entry.store,
                "points": entry.points,
                "postings": orjson.Fragment(rendered.postings),
                "detail": rendered.detail,
                "account_after": orjson.Fragment(rendered.account_after),
            },
        )

    def add_answer(self, envelope: Envelope, answer: Answer) -> None:
        """Add the first answer under a key."""
        self.add(
            "idempotency",
            {
                "key": envelope.key,
                "member_id": answer.member_id or envelope.member_id,
                "version": answer.version,
                "credential": envelope.credential,
                "fingerprint": envelope.fingerprint,
                "status": answer.status,
                "answer": orjson.Fragment(answer.body),
            },
        )

    def document(self, answered_at: datetime) -> bytes:
        """The JSON document of everything to write."""
        now = instant_text(answered_at)
        for row in self.rows.get("idempotency", ()):
            row["answered_at"] = now
        if "replay" in self.rows:
            self.rows["replay"].sort()
        # In one order, so that two batches that update the same rows never wait for each other in a circle.
        accounts = [_account_row(self.accounts[member_id]) for member_id in sorted(self.accounts)]
        return orjson.dumps({"account": accounts, **self.rows})


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
        "state": state_document(account),
        "due_at": instant_text(account.due_at),
    }
