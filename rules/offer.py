"""A campaign or a coupon, ready to be asked about baskets: whether it applies, to which lines, for what.

Conditions are checked in a fixed order and the first that fails is the reason, in words after a
stable prefix. What was not paid with money earns nothing, under every effect: a line counts by its
money, and its items in proportion, quantity x money / amount. Points are exact and floored once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from fractions import Fraction
from itertools import zip_longest
from math import ceil
from typing import Any, Final, Literal

from rules import counters
from rules.command import Line
from rules.dates import days_from_birthday
from rules.document import HomeDocument
from rules.program_file import Campaign, Coupon, Effect
from rules.value import value

_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WHOLE: Final = 1000
"""Quantities have up to three places."""
_FINE: Final = 2**64
"""A line's weight among items is counted in such parts: equal lines weigh the same, and no number grows long."""


@value
class Basket:
    """A basket as earning sees it.

    `amounts` is the money paid for each line and `money` all of it, not what points paid; `abroad` tells the rate at
    which it counts where it is not in the home currency; `tier` is held before it.
    `local` is its instant by the store's clock, and `day` the business date.
    """

    lines: tuple[Line, ...]
    amounts: tuple[int, ...]
    money: int
    abroad: HomeDocument | None
    store: str
    tier: str
    occurred_at: datetime
    local: datetime
    day: date
    birth_date: date | None
    counters: counters.Counters


@value
class Offer:
    """A campaign or coupon compiled for one currency. `ratio` is per minor unit of it, per item or in all.

    `checks` are those of its conditions that it has, in the order in which they give the reason.
    """

    code: str
    reason: str
    source: Campaign | Coupon
    unit: Literal["amount", "item", "basket"]
    ratio: tuple[int, int]
    stores: frozenset[str]
    tiers: frozenset[str]
    weekdays: frozenset[int]
    categories: frozenset[str]
    skus: frozenset[str]
    checks: tuple[Callable[["Offer", Basket], str | None], ...]
    min_amount: int
    group: str = ""
    per_member: int = 0
    per_member_per_day: int = 0


def compile_campaign(campaign: Campaign, *, base: Fraction, minor: int, rate: Fraction) -> Offer:
    """The offer of a campaign in a currency.

    `base`: points per minor unit of it, `rate`: minor units at home that one counts as, `minor`: those that are 1.00.
    """
    limits = campaign.limits
    return _compile(
        campaign,
        f"campaign:{campaign.code}",
        *_effect(campaign.effect, base, rate / minor),
        min_amount=least_amount(campaign.when.min_amount, rate),
        group=campaign.group,
        per_member=limits.per_member,
        per_member_per_day=limits.per_member_per_day,
    )


def compile_coupon(coupon: Coupon, *, base: Fraction, minor: int, rate: Fraction) -> Offer:
    """The offer of a coupon in a currency, as of a campaign."""
    return _compile(
        coupon,
        f"coupon:{coupon.code}",
        *_effect(coupon.effect, base, rate / minor),
        min_amount=least_amount(coupon.when.min_amount, rate),
        per_member=coupon.per_member,
    )


def least_amount(amount: int, rate: Fraction) -> int:
    """The fewest minor units of a currency that count as an amount at home."""
    return ceil(amount / rate)


def _compile(source: Campaign | Coupon, reason: str, unit: Any, ratio: Fraction, **limits: Any) -> Offer:
    return Offer(
        source.code,
        reason,
        source,
        unit,
        ratio.as_integer_ratio(),
        stores=frozenset(source.when.stores),
        tiers=frozenset(source.when.tiers),
        weekdays=frozenset(_WEEKDAYS.index(day) for day in source.when.weekdays),
        categories=frozenset(source.match.categories),
        skus=frozenset(source.match.skus),
        checks=tuple(_checks(source, limits)),
        **limits,
    )


def _effect(effect: Effect, base: Fraction, unit: Fraction) -> tuple[str, Fraction]:
    """`unit`: how much of 1.00 at home a minor unit counts as."""
    if effect.multiply is not None:
        return "amount", base * (Fraction(effect.multiply) - 1)
    if effect.per_unit is not None:
        return "amount", Fraction(effect.per_unit) * unit
    if effect.fixed is not None:
        return "basket", Fraction(effect.fixed)
    return "item", Fraction(effect.fixed_per_item or 0)


def outcome_of(offer: Offer, basket: Basket) -> tuple[int, tuple[int, ...]] | str:
    """The points of an offer on a basket, with each line's weight; or why there are none."""
    for check in offer.checks:
        reason = check(offer, basket)
        if reason:
            return reason
    return weigh(offer, basket.lines, basket.amounts)


def out_of_place(offer: Offer, basket: Basket) -> str | None:
    """Why an offer is not for a basket, whatever its buyer has had before."""
    checks = (check for check in offer.checks if check not in _OF_THE_BUYER)
    return next((reason for check in checks if (reason := check(offer, basket))), None)


