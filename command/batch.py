"""Decides a loaded batch, one command after another with the state threaded: no I/O, no clock.

Two commands of one member in one batch just work, and whatever one command contains, another
member's outcome never depends on it: a command that breaks `decide` is answered `internal`, alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from command.answer import RenderedEntry, accepted, problem_answer, refused, render_entry
from command.envelope import Answer, Envelope, ReceiptKey
from rules.codec import instant_text, parse_state, state_document
from rules.command import EnrolMember, SettleAccount
from rules.decide import Facts, decide
from rules.outcome import Accepted, Decision, Entry, Purchase, Refused
from rules.program import Program
from rules.state import Account
from shard_router.errors import ProblemError

ReceiptName = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class KnownReceipt:
    """Whose entry a receipt belongs to, and the entry when it was asked for."""

    member_id: int
    version: int
    fingerprint: str
    entry: RenderedEntry | None


@dataclass(slots=True)
class Writes:
    """What the `record` statement is given: rows by table."""

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


class Batch:
    """One batch between load and record. `decide` it command by command, then hand `document` to the store."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.writes = Writes()
        self._accounts: dict[int, Account | None] = {}
        self._purchases: dict[tuple[int, int], tuple[Purchase, int]] = {}
        self._receipts: dict[ReceiptName, KnownReceipt] = {}
        self._identifiers: set[tuple[str, str]] = set()
        self._holds_placed: set[tuple[int, int]] = set()

    def know_identifiers(self, taken: set[tuple[str, str]]) -> None:
        """Say which identifiers of new members are taken."""
        self._identifiers |= taken

    def decide(self, envelope: Envelope, row: Mapping[str, Any], entry: RenderedEntry | None) -> Answer:
        """Answer one command from its loaded row; `entry` is what its receipt already made, if it did."""
        if row["key_fingerprint"] is not None:
            return self._replay(envelope, row)
        known = self._known_receipt(envelope, row, entry)
        if known is not None:
            return self._keep(envelope, self._receipt_again(envelope, known, row["target"]))
        try:
            decision = self._decide(envelope, row)
        except Exception:  # noqa: BLE001 - poison is answered alone, whatever it is
            structlog.get_logger().exception("decide_failed", request_id=envelope.request_id)
            return problem_answer(envelope, ProblemError("internal"))
        return self._keep(envelope, self._take(envelope, decision))

    def document(self, answered_at: datetime) -> bytes:
        """The JSON document of everything to write."""
        accounts = [_account_row(account) for account in self.writes.accounts.values()]
        now = instant_text(answered_at)
        for row in self.writes.rows.get("idempotency", ()):
            row["answered_at"] = now
        return orjson.dumps({"account": accounts, **self.writes.rows})

    def _replay(self, envelope: Envelope, row: Mapping[str, Any]) -> Answer:
        if str(row["key_fingerprint"]) != envelope.fingerprint:
            return problem_answer(envelope, ProblemError("idempotency_key_reused"))
        self.writes.add("replay", envelope.key)
        body = row["key_answer"].encode()
        return Answer(row["key_status"], body, row["key_member_id"], row["key_version"], replayed=True)

    def _known_receipt(
        self, envelope: Envelope, row: Mapping[str, Any], entry: RenderedEntry | None
    ) -> KnownReceipt | None:
        if envelope.receipt is None:
            return None
        known = self._receipts.get(_name(envelope.receipt))
        if known is None and row["receipt_version"] is not None:
            fingerprint = str(row["receipt_fingerprint"])
            return KnownReceipt(row["receipt_member_id"], row["receipt_version"], fingerprint, entry)
        return known

    def _receipt_again(self, envelope: Envelope, known: KnownReceipt, target: int | None) -> Answer:
        """The same document under a new key: the first answer again. Anything else is a conflict."""
        same = envelope.receipt is not None and known.fingerprint == envelope.receipt.fingerprint
        if not same or known.member_id != target or known.entry is None:
            return refused(envelope, Refused("receipt_conflict", "this receipt was recorded with other content"))
        return accepted(envelope.command, known.entry, replayed=True)

    def _decide(self, envelope: Envelope, row: Mapping[str, Any]) -> Decision:
        command = envelope.command
        if isinstance(command, EnrolMember):
            taken = [kind for kind, value in identifiers_of(command) if (kind, value) in self._identifiers]
            for kind in (*envelope.taken, *taken):
                refusal = Refused("member_exists", f"there is a member with this {kind}", f"/{kind}")
                return Decision(refusal, (), None)
        target = row["target"]
        if target is None:
            return Decision(Refused("member_not_found", "no such member"), (), None)
        if target not in self._accounts:
            self._accounts[target] = _account(target, row)
        return decide(self._accounts[target], command, self.program, self._facts(target, envelope.reference, row))

    def _facts(self, target: int, reference: int | None, row: Mapping[str, Any]) -> Facts:
        if reference is None:
            return Facts()
        name = (target, reference)
        if name not in self._purchases and row["purchase_version"] is not None:
            self._purchases[name] = (_purchase(row), row["changed_version"])
        purchase = self._purchases.get(name)
        existed = row["referred_kind"] == "hold_placed" or name in self._holds_placed
        return Facts(purchase[0] if purchase else None, existed)

    def _take(self, envelope: Envelope, decision: Decision) -> Answer:
        """Turn a decision into rows to write and an answer."""
        account = decision.account
        for entry in decision.settled:
            self._write_entry(entry)
        if account is not None and decision.entries:
            self._accounts[account.member_id] = account
            self.writes.accounts[account.member_id] = account
        if isinstance(decision.outcome, Refused):
            return refused(envelope, decision.outcome)
        rendered = self._write_entry(decision.outcome.entry)
        self._write_extras(envelope, decision.outcome, rendered)
        return accepted(envelope.command, rendered)

    def _write_entry(self, entry: Entry) -> RenderedEntry:
        rendered = render_entry(entry, self.program)
        self.writes.add(
            "journal",
            {
                "member_id": rendered.member_id,
                "version": rendered.version,
                "kind": entry.kind,
                "program_version": self.program.version,
                "occurred_at": instant_text(entry.occurred_at),
                "recorded_at": instant_text(entry.account.changed_at),
                "store": entry.store,
                "points": entry.points,
                "postings": orjson.Fragment(rendered.postings),
                "detail": entry.detail,
                "account_after": orjson.Fragment(rendered.account_after),
            },
        )
        if entry.kind == "hold_placed":
            self._holds_placed.add((rendered.member_id, rendered.version))
        return rendered

    def _write_extras(self, envelope: Envelope, outcome: Accepted, rendered: RenderedEntry) -> None:
        if isinstance(envelope.command, EnrolMember):
            self._write_member(envelope.command, rendered.version)
        if envelope.receipt:
            self._write_receipt(envelope.receipt, rendered)
        if outcome.purchase:
            self._write_purchase(outcome.purchase, rendered, envelope.receipt)

    def _write_member(self, command: EnrolMember, version: int) -> None:
        member_id, now = command.member_id, instant_text(command.received_at)
        member = {"member_id": member_id, "version": version, "profile": command.profile, "enrolled_at": now}
        self.writes.add("member", member)
        for kind, value in identifiers_of(command):
            row = {"kind": kind, "value": value, "member_id": member_id, "version": version}
            self.writes.add("identifier", row)
            self._identifiers.add((kind, value))

    def _write_receipt(self, receipt: ReceiptKey, entry: RenderedEntry) -> None:
        self._receipts[_name(receipt)] = KnownReceipt(entry.member_id, entry.version, receipt.fingerprint, entry)
        self.writes.add("receipt", {**_receipt_row(receipt), "member_id": entry.member_id, "version": entry.version})

    def _write_purchase(self, purchase: Purchase, entry: RenderedEntry, receipt: ReceiptKey | None) -> None:
        name = (entry.member_id, purchase.version)
        before = self._purchases.get(name)
        self._purchases[name] = (purchase, entry.version)
        row: dict[str, Any] = {
            "member_id": entry.member_id,
            "version": purchase.version,
            "changed_version": entry.version,
            "document": purchase.document,
        }
        if purchase.version == entry.version and receipt:
            date = {"business_date": receipt.business_date.isoformat()}
            times = {"occurred_at": instant_text(purchase.occurred_at)}
            self.writes.add("purchase", row | purchase.receipt | date | times)
        elif before:
            self._write_purchase_change(row, before[1])

    def _write_purchase_change(self, row: dict[str, Any], version_before: int) -> None:
        """The last change in a batch counts; it must meet the row as it was before the whole batch."""
        changes = self.writes.rows.setdefault("purchase_change", [])
        created = self.writes.rows.get("purchase", [])
        same = [one for one in (*created, *changes) if _names(one) == _names(row)]
        if same:
            same[0].update(document=row["document"], changed_version=row["changed_version"])
        else:
            changes.append({**row, "version_before": version_before})

    def _keep(self, envelope: Envelope, answer: Answer) -> Answer:
        """Store the first answer under its key."""
        if envelope.key is not None and not isinstance(envelope.command, SettleAccount):
            self.writes.add(
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
        return answer


def identifiers_of(command: EnrolMember) -> list[tuple[str, str]]:
    """Every (kind, value) by which a new member can be found."""
    optional = [(kind, command.profile.get(kind)) for kind in ("phone", "email")]
    return [("card", command.card), *((kind, value) for kind, value in optional if value)]


def now_utc() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def _account(member_id: int, row: Mapping[str, Any]) -> Account | None:
    if row["version"] is None:
        return None
    totals = {name: row[name] for name in ("spent", "expired", "debt", "issued")}
    state = orjson.loads(row["state"])
    return parse_state(member_id, state, version=row["version"], status=row["status"], totals=totals)


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


def _purchase(row: Mapping[str, Any]) -> Purchase:
    receipt = {name: row[name] for name in ("store", "till", "receipt")}
    return Purchase(row["purchase_version"], receipt, row["occurred_at"], orjson.loads(row["document"]))


def _receipt_row(receipt: ReceiptKey) -> dict[str, Any]:
    return {
        "store": receipt.store,
        "till": receipt.till,
        "business_date": receipt.business_date.isoformat(),
        "receipt": receipt.receipt,
        "kind": receipt.kind,
        "fingerprint": receipt.fingerprint,
    }


def _name(receipt: ReceiptKey) -> ReceiptName:
    return receipt.store, receipt.till, receipt.business_date.isoformat(), receipt.receipt, receipt.kind


def _names(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["member_id"], row["version"]
