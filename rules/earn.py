"""What a basket earns: components, each summed over its lines exactly, floored once, then shared out.

A component's points belong to its lines by largest remainder of their exact shares, the earlier
line first on a tie. What a return takes back of them: see reversal.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rules import counters
from rules.currency import Currency
from rules.document import APPLIED, Explained, NotAppliedDocument
from rules.offer import Basket, Offer, outcome_of
from rules.program_file import PointLimits
from rules.value import value

BASE: Final = "base"
REFERRAL: Final = "referral"


@value
class Component:
    """Points earned for one reason (`base`, `tier:<code>`, `campaign:<code>`, ...); `weights` are the lines' shares."""

    reason: str
    points: int
    weights: tuple[int, ...]

    @property
    def attributed(self) -> tuple[int, ...]:
        """Each line's part of the points."""
        return share(self.points, self.weights)


@value
class Earning:
    """The components a basket earns, none of zero points, and what became of everything that might have given some.

    `points` are those of all components. `not_applied` tells code and why of each campaign and coupon that gave
    nothing, of those that run at its time.
    """

    components: tuple[Component, ...]
    explained: tuple[Explained, ...]
    applied: tuple[Offer, ...]
    not_applied: tuple[NotAppliedDocument, ...]
    points: int


def share(points: int, weights: Sequence[int]) -> tuple[int, ...]:
    """`points` split in proportion to `weights` by largest remainder, the earlier one first on a tie."""
    total = sum(weights)
    if not total:
        return (0,) * len(weights)
    floors = [points * weight // total for weight in weights]
    left = points - sum(floors)
    if left:
        missing = [floor * total - points * weight for floor, weight in zip(floors, weights, strict=True)]
        for index in sorted(range(len(floors)), key=missing.__getitem__)[:left]:  # stable: the earlier one on a tie
            floors[index] += 1
    return tuple(floors)


def earn(
    basket: Basket, currency: Currency, coupons: Sequence[Offer] = (), referral_points: int = 0, *, limits: PointLimits
) -> Earning:
    """What a basket in a currency of the program earns, up to the limits; `coupons` are shown with it."""
    tried: list[tuple[str, Offer | None, Component | str]] = [(BASE, None, _base(basket, currency))]
    tier = _tier(basket, currency)
    if tier:
        tried.append((tier.reason, None, tier))
    tried += _best_of_groups(currency.campaigns, basket)
    tried += [(offer.reason, offer, _component(offer, basket)) for offer in coupons]
    room, reason = _room(basket, limits)
    components: list[Component] = []
    explained: list[Explained] = []
    applied: list[Offer] = []
    not_applied: list[NotAppliedDocument] = []
    for source, offer, outcome in tried:
        if isinstance(outcome, str):
            given, why = None, outcome
        else:
            given, why = _within(outcome, room, reason)
        if given is None:
            explained.append((source, 0, why))
            if offer and ran(why):
                not_applied.append({"code": offer.code, "why": why})
            continue
        explained.append((source, given.points, why))
        room = None if room is None else room - given.points
        components.append(given)
        if offer:
            applied.append(offer)
    if referral_points:
        components.append(Component(REFERRAL, referral_points, basket.amounts))
        explained.append((REFERRAL, referral_points, "applied: first purchase"))
    points = sum([component.points for component in components])
    return Earning(tuple(components), tuple(explained), tuple(applied), tuple(not_applied), points)


def ran(why: str) -> bool:
    """Whether a reason is worth telling: campaigns of another time explain nothing about a purchase."""
    return not why.startswith(("not_started", "ended"))


def _base(basket: Basket, currency: Currency) -> Component | str:
    numerator, denominator = currency.base_ratio
    points = basket.money * numerator // denominator
    if points:
        return Component(BASE, points, basket.amounts)
    return "no_points: less than one point" if basket.money else "no_money: nothing was paid with money"


def _tier(basket: Basket, currency: Currency) -> Component | None:
    numerator, denominator = currency.tier_ratios.get(basket.tier, (0, 1))
    points = basket.money * numerator // denominator
    return Component(f"tier:{basket.tier}", points, basket.amounts) if points else None


def _component(offer: Offer, basket: Basket) -> Component | str:
    weighed = outcome_of(offer, basket)
    return weighed if isinstance(weighed, str) else Component(offer.reason, *weighed)


def _best_of_groups(campaigns: Sequence[Offer], basket: Basket) -> list[tuple[str, Offer, Component | str]]:
    """Every campaign with its component or why not; in a group only the one with most points, the first on a tie."""
    outcomes: list[tuple[str, Offer, Component | str]] = []
    best: dict[str, Component] = {}
    for offer in campaigns:
        outcome = _component(offer, basket)
        outcomes.append((offer.code, offer, outcome))
        if offer.group and isinstance(outcome, Component):
            known = best.get(offer.group)
            if known is None or outcome.points > known.points:
                best[offer.group] = outcome
    if not best:
        return outcomes
    return [(code, offer, _unless_beaten(outcome, best.get(offer.group))) for code, offer, outcome in outcomes]


def _unless_beaten(outcome: Component | str, best: Component | None) -> Component | str:
    if best is None or isinstance(outcome, str) or outcome is best:
        return outcome
    return f"group: {best.reason} gives {best.points} points, this {outcome.points}"


def _room(basket: Basket, limits: PointLimits) -> tuple[int | None, str]:
    """How many points the limits leave for a basket (None: any number), and which limit says so."""
    purchases, points = counters.on_day(basket.counters, basket.day)
    if limits.purchases_per_day and purchases >= limits.purchases_per_day:
        return 0, f"day_purchases_limit: at most {limits.purchases_per_day} purchases earn on a day"
    left = max(limits.per_day - points, 0)
    if limits.per_day and not 0 < limits.per_purchase < left:
        return left, f"day_limit: at most {limits.per_day} points on a day"
    if limits.per_purchase:
        return limits.per_purchase, f"purchase_limit: at most {limits.per_purchase} points on a purchase"
    return None, ""


def _within(outcome: Component, room: int | None, limit: str) -> tuple[Component | None, str]:
    if room is None or outcome.points <= room:
        return outcome, APPLIED
    why = f"{limit}; {room} of {outcome.points} points"
    return (replace(outcome, points=room) if room else None), why
