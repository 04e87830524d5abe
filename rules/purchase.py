"""Recording a purchase: pay with points, earn, count, maybe reach a tier; one entry for all of it.

The purchase's document keeps what returns, answers and explanations need later, whatever the
program says then: what each line earned for which reason, which lots paid for it, what was counted.
"""

from collections.abc import Sequence
from datetime import datetime

from rules import counters
from rules.codec import instant_text, lots_document, quantity_text
from rules.command import Line, Receipt, RecordPurchase
from rules.counting import count
from rules.currency import Currency
from rules.detail import PurchaseDetail
from rules.document import LineDocument, PurchaseDocument, ReceiptDocument, explained_rows
from rules.draft import Draft
from rules.earn import Component, Earning, earn, ran, share
from rules.facts import Facts
from rules.offer import Basket, Offer, out_of_window, used_up
from rules.outcome import Accepted, Entry, Outcome, Purchase, Reason, Refused
from rules.payment import Payment, paid_amounts, pay
from rules.program import Program
from rules.state import Account
from rules.tier import risen


def record_purchase(account: Account, command: RecordPurchase, program: Program, facts: Facts) -> Outcome:
    """Earn on a basket, as the version in force at its instant says. A basket may come so late that its points expire.

    Limits and tiers are of the member's state, so they are those of `program`, which is in force now.
    """
    ruling = program.at(command.occurred_at)
    refused, currency = wrong_store(command.receipt, ruling), ruling.currencies.get(command.currency)
    if refused or currency is None:
        return refused or _wrong_currency(command, ruling)
    draft, store = Draft(account), command.receipt.store
    payment = pay(draft, command, currency, program, facts)
    if isinstance(payment, Refused):
        return payment
    paid = paid_amounts(command, payment) if payment.points else (0,) * len(command.lines)
    basket = _basket(account, command, ruling, paid, facts)
    coupons = _coupons(command, basket, currency)
    if isinstance(coupons, Refused):
        return coupons
    referral = _referral(basket, ruling, currency)
    earning = earn(basket, currency, coupons, referral.get("newcomer", 0), limits=program.points.limits)
    expires_at = draft.expires_at(ruling, basket.local, store)
    available_at = _still_ahead(ruling.available_at(basket.local, store), command.received_at)
    parts = [(component.points, component.reason) for component in earning.components]
    draft.earn_all(parts, expires_at, available_at, command.received_at)
    if earning.points or payment.points:
        draft.keep_alive(program, command.occurred_at, store)
    draft.counters, noted = count(draft.counters, basket, earning, program, program.business_date(command.received_at))
    draft.tier, draft.counters = risen(account, draft.counters, program, command.received_at, store)
    entry = _entry(draft, command, payment, earning, referral)
    document = _document(command, earning, payment, paid, (expires_at, available_at))
    document["counted"] = noted
    if currency.abroad:
        document["home"] = currency.abroad
    receipt = receipt_document(command.receipt)
    entry = entry.decided_by(ruling.version, in_force=program.version)
    return Accepted(entry, Purchase(entry.version, receipt, command.occurred_at, document), earning.explained)


def _basket(account: Account, command: RecordPurchase, program: Program, paid: Sequence[int], facts: Facts) -> Basket:
    amounts = tuple([line.amount - part for line, part in zip(command.lines, paid, strict=True)])
    local = program.at_store(command.receipt.store, command.occurred_at)
    return Basket(
        command.lines,
        amounts,
        sum(amounts),
        program.currencies[command.currency].abroad,
        command.receipt.store,
        program.tiers[program.rank(account.tier.code)].code,
        command.occurred_at,
        local,
        local.date(),
        facts.birth_date,
        account.counters,
    )


def _coupons(command: RecordPurchase, basket: Basket, currency: Currency) -> list[Offer] | Refused:
    """The coupons shown; one that is unknown, over, used up or shown twice refuses the purchase."""
    offers: list[Offer] = []
    for index, code in enumerate(command.coupons):
        offer = currency.coupons.get(code.upper())
        if offer is None or offer in offers:
            words = "no such coupon" if offer is None else "this coupon is shown twice"
            return Refused(Reason.UNKNOWN_COUPON, words, f"/coupons/{index}")
        over = out_of_window(offer, basket) or used_up(offer, basket)
        if over:
            return Refused(Reason.UNKNOWN_COUPON, over, f"/coupons/{index}")
        offers.append(offer)
    return offers


