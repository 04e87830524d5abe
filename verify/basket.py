"""Holds a basket against the formulas of the program that decided it: what points paid, and what money earned.

Only for baskets that tell their `money`: those of old were decided by other formulas.
"""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from rules.command import Line
from rules.currency import Currency
from rules.document import PurchaseDocument, explanation_of, payment_of
from rules.earn import share
from rules.offer import weigh
from rules.program import Program
from rules.stored import not_applied_of

Weighed = tuple[int, tuple[int, ...]]
"""Points, and each line's weight in them."""
Terms = tuple[Program, Currency]
"""A program, and the one of its currencies that a basket is in."""


def wrong_basket(document: PurchaseDocument, program: Program) -> Iterator[str]:
    """A basket is in a currency of its program, counts at its rate, and was paid and earned by its formulas."""
    currency = program.currencies.get(document["currency"])
    if currency is None:
        yield f"is in {document['currency']}, its program counts in {', '.join(program.currencies)}"
        return
    if document.get("home") != currency.abroad:
        yield f"counts as {document.get('home')} at home, by its program as {currency.abroad}"
    yield from wrong_payment(document, currency)
    yield from wrong_earning(document, program)


def wrong_payment(document: PurchaseDocument, currency: Currency) -> Iterator[str]:
    """No point was spent for nothing, and what points paid was taken off the lines in proportion."""
    due = sum(line["amount"] for line in document["lines"])
    payment = payment_of(document)
    points, amount = payment["points"], payment["amount"]
    told = document["amount"], document.get("money")
    if told != (due, due - amount):
        yield f"its lines come to {due}, {amount} of it paid with points; it says {told}, all and in money"
    if amount != min(currency.amount_of(points), due):
        yield f"{points} points paid {amount} of {due}"
    if currency.worth and points != currency.points_for(amount):
        yield f"{points} points paid {amount}, which takes {currency.points_for(amount)}"
    if not points:
        return
    amounts = [line["amount"] for line in document["lines"]]
    paid = [line.get("paid_amount", 0) for line in document["lines"]]
    if tuple(paid) != share(amount, amounts):
        yield f"{amount} paid with points is shared among its lines as {paid}"
    weights = paid if any(paid) else [one or 1 for one in amounts]
    for index, (part, _) in enumerate(payment["lots"]):
        if tuple(line.get("paid", [])[index] for line in document["lines"]) != share(part, weights):
            yield f"the points of lot {index + 1} are not shared among its lines in proportion"


def wrong_earning(document: PurchaseDocument, program: Program) -> Iterator[str]:
    """Each reason gave what its formula gives on the money paid, less where a limit said so, shared by weight."""
    lines, currency = document["lines"], program.currencies[document["currency"]]
    amounts = tuple([line["amount"] - line.get("paid_amount", 0) for line in lines])
    bought = tuple([Line(line["sku"], Decimal(line["quantity"]), line["amount"], line["category"]) for line in lines])
    told: dict[str, int] = {}
    for reason in {reason: None for line in lines for reason in line["earned"]}:
        parts = tuple([line["earned"].get(reason, 0) for line in lines])
        points = sum(parts)
        name = _name(reason)
        told[name] = told.get(name, 0) + points
        gives, weights = _weighed(reason, bought, amounts, (program, currency))
        if points != gives and not (points < gives and _limited(document, reason)):
            yield f"earned {points} points by {reason}, which gives {gives}"
        elif parts != share(points, weights):
            yield f"the points by {reason} are not shared among its lines in proportion"
    explained: dict[str, int] = {}
    for one in explanation_of(document):
        if one["applied"]:
            explained[one["campaign"]] = explained.get(one["campaign"], 0) + one["points"]
    if explained != told and Counter(explained) != Counter(told):
        yield f"explains {explained}, its lines earned {told}"


def wrong_not_applied(document: PurchaseDocument, detail: dict[str, Any]) -> Iterator[str]:
    """What an entry of earlier versions tells as not applied is what the basket's explanation says gave nothing."""
    gave_nothing = not_applied_of(document)
    if "not_applied" in detail and detail["not_applied"] != gave_nothing:
        yield f"tells {detail['not_applied']} as not applied, explains {gave_nothing}"


def _weighed(reason: str, lines: tuple[Line, ...], amounts: tuple[int, ...], terms: Terms) -> Weighed:
    """What a reason gives before limits, and each line's weight in it."""
    program, currency = terms
    kind, _, code = reason.partition(":")
    if kind in {"base", "tier"}:
        numerator, denominator = currency.base_ratio if kind == "base" else currency.tier_ratios.get(code, (0, 1))
        return sum(amounts) * numerator // denominator, amounts
    if kind == "referral":
        return program.referral.newcomer if program.referral and any(amounts) else 0, amounts
    offer = currency.offer(reason)
    weighed = weigh(offer, lines, amounts) if offer else "the program has no such offer"
    return (0, amounts) if isinstance(weighed, str) else weighed


def _name(reason: str) -> str:
    """How an explanation names a reason."""
    return reason.removeprefix("campaign:")


def _limited(document: PurchaseDocument, reason: str) -> bool:
    """Whether a limit left less of a reason than it gives."""
    name = _name(reason)
    return any(
        one["campaign"] == name and one["applied"] and not one["why"].startswith("applied")
        for one in explanation_of(document)
    )
