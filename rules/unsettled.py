"""Points whose purchase may still come back: they can be spent, but go to no other member before that is over.

`counters["unsettled"]` has flat pairs (day, points): what the purchases of a business date gave, less what came back.
Thanks for members one has brought are unsettled as long. What is spent is taken to be settled first.
"""

from datetime import date, timedelta

from rules.counters import Counters, add_on_day, take_off_day, thanks_since, with_value
from rules.dates import end_of_day, start_of_day
from rules.program import Program


def may_come_back(day: date, program: Program, today: date) -> bool:
    """Whether what was bought on a day may still be returned."""
    return 0 < program.tier_policy.return_days >= (today - day).days


def with_unsettled(counters: Counters, day: date, points: int, program: Program, today: date) -> Counters:
    """The counters with points that a purchase of a day gave; days whose purchases can come back no more go."""
    days: list[int] = counters.get("unsettled", [])
    start = 0
    while start < len(days) and not may_come_back(date.fromordinal(days[start]), program, today):
        start += 2
    kept = days[start:]
    if points and may_come_back(day, program, today):
        kept = add_on_day(kept, day, (points,))
    return with_value(counters, "unsettled", kept)


def without_unsettled(counters: Counters, day: date, points: int) -> Counters:
    """The counters without points of a day that came back."""
    return with_value(counters, "unsettled", take_off_day(counters.get("unsettled", ()), day, (points,)))


def unsettled(counters: Counters, program: Program, today: date) -> int:
    """How many of the available points may still have to be given back."""
    given = [pair for pair in _days(counters) if _available_on(pair[0], program) <= today]
    return sum(points for day, points in (*given, *thanks_since(counters)) if may_come_back(day, program, today))


def _available_on(day: date, program: Program) -> date:
    """The first day on which points of a day's purchases may have been available, in whatever zone their store is."""
    rulings = (program.at(moment) for moment in (start_of_day(day, program.zone), end_of_day(day, program.zone)))
    return day + timedelta(days=max(min(one.points.pending_days for one in rulings) - 1, 0))


def _days(counters: Counters) -> list[tuple[date, int]]:
    flat: list[int] = counters.get("unsettled", [])
    return [(date.fromordinal(day), points) for day, points in zip(flat[::2], flat[1::2], strict=True)]
