"""Tiers: what counts for them, when one is reached and what the end of its period brings.

The metric is counted on the business date it was earned on, in `counters["metric"]`: its name, then
a flat list of (day, value). A rolling window of a day is that day and those before it that are not
yet so many months ago; a calendar year is the day's year. A period begins on the day a tier is
reached and ends when the last day of its window is over in every store: what reached the tier does not also keep it.
`counters["tier_before"]` are the standings below one that was reached so lately that a return may
still take it: [code, since, until] each, the last one the nearest.
"""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from rules.codec import instant, instant_text
from rules.counters import COUNT_MAX, Counters, add_on_day, take_off_day, with_value
from rules.dates import add_months
from rules.program import Program
from rules.state import Account, TierStanding

_YEAR_DAYS: Final = 366
_ONE_DAY: Final = timedelta(days=1)
_DAYS_KEPT: Final = 1000  # nearly all are today

Ranked = tuple[TierStanding, Counters]
"""A standing and the counters beside it."""


def with_metric(counters: Counters, program: Program, day: date, change: int) -> Counters:
    """The counters with `change` of the metric on a day; what lies before any window goes."""
    if not change:
        return counters
    days = add_on_day(_days(counters, program), day, (change,))
    oldest, start = days[-2] - days_kept(program), 0
    while days[start] < oldest:
        start += 2
    return {**counters, "metric": [program.tier_policy.metric, *days[start:]]}


def days_kept(program: Program) -> int:
    """How many days of the metric are kept: no window reaches farther back, nor what a return may count out of one."""
    window = program.tier_policy.window
    return program.tier_policy.return_days + (_YEAR_DAYS if window.kind == "calendar_year" else 31 * window.months)


def without_metric(counters: Counters, metric: str, day: date, change: int) -> Counters:
    """The counters without `change` of a metric counted on a day, unless it is no longer counted or forgotten."""
    name, days = _metric(counters)
    if name != metric:
        return counters
    left = take_off_day(days, day, (change,))
    return with_value(counters, "metric", [name, *left] if left else [])


def qualifying(counters: Counters, program: Program, day: date, *, ended: bool = False) -> int:
    """The metric in the window of a day; of one that has `ended`, without what is of later days, farther east."""
    days = _days(counters, program)
    first = _window_start(program, day).toordinal()
    start, end = 0, len(days)
    while start < end and days[start] < first:
        start += 2
    while ended and end > start and days[end - 2] > day.toordinal():
        end -= 2
    return min(max(sum(days[start + 1 : end : 2]), 0), COUNT_MAX)


def latest_day(counters: Counters, program: Program, moment: datetime) -> date:
    """The day of an instant for what counts: the program's, or the one that a store farther east has begun."""
    day, counted = program.business_date(moment), counters.get("metric")
    return max(day, date.fromordinal(counted[-2])) if counted else day


def _metric(counters: Counters) -> tuple[str | None, list[int]]:
    known: list[Any] = counters.get("metric") or [None]
    return known[0], known[1:]


def _days(counters: Counters, program: Program) -> list[int]:
    """A program that counts another metric than before starts from nothing."""
    name, days = _metric(counters)
    return days if name == program.tier_policy.metric else []


def _window_start(program: Program, day: date) -> date:
    window = program.tier_policy.window
    return date(day.year, 1, 1) if window.kind == "calendar_year" else _rolling_start(day, window.months)


@lru_cache(_DAYS_KEPT)
def _rolling_start(day: date, months: int) -> date:
    first = add_months(day, -months) + _ONE_DAY
    while add_months(first, months) <= day:  # the last days of a longer month end with a shorter one
        first += _ONE_DAY
    return first


def metric_of_purchase(program: Program, *, points: int, amount: int) -> int:
    """What a purchase counts for tiers."""
    return {"points": points, "amount": amount, "purchases": 1}[program.tier_policy.metric]


def risen(account: Account, counters: Counters, program: Program, now: datetime, store: str) -> Ranked:
    """The standing after a purchase, and the counters with what a return may take it back to."""
    below = _below(account.counters)
    if below and not _lately(account.tier, program, now):
        below = []
    standing = _reached(account, counters, program, program.at_store(store, now)) or account.tier
    if standing is not account.tier and program.rank(standing.code) > program.rank(account.tier.code):
        below.append(account.tier)
    return standing, _with_below(counters, below)


