"""Tiers: what counts for them, when one is reached and what the end of its period brings.

The metric is counted on the business date it was earned on, in `counters["metric"]`: its name, then
a flat list of (day, value). A rolling window of a day is that day and those before it that are not
yet so many months ago; a calendar year is the day's year. A period begins on the day a tier is
reached and ends with the last day of its window: what reached the tier does not also keep it.
"""

from datetime import date, datetime, timedelta
from typing import Any, Final

from rules.counters import Counters, add_on_day, take_off_day
from rules.dates import add_months, start_of_day
from rules.program import Program
from rules.state import Account, TierStanding

_YEAR_DAYS: Final = 366
_ONE_DAY: Final = timedelta(days=1)


def with_metric(counters: Counters, program: Program, day: date, change: int) -> dict[str, Any]:
    """The counters with `change` of the metric on a day; what lies before any window goes."""
    if not change:
        return dict(counters)
    kept = _YEAR_DAYS if program.tier_policy.window.kind == "calendar_year" else 31 * program.tier_policy.window.months
    days = add_on_day(_days(counters, program), day, (change,))
    oldest, start = days[-2] - kept, 0
    while days[start] < oldest:
        start += 2
    return {**counters, "metric": [program.tier_policy.metric, *days[start:]]}


def without_metric(counters: Counters, metric: str, day: date, change: int) -> dict[str, Any]:
    """The counters without `change` of a metric counted on a day, unless it is no longer counted or forgotten."""
    name, days = _metric(counters)
    if name != metric:
        return dict(counters)
    left = take_off_day(days, day, (change,))
    if left:
        return {**counters, "metric": [name, *left]}
    return {known: kept for known, kept in counters.items() if known != "metric"}


def qualifying(counters: Counters, program: Program, day: date) -> int:
    """The metric in the window of a day."""
    days = _days(counters, program)
    first = _window_start(program, day).toordinal()
    start = 0
    while start < len(days) and days[start] < first:
        start += 2
    return max(sum(days[start + 1 :: 2]), 0)


def _metric(counters: Counters) -> tuple[str | None, list[int]]:
    known: list[Any] = counters.get("metric") or [None]
    return known[0], known[1:]


def _days(counters: Counters, program: Program) -> list[int]:
    """A program that counts another metric than before starts from nothing."""
    name, days = _metric(counters)
    return days if name == program.tier_policy.metric else []


def _window_start(program: Program, day: date) -> date:
    window = program.tier_policy.window
    if window.kind == "calendar_year":
        return date(day.year, 1, 1)
    first = add_months(day, -window.months) + _ONE_DAY
    while add_months(first, window.months) <= day:  # the last days of a longer month end with a shorter one
        first += _ONE_DAY
    return first


def metric_of_purchase(program: Program, *, points: int, amount: int) -> int:
    """What a purchase counts for tiers."""
    return {"points": points, "amount": amount, "purchases": 1}[program.tier_policy.metric]


def reached(account: Account, counters: Counters, program: Program, now: datetime) -> TierStanding | None:
    """The higher tier the metric has reached, or a period for one held without an end; None: nothing changes."""
    if len(program.tiers) == 1:
        return None
    day = program.business_date(now)
    earned, held = _earned_rank(qualifying(counters, program, day), program), program.rank(account.tier.code)
    rank = max(earned, held)
    if earned <= held and account.tier.until is not None:
        return None
    until = _until(program, rank, last_day=day, year=day.year)
    if earned <= held and until is None:
        return None
    return TierStanding(program.tiers[rank].code, now if earned > held else account.tier.since, until)


def after_period(account: Account, program: Program, due_at: datetime) -> TierStanding:
    """The standing from the end of a tier's period on: kept if the window still earns it, else as the policy says."""
    day = program.business_date(due_at)
    last_day = day - _ONE_DAY
    held = program.rank(account.tier.code)
    earned = _earned_rank(qualifying(account.counters, program, last_day), program)
    policy = program.tier_policy
    rank = held
    if policy.downgrade == "period_end" and earned < held:
        rank = held - 1 if policy.step == "one" else earned
    code = program.tiers[rank].code
    since = account.tier.since if code == account.tier.code else due_at
    return TierStanding(code, since, _until(program, rank, last_day=last_day, year=day.year))


def _earned_rank(metric: int, program: Program) -> int:
    return max(rank for rank, tier in enumerate(program.tiers) if tier.threshold <= metric)


def _until(program: Program, rank: int, *, last_day: date, year: int) -> datetime | None:
    """The end of the period after the window that ended with `last_day`, or of the given calendar year."""
    policy = program.tier_policy
    if rank == 0 or policy.downgrade == "never":
        return None
    if policy.window.kind == "calendar_year":
        return start_of_day(date(year + 1, 1, 1), program.zone)
    return start_of_day(add_months(last_day, policy.window.months) + _ONE_DAY, program.zone)
