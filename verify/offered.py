"""Holds what a basket earned, and did not, to the conditions of its program: where, when, for which tier, on what.

What hangs on what its buyer had before (a first purchase, a birthday, how often) is taken as told.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from rules.command import Line
from rules.currency import Currency
from rules.document import ExplanationDocument, PurchaseDocument, explanation_of
from rules.offer import Basket, Offer, out_of_place, weigh
from rules.program import Program
from verify.books import TERMS, Books, MemberRows, ReadEntry
from verify.stream import Row

_OF_THE_BASKET: Final = frozenset(
    {"store", "tier", "weekday", "time", "no_line", "min_amount", "no_money", "no_points"}
)
"""Reasons that anybody can check anew."""
_LIMITS: Final = ("day_purchases_limit", "day_limit", "purchase_limit")
_OVER: Final = ("not_started", "ended")


def check_offers(books: Books, rows: MemberRows, entry: ReadEntry, tier: str) -> None:
    """Check the basket of an entry, unless it is of long ago; `tier` is the one that its buyer had before."""
    program = books.programs.get(entry.row["program_version"])
    document = rows.bought(entry.version)
    if program is None or document is None or not entry.is_short or "explained" not in document:
        return
    wrong = next(_wrong_with(document, entry.row, program, tier), None)
    if wrong:
        books[TERMS].fault(f"{entry.name}: {wrong}")


def _wrong_with(document: PurchaseDocument, row: Row, program: Program, tier: str) -> Iterator[str]:
    currency = program.currencies.get(document["currency"])
    if currency is None:
        return
    told = {one["campaign"]: one for one in explanation_of(document)}
    basket = _basket(document, row, program, tier)
    yield from _wrong_base(basket, currency, told)
    for offer in currency.campaigns:
        yield from _wrong_offer(offer, basket, told.get(offer.code))
    yield from _wrong_choice(basket, currency, told)
    for offer in currency.coupons.values():
        one = told.get(offer.reason)
        if one is not None:
            yield from _wrong_offer(offer, basket, one)


def _basket(document: PurchaseDocument, row: Row, program: Program, tier: str) -> Basket:
    lines = document["lines"]
    amounts = tuple([line["amount"] - line.get("paid_amount", 0) for line in lines])
    local = program.at_store(row["store"], row["occurred_at"])
    return Basket(
        tuple([Line(line["sku"], Decimal(line["quantity"]), line["amount"], line["category"]) for line in lines]),
        amounts,
        sum(amounts),
        document.get("home"),
        row["store"],
        program.tiers[program.rank(tier)].code,
        row["occurred_at"],
        local,
        local.date(),
        None,
        {},
    )


def _wrong_base(basket: Basket, currency: Currency, told: dict[str, ExplanationDocument]) -> Iterator[str]:
    """Money earns the base and what the tier adds, unless a limit was reached."""
    ratios = {"base": currency.base_ratio, f"tier:{basket.tier}": currency.tier_ratios.get(basket.tier, (0, 1))}
    for name, (numerator, denominator) in ratios.items():
        points, one = basket.money * numerator // denominator, told.get(name)
        if points and (one is None or not (one["applied"] or one["why"].startswith(_LIMITS))):
            yield f"earned nothing by {name}, which gives {points}"
    for name, one in told.items():
        if one["applied"] and name.startswith("tier:") and name not in ratios:
            yield f"earned {one['points']} points by {name}, the buyer's tier is {basket.tier}"


def _wrong_choice(basket: Basket, currency: Currency, told: dict[str, ExplanationDocument]) -> Iterator[str]:
    """Of a group the one applied that gives most, whatever a limit left of it."""
    best: dict[str, int] = {}
    for offer in currency.campaigns:
        one = told.get(offer.code)
        if offer.group and one is not None and (one["applied"] or one["why"].startswith(_LIMITS)):
            best[offer.group] = _gives(offer, basket)
    for offer in currency.campaigns:
        one = told.get(offer.code)
        if one is not None and one["why"].startswith("group") and _gives(offer, basket) > best.get(offer.group, 0):
            yield f"earned nothing by {offer.code}, the best of its group"


def _gives(offer: Offer, basket: Basket) -> int:
    weighed = weigh(offer, basket.lines, basket.amounts)
    return 0 if isinstance(weighed, str) else weighed[0]


def _wrong_offer(offer: Offer, basket: Basket, told: ExplanationDocument | None) -> Iterator[str]:
    """An offer that is told to have given points was for the basket; one that gave none was not, as told."""
    why = out_of_place(offer, basket)
    if told is None:
        if why is None or not why.startswith(_OVER):
            yield f"tells nothing of {offer.code}, which ran then"
    elif told["applied"]:
        if why is not None:
            yield f"earned {told['points']} points by {offer.code}, which was not for it: {why}"
    elif (code := told["why"].partition(":")[0]) in _OF_THE_BASKET:
        if why is None:
            weighed = weigh(offer, basket.lines, basket.amounts)
            why = weighed if isinstance(weighed, str) else f"gives: {weighed[0]} points"
        if why.partition(":")[0] != code:
            yield f"earned nothing by {offer.code} for {told['why']}, but {why}"
