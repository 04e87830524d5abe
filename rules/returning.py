"""Taking part of a purchase back, pinned to what its lines really earned and to the lots that paid for them."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from rules.codec import instant, instant_text, parse_lots, quantity_text
from rules.command import ReturnPurchase, ReversePurchase
from rules.counting import count_out, is_undone
from rules.detail import ReturnDetail
from rules.document import PurchaseDocument, ReversedDocument, at_home, payment_of
from rules.draft import Draft
from rules.facts import Facts
from rules.outcome import Accepted, NothingToDo, Outcome, Purchase, Reason, Refused
from rules.program import Program
from rules.purchase import receipt_document, wrong_store
from rules.reversal import Reversal, bring_back, came_back_whole, money_back, reverse, thousandths, units
from rules.state import Account, Bucket, Lot, Posting
from rules.tier import fallen

RECEIPT_CONFLICT: Final = "receipt_conflict"
"""Why a purchase was taken back whole: another member had its receipt first."""


def return_purchase(account: Account, command: ReturnPurchase, program: Program, facts: Facts) -> Outcome:
    """Take back what the returned part of each line earned, whatever the program says today.

    The store is one of the version in force when the goods came back, `on_return` that of the purchase's.
    """
    purchase = facts.purchase
    if purchase is None:
        return Refused(Reason.PURCHASE_NOT_FOUND, "no such purchase")
    if purchase.receipt["store"] != command.receipt.store and not program.document.program.cross_store_returns:
        return Refused(Reason.PURCHASE_NOT_FOUND, f"store {command.receipt.store!r} has no such purchase")
    document = _copied(purchase)
    ruling = program.at(command.occurred_at)
    refused = wrong_store(command.receipt, ruling) or bring_back(document["lines"], _returned(command))
    if refused:
        return refused
    slip = _Slip(
        {
            **receipt_document(command.receipt),
            "occurred_at": instant_text(command.occurred_at),
            "lines": [{"line": line, "quantity": units(quantity)} for line, quantity in _returned(command).items()],
        },
        command.occurred_at,
        command.received_at,
        program.at(purchase.occurred_at).points.on_return,
    )
    outcome = _take_back(account, replace(purchase, document=document), slip, program, facts)
    if slip.policy == "refuse" and outcome.entry.detail.get("points_forgiven"):
        return Refused(Reason.INSUFFICIENT_POINTS, "the points of this purchase are spent already")
    return replace(outcome, entry=outcome.entry.decided_by(ruling.version, in_force=program.version))


def reverse_purchase(account: Account, command: ReversePurchase, program: Program, facts: Facts) -> Outcome:
    """Take a purchase back whole because its receipt is another member's; nothing to do where that was done.

    What its points have become is settled as by a return, but nothing can be refused: the basket was never theirs.
    """
    purchase = facts.purchase
    if purchase is None:
        return Refused(Reason.PURCHASE_NOT_FOUND, "no such purchase")
    if is_reversed(purchase.document):
        return NothingToDo()
    document = _copied(purchase)
    left = {line["line"]: thousandths(line["quantity"]) - thousandths(line["returned"]) for line in document["lines"]}
    for line in document["lines"]:
        line["returned"] = line["quantity"]
    slip = _Slip(
        {
            **purchase.receipt,
            "occurred_at": instant_text(command.received_at),
            "lines": [{"line": line, "quantity": units(quantity)} for line, quantity in left.items() if quantity],
            "why": RECEIPT_CONFLICT,
        },
        command.received_at,
        command.received_at,
        program.at(purchase.occurred_at).points.on_return,
    )
    return _take_back(account, replace(purchase, document=document), slip, program, facts)


def is_reversed(document: PurchaseDocument) -> bool:
    """Whether a purchase was taken back because its receipt is another member's."""
    return any(one.get("why") == RECEIPT_CONFLICT for one in document["returns"])


@dataclass(frozen=True, slots=True)
class _Slip:
    """What is told of a return but for its points, its two times, and what becomes of points that are missing."""

    told: dict[str, Any]
    occurred_at: datetime
    received_at: datetime
    policy: str


def _copied(purchase: Purchase) -> PurchaseDocument:
    document = purchase.document.copy()
    document["lines"] = [line.copy() for line in document["lines"]]
    return document


