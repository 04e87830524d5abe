"""The program file: what may stand in it, part by part. Unknown keys are refused everywhere.

Numbers that take part in arithmetic are exact decimals, written as strings; points and money are
integers of the smallest unit. What the parts must agree on among themselves is in program_check.
"""

import re
from datetime import datetime, time
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from iso4217 import Currency
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from rules.dates import time_zone
from rules.text import composed

_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CLOCK: Final = re.compile(r"\d\d:\d\d(:\d\d)?", re.ASCII)


def _known_zone(name: str) -> str:
    try:
        time_zone(name)
    except ValueError as error:
        raise ValueError(f"{error}; write one like Europe/Berlin") from error
    return name


def _known_currency(code: str) -> str:
    try:
        Currency(code)
    except ValueError as error:
        raise ValueError(f"no currency {code!r} in ISO 4217; write one like EUR") from error
    return code


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError(f'write the exact decimal as a string: "{value}"')  # noqa: TRY004 - pydantic wants ValueError
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool | float | str):
        raise ValueError("write a whole number without quotes")  # noqa: TRY004
    return value


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("write true or false, without quotes")  # noqa: TRY004
    return value


def _instant(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _RFC_3339.fullmatch(value):
        return datetime.fromisoformat(value.upper())
    raise ValueError('write the instant with its zone, like "2026-01-01T00:00:00Z"')


def _clock(value: Any) -> Any:
    if isinstance(value, time):
        return value
    if isinstance(value, str) and _CLOCK.fullmatch(value):
        return time.fromisoformat(value)
    raise ValueError('write the time of day like "08:30"; it is that of the store')


def _clock_end(value: Any) -> Any:
    """The midnight that ends a day is time.max."""
    end = time.min if value == "24:00" else _clock(value)
    return time.max if end == time.min else end


def _month_day(text: str) -> str:
    try:
        month_day(text)
    except ValueError as error:
        raise ValueError(f'{text!r} is no day of a year; write month-day like "12-31"') from error
    return text


def month_day(text: str) -> tuple[int, int]:
    """Month and day of `MM-DD`; ValueError for what no year has."""
    month, day = (int(part) for part in text.split("-"))
    length_max = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not (1 <= month <= len(length_max) and 1 <= day <= length_max[month - 1]):
        raise ValueError(text)
    return month, day


Exact = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=10**9, decimal_places=9)]
Multiplier = Annotated[Decimal, BeforeValidator(_exact), Field(ge=1, le=10**6, decimal_places=9)]
Words = Annotated[str, AfterValidator(composed)]
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Iso4217Code = Annotated[str, AfterValidator(_known_currency)]
Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=0, le=2**53)]
Positive = Annotated[Whole, Field(ge=1, le=2**53)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]
Clock = Annotated[time, BeforeValidator(_clock)]
ClockEnd = Annotated[time, BeforeValidator(_clock_end)]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Part):
    """Which program this is, and its home currency.

    `time_zone`: that of stores without one, and of what happens in no store.
    `cross_store_returns`: whether one store takes back what another one sold.
    """

    code: Code
    name: Words
    currency: Iso4217Code
    time_zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    cross_store_returns: Flag = True


class Expiry(_Part):
    """When points expire.

    `rolling`: `months` after the purchase, rounded up. `fixed_dates`: at the end of the first of `dates` (month-day,
    each year) that is at least `months` later. `inactivity`: `months` after the last earn or spend, for all points.
    """

    kind: Literal["none", "rolling", "fixed_dates", "inactivity"] = "none"
    months: Whole | None = Field(default=None, ge=0, le=1200)
    round: Literal["none", "day", "month_end", "year_end"] | None = None
    dates: tuple[Annotated[str, AfterValidator(_month_day)], ...] = Field(default=(), max_length=20)

    @model_validator(mode="after")
    def _kind_and_dates_agree(self) -> "Expiry":
        if (self.kind == "fixed_dates") != bool(self.dates):
            raise ValueError('dates = ["06-30", "12-31"] belongs to kind = "fixed_dates", and that needs it')
        if self.months == 0 and self.kind in {"rolling", "inactivity"}:
            raise ValueError("months must be at least 1; points that expire at once are of no use")
        return self

    @property
    def months_kept(self) -> int:
        """How long points are kept at least: a year unless said otherwise; fixed dates need no least time."""
        return self.months if self.months is not None else 0 if self.kind == "fixed_dates" else 12


class Worth(_Part):
    """What points pay: `points` of them `amount` minor units of the currency."""

    points: Positive
    amount: Positive


class PointLimits(_Part):
    """How much a member may earn; a purchase beyond it is accepted and earns up to it. 0: no limit."""

    per_purchase: Count = 0
    per_day: Count = 0
    purchases_per_day: Count = 0


class ListedCurrency(_Part):
    """Another currency that tills may post: points per 1.00 of it, and what points pay in its minor units.

    1.00 of it counts as its `per_unit` over that of [points] in the home currency, in which all other amounts of the
    file are: conditions, points per 1.00 of a campaign, what counts for tiers.
    """

    code: Iso4217Code
    per_unit: Annotated[Exact, Field(gt=0)]
    worth: Worth | None = None


class Points(_Part):
    """How points are earned and kept. `per_unit`: points per 1.00 of the home currency."""

    per_unit: Exact = Decimal(1)
    pending_days: Whole = Field(default=0, ge=0, le=3660)
    expiry: Expiry = Expiry()
    on_return: Literal["debt", "forgive", "refuse"] = "debt"
    worth: Worth | None = None
    hold_max_s: Whole = Field(default=86_400, ge=1, le=366 * 86_400)
    limits: PointLimits = PointLimits()


