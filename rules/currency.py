"""The currencies of a program, each ready to be counted in: what its money earns, and what points pay of it.

Points are one kind. A currency's rate is its `per_unit` over that of the home currency: so much money earns as much
as 1.00 at home, and counts as 1.00 wherever an amount of the program file is compared, or spend counts for tiers.
All is exact; what has to be whole is floored once.
"""

from fractions import Fraction

from iso4217 import Currency as Iso4217

from rules.document import HomeDocument
from rules.offer import Offer, compile_campaign, compile_coupon, least_amount
from rules.program_file import ListedCurrency, ProgramDocument, Worth
from rules.value import value

Ratio = tuple[int, int]
"""Numerator and denominator, in lowest terms."""


@value
class Currency:
    """One currency as decisions read it; amounts are minor units of it, those of its offers too.

    `abroad` is nothing for the home currency, else what a purchase notes: how many minor units at home one counts as.
    """

    code: str
    abroad: HomeDocument | None
    worth: Worth | None
    base_ratio: Ratio
    tier_ratios: dict[str, Ratio]
    campaigns: tuple[Offer, ...]
    coupons: dict[str, Offer]
    referral_min_amount: int

    def offer(self, reason: str) -> Offer | None:
        """The campaign or coupon by whose reason points were earned."""
        return next((one for one in (*self.campaigns, *self.coupons.values()) if one.reason == reason), None)

    def offer_named(self, name: str) -> Offer | None:
        """The campaign or coupon by its name in an explanation."""
        return self.offer(name) or self.offer(f"campaign:{name}")

    def amount_of(self, points: int) -> int:
        """What points pay, in whole minor units; 0 when this program takes no points for money."""
        worth = self.worth
        return points * worth.amount // worth.points if worth else 0

    def points_for(self, amount: int) -> int:
        """The fewest points that pay so many minor units: the ceiling, the inverse of `amount_of`."""
        worth = self.worth
        return -(-amount * worth.points // worth.amount) if worth else 0


def compile_currencies(document: ProgramDocument) -> dict[str, Currency]:
    """The home currency, first, and those the program lists, by code."""
    home = document.program.currency
    base = Fraction(document.points.per_unit) / minor_units(home)
    currencies = {home: _compile(document, home, (base, Fraction(1)), document.points.worth)}
    for one in document.currencies:
        terms = Fraction(one.per_unit) / minor_units(one.code), rate_of(one, document)
        currencies[one.code] = _compile(document, one.code, terms, one.worth)
    return currencies


def rate_of(currency: ListedCurrency, document: ProgramDocument) -> Fraction:
    """How many minor units at home one of a currency counts as."""
    rate = Fraction(currency.per_unit) / Fraction(document.points.per_unit)
    return rate * minor_units(document.program.currency) / minor_units(currency.code)


def minor_units(code: str) -> int:
    """How many of its minor units are 1.00 of a currency."""
    return 10 ** (Iso4217(code).exponent or 0)


def _compile(document: ProgramDocument, code: str, terms: tuple[Fraction, Fraction], worth: Worth | None) -> Currency:
    """`terms`: points per minor unit of the currency, and its rate."""
    home, minor = document.program.currency, minor_units(document.program.currency)
    base, rate = terms
    coupons = [compile_coupon(one, base=base, minor=minor, rate=rate) for one in document.coupons]
    return Currency(
        code,
        None if code == home else {"currency": home, "rate": [*rate.as_integer_ratio()]},
        worth,
        base_ratio=base.as_integer_ratio(),
        tier_ratios={one.code: (base * (Fraction(one.multiplier) - 1)).as_integer_ratio() for one in document.tiers},
        campaigns=tuple(compile_campaign(one, base=base, minor=minor, rate=rate) for one in document.campaigns),
        coupons={offer.code.upper(): offer for offer in coupons},
        referral_min_amount=least_amount(document.referral.min_amount, rate) if document.referral else 0,
    )
