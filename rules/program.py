"""One version of the program: the checked file with what is derived from it once, then only read."""

from bisect import bisect_right
from collections.abc import Iterable
from copy import copy
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Final
from zoneinfo import ZoneInfo

from rules.currency import compile_currencies
from rules.dates import add_months, end_of_day, month_end, start_of_day, time_zone
from rules.program_check import ProgramError, read_document
from rules.program_file import Expiry, ProgramDocument, Reward, Store, Tier, month_day

__all__ = ["Program", "ProgramError", "Reward", "Store", "Tier", "parse_program"]

RECORDED_WITHIN: Final = timedelta(days=1)
"""A document may have been recorded by a version that ended so long before its instant: by clocks that are wrong, and
by nodes that had not yet heard of the next."""

FIRST_VERSION: Final = 1

_ONE_DAY: Final = timedelta(days=1)
_DAYS_CACHED: Final = 1_000  # tills send today and the days they were offline; a replay goes day by day


class Program:
    """A program as decisions read it: tiers in order of their thresholds, what money earns and pays by currency."""

    history: tuple[tuple[datetime, "Program"], ...] = ()
    """The versions up to this one with the instants from which they count; empty: this one has always been in force."""
    instants: tuple[datetime, ...] = ()
    in_force: tuple["Program", ...] = ()
    """The first version, then what is in force from each of `instants` on: it counted by then, and is the newest."""

    def __init__(self, document: ProgramDocument, version: int = 0) -> None:
        self.version = version
        self.document = document
        self.code = document.program.code
        self.name = document.program.name
        self.zone = time_zone(document.program.time_zone)
        self.points = document.points
        self.tiers = sorted(document.tiers, key=lambda tier: tier.threshold)
        self.tier_policy = document.tier_policy
        self.referral = document.referral
        self.membership = document.membership
        self.transfers = document.transfers
        self.asks_birthday = any(offer.when.birthday_within_days for offer in (*document.campaigns, *document.coupons))
        """Whether it, or a version that it knows, asks when a buyer's birthday is."""
        self.rewards = {reward.code: reward for reward in document.rewards}
        self.stores = {store.code: store for store in document.stores}
        self._zones = {store.code: time_zone(store.time_zone) for store in document.stores if store.time_zone}
        self.currencies = compile_currencies(document)
        self.home = self.currencies[document.program.currency]
        self._all_zones = frozenset({self.zone, *self._zones.values()})
        self._expiry_of = lru_cache(maxsize=_DAYS_CACHED)(self._end_of_rounded_day)
        self._ranks = {tier.code: rank for rank, tier in enumerate(self.tiers)}

    def with_history(self, history: Iterable[tuple[datetime, "Program"]]) -> "Program":
        """The same program, knowing its own and all earlier versions, each with the instant from which it counts."""
        knowing = copy(self)
        knowing.history = tuple(part for part in history if part[1].version <= self.version)
        ordered = sorted(knowing.history, key=_since)
        knowing.asks_birthday = self.asks_birthday or any(part.asks_birthday for _, part in knowing.history)
        knowing.instants = tuple(since for since, _ in ordered)
        first = min((program for _, program in ordered), key=_version, default=self)
        knowing.in_force = tuple(accumulate((program for _, program in ordered), _newer, initial=first))
        return knowing

    def at(self, moment: datetime) -> "Program":
        """The version in force at an instant up to now: the newest that counted by then, before the first the first."""
        return self.in_force[bisect_right(self.instants, moment)] if self.in_force else self

    def knows(self, moment: datetime) -> bool:
        """Whether the version in force at an instant is among those of the history."""
        return not self.in_force or self.instants[0] <= moment or self.in_force[0].version == FIRST_VERSION

    def rank(self, code: str) -> int:
        """The rank of a tier, 0 the lowest; a tier this program does not know counts as the lowest."""
        return self._ranks.get(code, 0)

    def business_date(self, moment: datetime) -> date:
        """The calendar day of an instant where the program lives."""
        return moment.astimezone(self.zone).date()

    def zone_of(self, store: str | None) -> ZoneInfo:
        """A store's time zone; that of the program for what happens in no store."""
        return self._zones.get(store, self.zone) if store else self.zone

    def at_store(self, store: str, moment: datetime) -> datetime:
        """An instant as a store's clock shows it; its calendar day there is the business date of what it does."""
        return moment.astimezone(self.zone_of(store))

    def receipt_dates(self, store: str, moment: datetime) -> tuple[date, ...]:
        """The business date of a store's document: its day by the version in force at its instant.

        Then other days, seldom any: those by versions that came after or had just ended, which may have recorded it.
        """
        day = self.at(moment).at_store(store, moment).date()
        before = bisect_right(self.instants, moment - RECORDED_WITHIN)
        if before == len(self.instants):
            return (day,)
        others = {program.at_store(store, moment).date() for program in self.in_force[before:]}
        return (day, *sorted(others - {day}))

    def day_over(self, day: date) -> datetime:
        """The instant at which a calendar day is over in every store."""
        return max(start_of_day(day + _ONE_DAY, zone) for zone in self._all_zones)

    def period_end(self, moment: datetime) -> tuple[date, datetime]:
        """The day with which a tier's period ends whose end this version or one before gave as `moment`.

        And when that day is over by the version in force at `moment`, if later: zones may have moved west since. An end
        that no version gives is a midnight of the program, as before.
        """
        ruling, versions = self.at(moment), self.in_force[: bisect_right(self.instants, moment) + 1]
        days = [day for one in (ruling, *reversed(versions)) if (day := one.day_ended(moment))]
        if not days:
            return ruling.business_date(moment) - _ONE_DAY, moment
        day = days[0]
        if ruling.tier_policy.window.kind == "calendar_year":  # zones a day apart have the same midnights
            day = max(days, key=_is_last_of_year)
        return day, max(moment, ruling.day_over(day))

    def day_ended(self, moment: datetime) -> date | None:
        """The day that is over in every store just at an instant."""
        day = self.business_date(moment) - _ONE_DAY
        before = day - _ONE_DAY  # where stores are a day or more behind the program
        return next((one for one in (day, before) if self.day_over(one) == moment), None)

    def available_at(self, occurred_at: datetime, store: str | None = None) -> datetime | None:
        """The start of the day, at its store, on which points of a purchase become available; None: at once."""
        if not self.points.pending_days:
            return None
        zone = self.zone_of(store)
        return start_of_day(occurred_at.astimezone(zone).date() + timedelta(days=self.points.pending_days), zone)

    def expires_at(self, occurred_at: datetime, store: str | None = None) -> datetime | None:
        """When points of a purchase expire: the last second of the rounded day at its store; None: never."""
        expiry = self.points.expiry
        if expiry.kind == "none":
            return None
        zone = self.zone_of(store)
        local = occurred_at.astimezone(zone)
        if expiry.round == "none" and expiry.kind != "fixed_dates":
            day = add_months(local.date(), expiry.months_kept)
            return local.replace(year=day.year, month=day.month, day=day.day).astimezone(UTC)
        return self._expiry_of(local.date(), zone)

    def _end_of_rounded_day(self, day: date, zone: ZoneInfo) -> datetime:
        expiry = self.points.expiry
        day = add_months(day, expiry.months_kept)
        rounding = expiry.round or ("day" if expiry.kind == "inactivity" else "month_end")
        if expiry.kind == "fixed_dates":
            day = _next_of(expiry, day)
        elif rounding == "month_end":
            day = month_end(day)
        elif rounding == "year_end":
            day = date(day.year, 12, 31)
        return end_of_day(day, zone)


def _version(program: Program) -> int:
    return program.version


def _newer(one: Program, other: Program) -> Program:
    return max(one, other, key=_version)


def _is_last_of_year(day: date) -> bool:
    return (day + _ONE_DAY).year > day.year


def _since(part: tuple[datetime, Program]) -> datetime:
    return part[0]


def _next_of(expiry: Expiry, day: date) -> date:
    """The first fixed date on or after a day; 29 February is the 28th in other years."""
    candidates = [
        min(month_end(date(year, month, 1)), date(year, month, 1) + timedelta(days=number - 1))
        for year in (day.year, day.year + 1)
        for month, number in map(month_day, expiry.dates)
    ]
    return min(candidate for candidate in candidates if candidate >= day)


def parse_program(source: str, version: int = 0) -> Program:
    """The program of a TOML text, version 0 before it is applied; ProgramError names every place that is wrong."""
    return Program(read_document(source, applied=version > 0), version)
