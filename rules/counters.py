"""What is counted per member beside points, in `Account.counters`: compact, and only what a rule asks.

`purchases` all so far; `days` flat triples (day, purchases, points); `applied` times per offer;
`applied_on` flat pairs (day, times) per offer; `rewards` redeemed per code; `metric` and `tier_before` see tier;
where points expire by inactivity, `active_at` is the latest activity, and `alive` tells since when none came too late
and until when points live by that; `sent` (day, points) to others; see unsettled; `came_back` of who has been a member
before; `lapsed` (points, when) of points that expired so lately that their purchase may still come back.
Days are ordinals of business dates, kept for the time a purchase may be late; of older ones, which
only a replay counts on, a few. All functions return new values: nothing here changes what it was given.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, cast

from rules.codec import instant, instant_text
from rules.document import CountersDocument

Counters = CountersDocument
Counted = Literal[
    "purchases",
    "days",
    "applied",
    "applied_on",
    "rewards",
    "metric",
    "tier_before",
    "referrals",
    "unsettled",
    "lapsed",
]

DAYS_KEPT: Final = 40
"""A till may be 35 days late."""
OLDER_KEPT_UP_TO: Final = 32
"""Older days stay while there are so many in all: a replay of any past goes day by day, and a row stays small."""
COUNT_MAX: Final = 2**62
"""Parts that came back take nothing off a day: it may sum to more than a member can have, but to 64 bits."""

ANY_PURCHASE: Final = 0
"""In place of a purchase that is not told; entries count from 1."""
NO_PURCHASE: Final = -1
"""In place of a purchase that came back when it was thanked for all the same."""


def purchase_count(counters: Counters) -> int:
    """How many purchases a member has made."""
    return counters.get("purchases", 0)


def is_newcomer(counters: Counters) -> bool:
    """Whether a member has bought nothing yet, and has not been one before."""
    return not (purchase_count(counters) or counters.get("came_back"))


def on_day(counters: Counters, day: date) -> tuple[int, int]:
    """How many purchases of a business date there are, and what they earned."""
    days = counters.get("days", ())
    ordinal = day.toordinal()
    for index in range(0, len(days), 3):
        if days[index] == ordinal:
            return days[index + 1], days[index + 2]
    return 0, 0


def with_purchase(counters: Counters, day: date, points: int) -> Counters:
    """One more purchase of a business date."""
    days = _without_old(add_on_day(counters.get("days", ()), day, (1, points)), day, width=3)
    return {**counters, "purchases": purchase_count(counters) + 1, "days": days}


def without_purchase(counters: Counters, day: date, points: int) -> Counters:
    """One purchase of a business date, and what it earned, as if it had never been."""
    days = take_off_day(counters.get("days", ()), day, (1, points))
    return with_value(with_value(counters, "purchases", max(purchase_count(counters) - 1, 0)), "days", days)


def times_applied(counters: Counters, reason: str) -> int:
    """How often an offer with a limit has been applied."""
    return counters.get("applied", {}).get(reason, 0)


def times_applied_on(counters: Counters, reason: str, day: date) -> int:
    """How often an offer with a daily limit has been applied on a business date."""
    days = counters.get("applied_on", {}).get(reason, ())
    ordinal = day.toordinal()
    return sum(days[index + 1] for index in range(0, len(days), 2) if days[index] == ordinal)


def with_applied(counters: Counters, reason: str, change: int = 1) -> Counters:
    """An offer with a limit applied once more, or once less."""
    return _with_times(counters, "applied", reason, change)


def with_applied_on(counters: Counters, reason: str, day: date) -> Counters:
    """An offer with a daily limit applied once more on a business date."""
    applied_on = counters.get("applied_on", {})
    days = _without_old(add_on_day(applied_on.get(reason, ()), day, (1,)), day, width=2)
    return {**counters, "applied_on": {**applied_on, reason: days}}


def without_applied_on(counters: Counters, reason: str, day: date) -> Counters:
    """An offer with a daily limit applied once less on a business date."""
    applied_on = counters.get("applied_on", {})
    days = take_off_day(applied_on.get(reason, ()), day, (1,))
    return with_value(counters, "applied_on", _with(applied_on, reason, days))


def times_redeemed(counters: Counters, reward: str) -> int:
    """How many of a reward a member has redeemed and not cancelled."""
    return counters.get("rewards", {}).get(reward, 0)


def with_redeemed(counters: Counters, reward: str, change: int) -> Counters:
    """So many more of a reward redeemed, or fewer."""
    return _with_times(counters, "rewards", reward, change)


def sent_on(counters: Counters, day: date) -> int:
    """How many points were sent to other members on a business date, the latest there is."""
    known, points = counters.get("sent", (0, 0))
    return points if known == day.toordinal() else 0


def with_sent(counters: Counters, day: date, points: int) -> Counters:
    """So many more points sent; whatever becomes of them, they count for their day."""
    return {**counters, "sent": [day.toordinal(), sent_on(counters, day) + points]}


def thanked_for(counters: Counters, referee: int) -> int | None:
    """The purchase of a newcomer's that one was thanked for; None: for none."""
    return next((purchase for known, purchase in map(_thanks, counters.get("referrals", ())) if known == referee), None)


