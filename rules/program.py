"""The program: the rules as a reviewed file, parsed into frozen values once and then only read."""

import tomllib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from iso4217 import Currency
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


class ProgramError(ValueError):
    """A program file that cannot be used; the message says where and why."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {name!r}; write one like Europe/Berlin") from error
    return name


def _known_currency(code: str) -> str:
    try:
        Currency(code)
    except ValueError as error:
        raise ValueError(f"no currency {code!r} in ISO 4217") from error
    return code


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError(f'write the exact decimal as a string: "{value}"')  # noqa: TRY004 - pydantic wants ValueError
    return value


Exact = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=10**9, decimal_places=9)]
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(_Part):
    """Which program this is. `time_zone` gives business dates, weekdays and month ends."""

    code: Code
    name: str
    currency: Annotated[str, AfterValidator(_known_currency)]
    time_zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"


class Expiry(_Part):
    """When points expire: never, or `months` after the purchase, rounded up."""

    kind: Literal["none", "rolling"] = "none"
    months: int = Field(default=12, ge=1, le=1200)
    round: Literal["none", "day", "month_end", "year_end"] = "month_end"


class Points(_Part):
    """How points are earned and kept. `per_unit`: points per 1.00 of the currency."""

    per_unit: Exact = Decimal(1)
    pending_days: int = Field(default=0, ge=0, le=3660)
    expiry: Expiry = Expiry()
    on_return: Literal["debt", "forgive", "refuse"] = "debt"
    hold_max_s: int = Field(default=86_400, ge=1, le=366 * 86_400)


class Tier(_Part):
    """A tier and what reaching it takes."""

    code: Code
    name: str = ""
    threshold: Count = 0
    multiplier: Exact = Decimal(1)


class Reward(_Part):
    """Something to redeem points for."""

    code: Code
    name: str
    points: Count
    stock: Count | None = None
    per_member: Count | None = None
    valid_days: int | None = Field(default=None, ge=1, le=3660)


class Store(_Part):
    """A store and the region its tills post to."""

    code: Code
    name: str
    region: str
    lat: float | None = Field(default=None, ge=-90, le=90)
    lon: float | None = Field(default=None, ge=-180, le=180)


class ProgramDocument(_Part):
    """The whole file."""

    program: Identity
    points: Points = Points()
    tiers: list[Tier] = [Tier(code="basic", name="Basic")]
    rewards: list[Reward] = []
    stores: list[Store] = []

    @model_validator(mode="after")
    def _codes_are_unique(self) -> "ProgramDocument":
        for name in ("tiers", "rewards", "stores"):
            codes = [part.code for part in getattr(self, name)]
            twice = (
                next((code for code in codes if codes.count(code) > 1), None) if len(set(codes)) < len(codes) else None
            )
            if twice:
                raise ValueError(f"{name}: {twice!r} stands there twice")
        if not self.tiers or self.tiers[0].threshold != 0:
            raise ValueError("tiers: the first tier is the one everybody has: threshold = 0")
        return self


class Program:
    """One version of the program, with what is derived from it once."""

    def __init__(self, document: ProgramDocument, version: int = 0) -> None:
        self.version = version
        self.code = document.program.code
        self.name = document.program.name
        self.currency = document.program.currency
        self.zone = ZoneInfo(document.program.time_zone)
        self.points = document.points
        self.tiers = sorted(document.tiers, key=lambda tier: tier.threshold)
        self.rewards = {reward.code: reward for reward in document.rewards}
        self.stores = {store.code: store for store in document.stores}

    @cached_property
    def per_minor_unit(self) -> Fraction:
        """Points per minor unit of the currency, exact."""
        return Fraction(self.points.per_unit) / 10 ** (Currency(self.currency).exponent or 0)

    def business_date(self, moment: datetime) -> date:
        """The calendar day of an instant where the program lives."""
        return moment.astimezone(self.zone).date()

    def available_at(self, occurred_at: datetime) -> datetime | None:
        """The start of the day on which points of a purchase become available; None: at once."""
        if not self.points.pending_days:
            return None
        day = self.business_date(occurred_at) + timedelta(days=self.points.pending_days)
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)

    def expires_at(self, occurred_at: datetime) -> datetime | None:
        """When points of a purchase expire: the last second of the rounded day; None: never."""
        expiry = self.points.expiry
        if expiry.kind == "none":
            return None
        local = occurred_at.astimezone(self.zone)
        day = _add_months(local.date(), expiry.months)
        if expiry.round == "none":
            return local.replace(year=day.year, month=day.month, day=day.day).astimezone(UTC)
        if expiry.round == "month_end":
            day = _add_months(day.replace(day=1), 1) - timedelta(days=1)
        if expiry.round == "year_end":
            day = date(day.year, 12, 31)
        return datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=self.zone).astimezone(UTC)


def parse_program(source: str, version: int = 0) -> Program:
    """The program of a TOML text; ProgramError names every place that is wrong."""
    try:
        return Program(ProgramDocument.model_validate(tomllib.loads(source)), version)
    except tomllib.TOMLDecodeError as error:
        raise ProgramError(f"not TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in one['loc']) or 'file'}: {one['msg']}" for one in error.errors()]
        raise ProgramError("\n".join(lines)) from error


def _add_months(day: date, months: int) -> date:
    """The same day so many months later, or the last of a shorter month."""
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    first_of_next = date(year + (month == 11), (month + 1) % 12 + 1, 1)  # noqa: PLR2004 - December is month 11 here
    last = (first_of_next - timedelta(days=1)).day
    return date(year, month + 1, min(day.day, last))