def _referral(basket: Basket, program: Program, currency: Currency) -> dict[str, int]:
    """The referrer and both bonuses, when this is the first purchase of a member whom somebody brought."""
    referrer, terms = basket.counters.get("referred_by"), program.referral
    if referrer is None or terms is None or not counters.is_newcomer(basket.counters):
        return {}
    if not basket.money or basket.money < currency.referral_min_amount:
        return {}
    return {"referrer": referrer, "points": terms.referrer, "newcomer": terms.newcomer}


def _entry(
    draft: Draft, command: RecordPurchase, payment: Payment, earning: Earning, referral: dict[str, int]
) -> Entry:
    detail: PurchaseDetail = {}
    if command.capture_holds or payment.points:
        detail["points_earned"], detail["points_paid"] = earning.points, payment.points
        detail["captured"] = [{"hold": hold, "points": points} for hold, points in payment.holds.items()]
    if command.capture_holds:
        detail["released"] = payment.released
    if earning.not_applied:
        detail["not_applied"] = list(earning.not_applied)
    if referral.get("points"):
        detail["referral"] = {"referrer": referral["referrer"], "points": referral["points"]}
    return draft.entry(
        "purchase_recorded",
        occurred_at=command.occurred_at,
        recorded_at=command.received_at,
        points=earning.points - payment.points,
        store=command.receipt.store,
        detail=detail,
    )


def told_of_holds(detail: PurchaseDetail) -> dict[str, int]:
    """How many points of holds a purchase captured and released, from its entry's detail; empty without holds."""
    if "released" not in detail:
        return {}
    captured = sum(hold["points"] for hold in detail.get("captured", ()))
    return {"captured": captured, "released": detail["released"]}


def _document(
    command: RecordPurchase,
    earning: Earning,
    payment: Payment,
    paid: Sequence[int],
    times: tuple[datetime | None, datetime | None],
) -> PurchaseDocument:
    attributed = [(component, component.attributed) for component in earning.components]
    lines = [_line_document(index, line, attributed) for index, line in enumerate(command.lines)]
    amount = sum(line.amount for line in command.lines)
    document: PurchaseDocument = {
        "currency": command.currency,
        "amount": amount,
        "money": amount - payment.amount,
        "points_earned": earning.points,
        "expires_at": instant_text(times[0]),
        "available_at": instant_text(times[1]),
        "lines": lines,
        "explained": explained_rows([one for one in earning.explained if one[1] or ran(one[2])]),
        "returns": [],
    }
    used = [offer.code for offer in earning.applied if offer.reason.startswith("coupon:")]
    if used:
        document["coupons"] = used
    if payment.points:
        _add_payment(document, payment, paid)
    return document


def _add_payment(document: PurchaseDocument, payment: Payment, paid: Sequence[int]) -> None:
    document["payment"] = {
        "points": payment.points,
        "amount": payment.amount,
        "holds": [[hold, points] for hold, points in payment.holds.items()],
        "lots": lots_document(payment.lots),
    }
    weights = paid if any(paid) else [line["amount"] or 1 for line in document["lines"]]
    by_lot = [share(lot.points, weights) for lot in payment.lots]
    for index, line in enumerate(document["lines"]):
        line["paid_amount"] = paid[index]
        line["paid"] = [parts[index] for parts in by_lot]
        line["repaid"] = [0] * len(by_lot)


def _line_document(index: int, line: Line, attributed: Sequence[tuple[Component, tuple[int, ...]]]) -> LineDocument:
    earned = {component.reason: parts[index] for component, parts in attributed if parts[index]}
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


def receipt_document(receipt: Receipt) -> ReceiptDocument:
    """How a till names its document."""
    return {"store": receipt.store, "till": receipt.till, "receipt": receipt.receipt}


def wrong_store(receipt: Receipt, program: Program) -> Refused | None:
    """The refusal of a store the program does not know."""
    if receipt.store in program.stores:
        return None
    return Refused(Reason.UNKNOWN_STORE, f"the program has no store {receipt.store!r}", "/store")


def _still_ahead(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment and moment > now else None


def _wrong_currency(command: RecordPurchase, program: Program) -> Refused:
    takes = ", ".join(program.currencies)
    return Refused(Reason.MALFORMED, f"this program counts in {takes}, not {command.currency}", "/currency")