def _take_back(account: Account, purchase: Purchase, slip: _Slip, program: Program, facts: Facts) -> Accepted:
    """Undo what the quantities that came back stand for; they are in the purchase's document already."""
    assert facts.purchase is not None
    document = purchase.document
    home, money_before = document.get("home"), money_back(facts.purchase.document)
    reversal = reverse(document)
    draft = Draft(account)
    given = _give_back(draft, document, reversal, slip.received_at, program)
    taken = reversal.taken.items()
    forgiven = sum(_reverse(draft, points, reason, document, slip.policy) for reason, points in taken)
    undone = sum(reversal.taken.values())
    lapsed = sum(posting.points for posting in draft.postings if posting.source is Bucket.EXPIRED)
    told: ReversedDocument = {"points_reversed": undone - forgiven}
    if given:
        told["points_returned"] = given
    if forgiven:
        told["points_forgiven"] = forgiven
    returned: Any = {"version": draft.version, **slip.told, **told}
    document["returns"] = [*document["returns"], returned]
    change = {
        "points": undone,
        "amount": at_home(home, money_back(document)) - at_home(home, money_before),
        "purchases": int(came_back_whole(document) and not came_back_whole(facts.purchase.document)),
    }
    counted = count_out(draft.counters, purchase, change, program)
    draft.tier, draft.counters = fallen(account, counted, program, slip.received_at)
    detail: ReturnDetail = {"purchase": purchase.version}
    if change["purchases"]:
        detail = _detail(purchase, facts, slip.policy)
    if given or forgiven or lapsed:
        detail = {**told, **detail}
    if "why" in slip.told:
        detail["why"] = slip.told["why"]
    entry = draft.entry(
        "purchase_returned",
        occurred_at=slip.occurred_at,
        recorded_at=slip.received_at,
        points=given + forgiven + lapsed - undone,
        store=slip.told["store"],
        detail=detail,
    )
    return Accepted(entry, purchase)


def _detail(purchase: Purchase, facts: Facts, on_return: str) -> ReturnDetail:
    """When nothing of a purchase is left, it never happened, and whom it thanked gives that back."""
    detail: ReturnDetail = {"purchase": purchase.version}
    if is_undone(purchase.document):
        detail["undone"] = True
    if facts.referral:
        detail["referral_return"] = {
            "referrer": facts.referral["referrer"],
            "points": facts.referral["points"],
            "purchase": purchase.version,
            "on_return": on_return,
        }
    return detail


def _returned(command: ReturnPurchase) -> Counter[int]:
    """Thousandths that came back, by line."""
    returned = Counter[int]()
    for line in command.lines:
        returned[line.line] += thousandths(quantity_text(line.quantity))
    return returned


def _give_back(draft: Draft, document: PurchaseDocument, reversal: Reversal, now: datetime, program: Program) -> int:
    """Points that paid come back first, so that what is taken next finds them."""
    lots = parse_lots(payment_of(document)["lots"])
    back = [Lot(points, lots[index].expires_at) for index, points in reversal.given.items() if points]
    return draft.give_back(back, "paid_returned", now, program)


def _reverse(draft: Draft, points: int, reason: str, document: PurchaseDocument, on_return: str) -> int:
    """First what is still pending of the purchase, then what was its lot; tells what is missing.

    Where the policy is debt, nothing is.
    """
    left = points - _reverse_pending(draft, points, reason, document)
    left = draft.take_back(left, instant(document["expires_at"]), reason)
    if on_return != "debt":
        return left
    draft.post(Posting(left, Bucket.DEBT, Bucket.PROGRAM, reason))
    return 0


def _reverse_pending(draft: Draft, points: int, reason: str, document: PurchaseDocument) -> int:
    """Pending points are known by the day they activate; their expiry is the purchase's, or a later one by renewal."""
    available_at, expires_at = instant(document["available_at"]), instant(document["expires_at"])
    if available_at is None:
        return 0
    lots = [lot for lot in draft.account.lots if lot.available_at == available_at]
    own = [lot for lot in lots if lot.expires_at == expires_at]
    renewed = [lot for lot in lots if lot.expires_at and expires_at and lot.expires_at > expires_at]
    left = points
    for lot in own + renewed:
        moved = min(left, lot.points)
        draft.post(Posting(moved, Bucket.PENDING, Bucket.PROGRAM, reason, lot.expires_at, available_at))
        left -= moved
    return points - left