def fallen(account: Account, counters: Counters, program: Program, now: datetime) -> Ranked:
    """The standing after a return, and its counters: what was reached lately goes with the goods that reached it.

    The metric counts from the window in which the tier was reached. A member falls to what it holds, but to no less
    than what they had before. `account` is the one before the return, `counters` those after it.
    """
    standing, below = account.tier, _below(counters)
    while below and _is_void(standing, account, counters, program, now):
        earned = _earned_rank(_since(standing, counters, program), program)
        if earned > program.rank(below[-1].code):
            standing = replace(standing, code=program.tiers[earned].code)
        else:
            standing = below.pop()
    while standing.until and standing.until <= now:  # it ended while a higher one was held
        ended = replace(account, tier=standing, counters=counters)
        standing, below = after_period(ended, program, standing.until), []
    return standing, _with_below(counters, below)


def _is_void(standing: TierStanding, before: Account, counters: Counters, program: Program, now: datetime) -> bool:
    """Whether a return takes what reached a tier lately below its threshold."""
    threshold = program.tiers[program.rank(standing.code)].threshold
    now_is, was = (_since(standing, one, program) for one in (counters, before.counters))
    return now_is < threshold <= was and _lately(standing, program, now)


def _lately(standing: TierStanding, program: Program, now: datetime) -> bool:
    """Whether a tier was reached so few days ago that a return may take it."""
    days = (program.business_date(now) - program.business_date(standing.since)).days
    return 0 < program.tier_policy.return_days >= days


def _since(standing: TierStanding, counters: Counters, program: Program) -> int:
    """The metric from the beginning of the window in which a tier was reached."""
    return qualifying(counters, program, program.business_date(standing.since))


def _below(counters: Counters) -> list[TierStanding]:
    rows = counters.get("tier_before", ())
    return [TierStanding(code, datetime.fromisoformat(since), instant(until)) for code, since, until in rows]


def _with_below(counters: Counters, below: list[TierStanding]) -> Counters:
    if not below and "tier_before" not in counters:
        return counters
    rows = [[one.code, instant_text(one.since), instant_text(one.until)] for one in below]
    return with_value(counters, "tier_before", rows)


def _reached(account: Account, counters: Counters, program: Program, now: datetime) -> TierStanding | None:
    """The higher tier the metric has reached, or a period for one held without an end; None: nothing changes.

    `now` is by the clock of the store.
    """
    if len(program.tiers) == 1:
        return None
    day = now.date()
    earned, held = _earned_rank(qualifying(counters, program, day), program), program.rank(account.tier.code)
    rank = max(earned, held)
    if earned <= held and account.tier.until is not None:
        return None
    until = _until(program, rank, last_day=day, year=day.year)
    if earned <= held and until is None:
        return None
    return TierStanding(program.tiers[rank].code, now.astimezone(UTC) if earned > held else account.tier.since, until)


def period_ended(account: Account, program: Program, due_at: datetime) -> Ranked:
    """The standing once a tier's period has ended, and its counters: what that end brought no return takes."""
    standing = after_period(account, program, due_at)
    below = _below(account.counters) if standing.code == account.tier.code else []
    return standing, _with_below(account.counters, below)


def after_period(account: Account, program: Program, due_at: datetime) -> TierStanding:
    """The standing from the end of a tier's period on: kept if the window still earns it, else as the policy says.

    By the version in force at that end. Where zones have moved west since the end was set, the period goes on until its
    last day is over there too.
    """
    ruling = program.at(due_at)
    last_day, over_at = program.period_end(due_at)
    if over_at > due_at:
        return replace(account.tier, until=over_at)
    return _after_last_day(account, ruling, due_at, last_day)


def _after_last_day(account: Account, program: Program, due_at: datetime, last_day: date) -> TierStanding:
    held = program.rank(account.tier.code)
    earned = _earned_rank(qualifying(account.counters, program, last_day, ended=True), program)
    policy = program.tier_policy
    rank = held
    if policy.downgrade == "period_end" and earned < held:
        rank = held - 1 if policy.step == "one" else earned
    code = program.tiers[rank].code
    since = account.tier.since if code == account.tier.code else due_at
    return TierStanding(code, since, _until(program, rank, last_day=last_day, year=(last_day + _ONE_DAY).year))


def _earned_rank(metric: int, program: Program) -> int:
    return max([rank for rank, tier in enumerate(program.tiers) if tier.threshold <= metric])


def _until(program: Program, rank: int, *, last_day: date, year: int) -> datetime | None:
    """The end of the period after the window that ended with `last_day`, or of the given calendar year."""
    policy = program.tier_policy
    if rank == 0 or policy.downgrade == "never":
        return None
    if policy.window.kind == "calendar_year":
        return program.day_over(date(year, 12, 31))
    return program.day_over(add_months(last_day, policy.window.months))