class Tier(_Part):
    """A tier and what reaching it takes, in units of the policy's metric. `multiplier` is on base points."""

    code: Code
    name: Words = ""
    threshold: Count = 0
    multiplier: Multiplier = Decimal(1)


class Window(_Part):
    """The time over which the tier metric is counted."""

    kind: Literal["rolling", "calendar_year"] = "rolling"
    months: Whole = Field(default=12, ge=1, le=120)


class TierPolicy(_Part):
    """What counts for a tier and what happens at the end of its period.

    `metric`: points earned by purchases, their amount in minor units at home, or their number. `step`: one tier down
    at a time, or straight to what the window earned. `return_days`: a tier reached within so many days goes at once
    with returned goods without which it would not have been reached; later returns wait for the period's end; 0: all.
    """

    metric: Literal["points", "amount", "purchases"] = "points"
    window: Window = Window()
    downgrade: Literal["period_end", "never"] = "period_end"
    step: Literal["one", "earned"] = "one"
    return_days: Whole = Field(default=30, ge=0, le=366)


class When(_Part):
    """The conditions of a campaign: all that are given must hold. Days and hours are those of the store's zone.

    From `from` up to, but not at, `to`; a `to` before `from` lies on the next day, midnight ends the day.
    `min_amount` compares the money paid for the lines that count: what is left after points, as it counts at home.
    """

    stores: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    weekdays: tuple[Weekday, ...] = ()
    from_: Clock | None = Field(default=None, alias="from")
    to: ClockEnd | None = None
    min_amount: Count = 0
    first_purchase: Flag = False
    birthday_within_days: Whole = Field(default=0, ge=0, le=182)

    @model_validator(mode="after")
    def _from_and_to_differ(self) -> "When":
        if self.from_ is not None and self.from_ == self.to:
            raise ValueError("from and to are the same time of day; leave both out for the whole day")
        return self


class Match(_Part):
    """Which lines count: those of one of the categories or with one of the skus. Nothing given: all."""

    categories: tuple[Words, ...] = ()
    skus: tuple[Words, ...] = ()


class Effect(_Part):
    """What is earned on the lines that count: exactly one of these. What was not paid with money earns nothing.

    `multiply` and `per_unit` are on money, points per 1.00 at home. `fixed` needs some money. Of `fixed_per_item` a
    line has quantity x money / amount items, summed exactly and floored once.
    """

    multiply: Multiplier | None = None
    per_unit: Exact | None = None
    fixed: Positive | None = None
    fixed_per_item: Positive | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Effect":
        if sum(value is not None for _, value in self) != 1:
            raise ValueError('write exactly one: multiply = "2", per_unit = "0.5", fixed = 100 or fixed_per_item = 10')
        return self


class CampaignLimits(_Part):
    """How often a campaign applies to one member. 0: no limit."""

    per_member: Count = 0
    per_member_per_day: Count = 0


class Campaign(_Part):
    """Extra points while it runs. Of the campaigns in one `group` only the best for the member applies."""

    code: Code
    name: Words = ""
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    when: When = When()
    match: Match = Match()
    effect: Effect
    limits: CampaignLimits = CampaignLimits()
    group: str = ""


class Coupon(_Part):
    """Extra points for who shows the code, so many times per member (0: no limit)."""

    code: Code
    name: Words = ""
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    when: When = When()
    match: Match = Match()
    effect: Effect
    per_member: Count = 1


class Referral(_Part):
    """Points for both sides on the newcomer's first purchase, if so much of it, at least a cent, is paid with money."""

    referrer: Count = 0
    newcomer: Count = 0
    min_amount: Count = 0


class Membership(_Part):
    """`rejoin_days`: how long one who leaves is known again when they come back, and has no bonus a second time."""

    rejoin_days: Whole = Field(default=365, ge=0, le=3660)


class Transfers(_Part):
    """Who may send points to another member.

    `per_day`: points at most on one day (0: no limit). `min_account_days`: how long one must have been a member.
    `only_settled`: not points of purchases that may still be returned, those of the last `return_days` (tier policy).
    """

    enabled: Flag = True
    per_day: Count = 10_000
    min_account_days: Whole = Field(default=7, ge=0, le=3660)
    only_settled: Flag = True


class Reward(_Part):
    """Something to redeem points for. An unused redemption ends after `valid_days`."""

    code: Code
    name: Words
    points: Count
    stock: Count | None = None
    per_member: Count | None = None
    valid_days: Whole | None = Field(default=None, ge=1, le=3660)


class Store(_Part):
    """A store and the region its tills post to. Its dates and hours are by its `time_zone`, else by the program's.

    So are the days on which points from there become available and expire.
    """

    code: Code
    name: Words
    region: str
    time_zone: Annotated[str, AfterValidator(_known_zone)] | None = None
    lat: float | None = Field(default=None, strict=True, ge=-90, le=90)
    lon: float | None = Field(default=None, strict=True, ge=-180, le=180)


class ProgramDocument(_Part):
    """The whole file."""

    program: Identity
    points: Points = Points()
    currencies: tuple[ListedCurrency, ...] = Field(default=(), max_length=200)
    tiers: tuple[Tier, ...] = (Tier(code="basic", name="Basic"),)
    tier_policy: TierPolicy = TierPolicy()
    campaigns: tuple[Campaign, ...] = ()
    coupons: tuple[Coupon, ...] = ()
    referral: Referral | None = None
    membership: Membership = Membership()
    transfers: Transfers = Transfers()
    rewards: tuple[Reward, ...] = ()
    stores: tuple[Store, ...] = ()