def out_of_window(offer: Offer, basket: Basket) -> str | None:
    """Why an offer does not run at the basket's time."""
    starts_at, ends_at = offer.source.starts_at, offer.source.ends_at
    if starts_at and basket.occurred_at < starts_at:
        return f"not_started: it starts at {starts_at.isoformat()}"
    if ends_at and basket.occurred_at >= ends_at:
        return f"ended: it ended at {ends_at.isoformat()}"
    return None


def used_up(offer: Offer, basket: Basket) -> str | None:
    """Why a member has had enough of an offer."""
    if offer.per_member and basket.counters.get("came_back"):
        return "member_limit: once per person, and this one has been a member before"
    if offer.per_member and counters.times_applied(basket.counters, offer.reason) >= offer.per_member:
        return f"member_limit: at most {offer.per_member} times per member"
    limit = offer.per_member_per_day
    if limit and counters.times_applied_on(basket.counters, offer.reason, basket.day) >= limit:
        return f"member_day_limit: at most {limit} times per member and day"
    return None


def _wrong_place(offer: Offer, basket: Basket) -> str | None:
    if offer.stores and basket.store not in offer.stores:
        return f"store: not in store {basket.store}"
    if offer.tiers and basket.tier not in offer.tiers:
        return f"tier: not for tier {basket.tier}"
    return None


def _wrong_time(offer: Offer, basket: Basket) -> str | None:
    if offer.weekdays and basket.local.weekday() not in offer.weekdays:
        return f"weekday: not on {_WEEKDAYS[basket.local.weekday()]}"
    when = offer.source.when
    if not within(basket.local.time(), when.from_, when.to):
        return f"time: not at {basket.local:%H:%M}"
    return None


def within(now: time, start: time | None, end: time | None) -> bool:
    """Whether a time of day lies in [start, end); no end is the day's; a start after the end means over midnight."""
    start = start or time.min
    if end is None or end == time.max:
        return now >= start
    return start <= now < end if start < end else now >= start or now < end


def _wrong_member(offer: Offer, basket: Basket) -> str | None:
    when = offer.source.when
    if when.first_purchase and not counters.is_newcomer(basket.counters):
        return "first_purchase: only on the first purchase"
    days = when.birthday_within_days
    if days and (basket.birth_date is None or days_from_birthday(basket.day, basket.birth_date) > days):
        return f"birthday: only within {days} days of the birthday"
    return None


_OF_THE_BUYER: Final = (_wrong_member, used_up)


def _checks(source: Campaign | Coupon, limits: Mapping[str, Any]) -> Iterator[Callable[[Offer, Basket], str | None]]:
    when = source.when
    if source.starts_at or source.ends_at:
        yield out_of_window
    if when.stores or when.tiers:
        yield _wrong_place
    if when.weekdays or when.from_ or when.to:
        yield _wrong_time
    if when.first_purchase or when.birthday_within_days:
        yield _wrong_member
    if limits.get("per_member") or limits.get("per_member_per_day"):
        yield used_up


def weigh(offer: Offer, lines: tuple[Line, ...], amounts: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | str:
    """The offer's whole points on lines and the money paid for each, with each one's weight; or why there are none."""
    matched = _matched(offer, lines)
    if matched is not None:
        if True not in matched:
            return "no_line: no line matches"
        amounts = tuple(amount if match else 0 for amount, match in zip(amounts, matched, strict=True))
    money = sum(amounts)
    if money < offer.min_amount:
        return f"min_amount: {money} of {offer.min_amount} minor units in money"
    if not money:
        return "no_money: no money was paid for what counts"
    weights, total = amounts, (1 if offer.unit == "basket" else money, 1)
    if offer.unit == "item":
        items = [item_parts(line, paid) for line, paid in zip(lines, amounts, strict=True)]
        weights, total = tuple(part * _FINE // whole for part, whole in items), exact_sum(items)
    points = total[0] * offer.ratio[0] // (total[1] * offer.ratio[1])
    return (points, weights) if points else "no_points: less than one point"


def item_parts(line: Line, money: int) -> tuple[int, int]:
    """How many items of a line money was paid for, as an exact fraction: quantity x money / amount."""
    if not money:
        return 0, 1
    thousandths = int(line.quantity * _WHOLE)
    return (thousandths, _WHOLE) if money == line.amount else (thousandths * money, _WHOLE * line.amount)


def exact_sum(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The sum of fractions as one: neighbours first, so that numbers stay short, and cheap, as long as they can."""
    while len(parts) > 1:
        pairs = zip_longest(parts[::2], parts[1::2], fillvalue=(0, 1))
        parts = [(a + c, b) if b == d else (a * d + c * b, b * d) for (a, b), (c, d) in pairs]
    return parts[0]


def _matched(offer: Offer, lines: tuple[Line, ...]) -> list[bool] | None:
    """Which lines count; None: all."""
    if not offer.categories and not offer.skus:
        return None
    return [line.category in offer.categories or line.sku in offer.skus for line in lines]
