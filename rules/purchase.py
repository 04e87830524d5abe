"""Recording a purchase, and taking part of it back pinned to what its lines really earned."""

from collections import Counter
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rules.codec import instant, instant_text, quantity_text
from rules.command import Line, Receipt, RecordPurchase, ReturnPurchase
from rules.draft import Draft
from rules.earn import Component, earn, reversed_points
from rules.outcome import Accepted, Outcome, Purchase, Refused
from rules.program import Program
from rules.state import Account, Bucket, Posting


def record_purchase(account: Account, command: RecordPurchase, program: Program) -> Outcome:
    """Earn on a basket. A basket so late that its points have expired earns and expires in one entry."""
    refused = _wrong_store(command.receipt, program) or _wrong_currency(command, program)
    if refused:
        return refused
    components = earn(command.lines, program)
    expires_at = program.expires_at(command.occurred_at)
    available_at = _still_ahead(program.available_at(command.occurred_at), command.received_at)
    draft = Draft(account)
    for component in components:
        draft.earn(component.points, component.reason, expires_at=expires_at, available_at=available_at)
    if expires_at and expires_at <= command.received_at:
        _expire_at_once(draft, expires_at)
    points = sum(component.points for component in components)
    entry = draft.entry(
        "purchase_recorded",
        occurred_at=command.occurred_at,
        recorded_at=command.received_at,
        points=points,
        store=command.receipt.store,
    )
    document = {
        "currency": command.currency,
        "amount": sum(line.amount for line in command.lines),
        "points_earned": points,
        "expires_at": instant_text(expires_at),
        "available_at": instant_text(available_at),
        "lines": [_line_document(index, line, components) for index, line in enumerate(command.lines)],
        "explanation": [{"reason": component.reason, "points": component.points} for component in components],
        "returns": [],
    }
    return Accepted(entry, Purchase(entry.version, _receipt_document(command.receipt), command.occurred_at, document))


def return_purchase(account: Account, command: ReturnPurchase, purchase: Purchase, program: Program) -> Outcome:
    """Take back what the returned part of each line earned, whatever the program says today."""
    refused = _wrong_store(command.receipt, program)
    if refused:
        return refused
    document = dict(purchase.document, lines=[dict(line) for line in purchase.document["lines"]])
    returned = Counter[int]()
    for line in command.lines:
        returned[line.line] += line.quantity  # pyright: ignore[reportArgumentType] - counts decimals as well
    reversals = Counter[str]()
    for number, quantity in returned.items():
        refused = _return_line(document["lines"], number, Decimal(quantity), reversals)
        if refused:
            return refused
    draft = Draft(account)
    for reason, points in reversals.items():
        if not _reverse(draft, points, reason, document=document, on_return=program.points.on_return):
            return Refused("insufficient_points", "the points of this purchase are spent already")
    points = sum(reversals.values())
    entry = draft.entry(
        "purchase_returned",
        occurred_at=command.occurred_at,
        recorded_at=command.received_at,
        points=-points,
        store=command.receipt.store,
        detail={"purchase": purchase.version},
    )
    document["returns"] = [*document["returns"], _return_document(command, entry.version, points, returned)]
    return Accepted(entry, Purchase(purchase.version, purchase.receipt, purchase.occurred_at, document))


def _return_line(
    lines: list[dict[str, Any]], number: int, quantity: Decimal, reversals: Counter[str]
) -> Refused | None:
    if not 1 <= number <= len(lines):
        return Refused("return_exceeds_purchase", f"the purchase has no line {number}", "/lines")
    line = lines[number - 1]
    bought, returned = Fraction(line["quantity"]), Fraction(line["returned"]) + Fraction(quantity)
    if returned > bought:
        told = f"{line['quantity']} bought, {line['returned']} returned before, {quantity_text(quantity)} now"
        return Refused("return_exceeds_purchase", f"line {number}: {told}", "/lines")
    line["returned"] = quantity_text(Decimal(line["returned"]) + quantity)
    line["reversed"] = dict(line["reversed"])
    for reason, attributed in line["earned"].items():
        before = line["reversed"].get(reason, 0)
        points = reversed_points(attributed, returned=returned, quantity=bought, reversed_before=before)
        line["reversed"][reason] = before + points
        reversals[reason] += points
    return None


def _reverse(draft: Draft, points: int, reason: str, *, document: dict[str, Any], on_return: str) -> bool:
    """First what is still pending of the purchase, then its lot, then first to expire first, then the policy."""
    expires_at, available_at = instant(document["expires_at"]), instant(document["available_at"])
    left = points
    if available_at:
        left -= _reverse_lot(
            draft, left, Bucket.PENDING, Posting(1, Bucket.PENDING, Bucket.PROGRAM, reason, expires_at, available_at)
        )
    left -= _reverse_lot(
        draft, left, Bucket.AVAILABLE, Posting(1, Bucket.AVAILABLE, Bucket.PROGRAM, reason, expires_at)
    )
    left -= draft.take(left, Bucket.PROGRAM, reason)
    if left and on_return == "debt":
        draft.post(Posting(left, Bucket.DEBT, Bucket.PROGRAM, reason))
    return not left or on_return != "refuse"


def _reverse_lot(draft: Draft, points: int, source: Bucket, shape: Posting) -> int:
    there = sum(
        lot.points
        for lot in draft.account.lots
        if lot.expires_at == shape.expires_at and lot.available_at == shape.available_at
    )
    moved = min(points, there)
    draft.post(Posting(moved, source, shape.target, shape.reason, shape.expires_at, shape.available_at))
    return moved


def _expire_at_once(draft: Draft, expires_at: datetime) -> None:
    lot = next((lot for lot in draft.account.available_lots if lot.expires_at == expires_at), None)
    if lot:
        draft.post(Posting(lot.points, Bucket.AVAILABLE, Bucket.EXPIRED, "expired", expires_at))


def _still_ahead(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment and moment > now else None


def _wrong_store(receipt: Receipt, program: Program) -> Refused | None:
    if receipt.store in program.stores:
        return None
    return Refused("unknown_store", f"the program has no store {receipt.store!r}", "/store")


def _wrong_currency(command: RecordPurchase, program: Program) -> Refused | None:
    if command.currency == program.currency:
        return None
    return Refused("malformed", f"this program counts in {program.currency}, not {command.currency}", "/currency")


def _receipt_document(receipt: Receipt) -> dict[str, str]:
    return {"store": receipt.store, "till": receipt.till, "receipt": receipt.receipt}


def _line_document(index: int, line: Line, components: list[Component]) -> dict[str, Any]:
    earned = {component.reason: component.attributed[index] for component in components if component.attributed[index]}
    return {
        "line": index + 1,
        "sku": line.sku,
        "quantity": quantity_text(line.quantity),
        "amount": line.amount,
        "category": line.category,
        "points": sum(earned.values()),
        "earned": earned,
        "returned": "0",
        "reversed": {},
    }


def _return_document(command: ReturnPurchase, version: int, points: int, returned: Counter[int]) -> dict[str, Any]:
    return {
        "version": version,
        **_receipt_document(command.receipt),
        "occurred_at": instant_text(command.occurred_at),
        "points_reversed": points,
        "lines": [{"line": line, "quantity": quantity_text(Decimal(quantity))} for line, quantity in returned.items()],
    }
