"""What an accepted entry writes beside the journal: members, receipts, purchases, stock, errands, erasure."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from command.answer import RenderedEntry, problem_answer
from command.envelope import Envelope, ReceiptKey
from command.writes import Writes
from rules.codec import instant_text
from rules.command import (
    CancelRedemption,
    CancelTransfer,
    ChangeIdentifiers,
    CloseMember,
    EnrolMember,
    RedeemReward,
    SendTransfer,
    SettleTransfer,
)
from rules.outcome import Purchase
from rules.program import Program
from shard_router.errors import ProblemError


def write_side(writes: Writes, envelope: Envelope, entry: RenderedEntry, program: Program) -> None:
    """Add the rows a command's entry brings with it, apart from its purchase.

    `program` is the one by which stock was taken: for a cancelled redemption that of the redemption.
    """
    command = envelope.command
    if envelope.receipt:
        row = receipt_row(envelope.receipt)
        writes.add("receipt", {**row, "member_id": entry.member_id, "version": entry.version})
    match command:
        case EnrolMember():
            _write_member(writes, command, entry.version)
        case RedeemReward(reward=reward, quantity=quantity):
            _write_stock(writes, reward, quantity, program)
        case CancelRedemption():
            _write_stock(writes, entry.detail["reward"], -entry.detail["quantity"], program)
        case SendTransfer():
            _write_errand(writes, entry, "transfer", entry.detail)
        case SettleTransfer(transfer=version) | CancelTransfer(transfer=version):
            writes.add("errand_done", {"member_id": entry.member_id, "version": version})
        case CloseMember():
            _write_erasure(writes, envelope, entry)
        case _:
            pass
    if "referral" in entry.detail:
        _write_errand(writes, entry, "referral", entry.detail["referral"])


def write_identifiers(writes: Writes, envelope: Envelope, entry: RenderedEntry, profile: dict[str, Any]) -> None:
    """Add what changes with a member's identifiers; `profile` shows the newest of each kind and is kept true."""
    command = envelope.command
    if not isinstance(command, ChangeIdentifiers):
        return
    for kind, value in command.remove:
        writes.add("identifier_removed", {"kind": kind, "value": value, "member_id": entry.member_id})
        if profile.get(kind) == value:
            del profile[kind]
    for kind, value in command.add:
        row = {"kind": kind, "value": value, "member_id": entry.member_id, "version": entry.version}
        writes.add("identifier", row)
        profile[kind] = value
    row = {"member_id": entry.member_id, "version": entry.version, "profile": dict(profile)}
    writes.add("member_change", row)


def write_release(writes: Writes, entry: RenderedEntry, claims: Iterable[tuple[str, str]]) -> None:
    """Add the errand that frees identifiers whose claims other shards keep."""
    identifiers = sorted(map(list, claims))
    if identifiers:
        _write_errand(writes, entry, "release", {"identifiers": identifiers})


def write_purchase(
    writes: Writes, purchase: Purchase, entry: RenderedEntry, *, receipt: ReceiptKey | None, version_before: int | None
) -> None:
    """Add a new purchase, or the change of one; `version_before` is what the row must still show."""
    row: dict[str, Any] = {
        "member_id": entry.member_id,
        "version": purchase.version,
        "changed_version": entry.version,
        "document": purchase.document,
    }
    if purchase.version == entry.version and receipt:
        date = {"business_date": receipt.business_date.isoformat()}
        times = {"occurred_at": instant_text(purchase.occurred_at)}
        writes.add("purchase", row | purchase.receipt | date | times)
    elif version_before is not None:
        _write_purchase_change(writes, row, version_before)


def identifiers_of(command: EnrolMember) -> list[tuple[str, str]]:
    """Every (kind, value) by which a new member can be found."""
    profile = command.profile | {"card": command.card}
    return [(kind, profile[kind]) for kind in ("card", "phone", "email") if profile.get(kind)]


def receipt_row(receipt: ReceiptKey) -> dict[str, Any]:
    """A receipt's own columns."""
    return {
        "store": receipt.store,
        "till": receipt.till,
        "business_date": receipt.business_date.isoformat(),
        "receipt": receipt.receipt,
        "kind": receipt.kind,
        "fingerprint": receipt.fingerprint,
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