def all_thanks(counters: Counters) -> list[tuple[int, int]]:
    """For whom one was thanked, and for which purchase of theirs."""
    return [_thanks(one) for one in counters.get("referrals", ())]


def thanks_since(counters: Counters) -> list[tuple[date, int]]:
    """On which days one was thanked, with how many points; earlier versions did not note that."""
    told = (one for one in counters.get("referrals", ()) if not isinstance(one, int))
    return [(date.fromordinal(since[0]), since[1]) for _, _, *since in told if since]


def thanks_end(counters: Counters, referee: int) -> tuple[datetime | None] | None:
    """When the points for a newcomer end, as they were given; None: that was not noted, by an earlier version."""
    told = (one for one in counters.get("referrals", ()) if not isinstance(one, int))
    return next(((instant(end[0]),) for known, _, *since in told if known == referee and (end := since[2:])), None)


def with_thanks(counters: Counters, referee: int, purchase: int, *told: date | int | str | None) -> Counters:
    """Thanked for a purchase of a newcomer's: `told` are the day, how many points, and when they end."""
    since = [one.toordinal() if isinstance(one, date) else one for one in told]
    return {**counters, "referrals": [*counters.get("referrals", ()), [referee, purchase, *since]]}


def without_thanks(counters: Counters, referee: int) -> Counters:
    """Thanked no more for a newcomer."""
    kept = [one for one in counters.get("referrals", ()) if _thanks(one)[0] != referee]
    return with_value(counters, "referrals", kept)


def _thanks(one: int | list[int]) -> tuple[int, int]:
    """Referee and purchase; earlier versions kept the referee alone."""
    return (one, ANY_PURCHASE) if isinstance(one, int) else (one[0], one[1])


def lapsed(counters: Counters) -> list[tuple[int, datetime]]:
    """How many points expired lately, and when."""
    return [(points, datetime.fromisoformat(at)) for points, at in counters.get("lapsed", ())]


def with_lapsed(counters: Counters, expires_at: datetime, points: int) -> Counters:
    """So many more points of an instant expired, or fewer; those of long before are forgotten."""
    rows = {at: one for one, at in lapsed(counters)}
    rows[expires_at] = rows.get(expires_at, 0) + points
    return _with_lapsed(counters, rows.items(), max(rows).date())


def without_old_lapsed(counters: Counters, today: date) -> Counters:
    """The counters without points that expired so long ago that none of their purchases comes back."""
    if "lapsed" not in counters:
        return counters
    return _with_lapsed(counters, [(at, points) for points, at in lapsed(counters)], today)


def _with_lapsed(counters: Counters, rows: Iterable[tuple[datetime, int]], today: date) -> Counters:
    since = today - timedelta(days=DAYS_KEPT)
    kept = [[points, instant_text(at)] for at, points in sorted(rows) if points and at.date() >= since]
    return with_value(counters, "lapsed", kept)


def with_value(counters: Counters, name: Counted, value: Any) -> Counters:
    """The counters with another value, or without it when there is nothing to count."""
    return cast("Counters", _with(counters, name, value))


def _with_times(counters: Counters, kind: Literal["applied", "rewards"], code: str, change: int) -> Counters:
    times = counters.get(kind, {})
    return with_value(counters, kind, _with(times, code, max(times.get(code, 0) + change, 0)))


def _with(values: Mapping[str, Any], name: str, value: Any) -> Mapping[str, Any]:
    if value:
        return {**values, name: value}
    return {known: kept for known, kept in values.items() if known != name} if name in values else values


def add_on_day(days: Iterable[int], day: date, values: tuple[int, ...]) -> list[int]:
    """A flat list of (day, value, ...), oldest first, with `values` added on a day."""
    flat, width, ordinal = list(days), len(values) + 1, day.toordinal()
    at = len(flat)
    while at > 0 and flat[at - width] > ordinal:
        at -= width
    if at > 0 and flat[at - width] == ordinal:
        at -= width
    else:
        flat[at:at] = [ordinal, *[0] * len(values)]
    for place, value in enumerate(values, at + 1):
        flat[place] = min(flat[place] + value, COUNT_MAX)
    return flat


def take_off_day(days: Iterable[int], day: date, values: tuple[int, ...]) -> list[int]:
    """A flat list of (day, value, ...) with `values` taken off a day, as far as they are there."""
    flat, width, ordinal = list(days), len(values) + 1, day.toordinal()
    for at in range(0, len(flat), width):
        if flat[at] == ordinal:
            left = [max(flat[at + offset] - value, 0) for offset, value in enumerate(values, start=1)]
            flat[at : at + width] = [ordinal, *left] if any(left) else []
            break
    return flat


def _without_old(days: list[int], written: date, *, width: int) -> list[int]:
    """The oldest go while there are too many, but none that a late purchase may count on, nor the one just written."""
    oldest, at = days[-width] - DAYS_KEPT, 0
    while len(days) > OLDER_KEPT_UP_TO * width and days[at] < oldest:
        if days[at] == written.toordinal():
            at += width
        else:
            del days[at : at + width]
    return days
