"""Holds what is counted of a member, beside points, against the journal and the notes of what each purchase counted."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import date, datetime
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final

from rules.codec import instant, instant_text
from rules.counters import (
    COUNT_MAX,
    DAYS_KEPT,
    NO_PURCHASE,
    Counters,
    purchase_count,
    times_redeemed,
    with_thanks,
    without_thanks,
)
from rules.counting import limited_points
from rules.document import CountedDocument, PurchaseDocument, at_home
from rules.reversal import came_back_whole, money_back
from rules.state import Account
from rules.tier import days_kept
from verify.books import COUNTED, Books, MemberRows, ReadEntry
from verify.stream import attempt

_DAYS_KEPT: Final = 4_096  # ten years of them

REDEEMED: Final = {"reward_redeemed": 1, "redemption_cancelled": -1}
"""What an entry counts of a reward."""

_ACTIVITIES: Final = frozenset(
    {"points_adjusted", "referral_credited", "reward_redeemed", "transfer_sent", "transfer_received", "hold_captured"}
)
"""Entries that keep points alive where they expire by inactivity, beside purchases that earn or spend."""

Days = dict[int, tuple[int, ...]]
"""Values by the ordinal of their day."""


def check_counted(books: Books, rows: MemberRows, stored: Account) -> None:
    """Check the counters of an open account; who is closed is counted no more."""
    finding = books[COUNTED]
    finding.checked += 1
    wrong = chain(
        _wrong_count(rows, stored.counters),
        _came_back(rows, stored),
        _brought(rows, stored),
        _wrong_sent(books, rows, stored),
        _wrong_activity(books, rows, stored),
        _wrong_metric(books, rows, stored.counters),
        _unsettled(books, rows, stored),
        _wrong_lapsed(rows, stored.counters),
    )
    words = attempt(finding, rows.name, partial(next, wrong, None))
    if words:
        finding.fault(f"{rows.name}: {words}")


def _came_back(rows: MemberRows, stored: Account) -> Iterator[str]:
    told = any(entry.detail.get("came_back") for entry in rows.entries.values())
    if bool(stored.counters.get("came_back")) != told:
        yield "one who came back is counted as a newcomer" if told else "one who came back, by no entry"


def _brought(rows: MemberRows, stored: Account) -> Iterator[str]:
    """Who is thanked with the first purchase is whom the enrolment names."""
    told = next((entry.detail.get("referred_by") for entry in rows.entries.values()), None)
    if stored.counters.get("referred_by") != told:
        yield f"brought by {stored.counters.get('referred_by')}, by the enrolment {told}"


def _wrong_sent(books: Books, rows: MemberRows, stored: Account) -> Iterator[str]:
    """What was sent to others on the latest day of it; the first version did not count that."""
    day, points = stored.counters.get("sent", (0, 0))
    sent: dict[int, int] = {day: 0}
    latest = day
    for entry in rows.entries.values():
        program = books.programs.get(entry.row["program_version"])
        if entry.kind == "transfer_sent" and program is not None:
            on = program.business_date(entry.row["recorded_at"]).toordinal()
            sent[on] = sent.get(on, 0) + entry.detail["sent"]
            latest = on if entry.is_short else latest
    if sent[day] != points or latest > day:
        yield f"{points} points counted as sent on a day, {sent[latest]} in the journal"


def _wrong_activity(books: Books, rows: MemberRows, stored: Account) -> Iterator[str]:
    """Where points expire by inactivity, the latest activity is known; the first version did not count that."""
    by_inactivity = {version for version, one in books.programs.items() if one.points.expiry.kind == "inactivity"}
    if not by_inactivity:
        return
    known, latest = instant(stored.counters.get("active_at")), None
    for entry in rows.entries.values():
        in_force = entry.detail.get("shown_by", entry.row["program_version"])
        if _is_activity(entry) and entry.is_short and in_force in by_inactivity:
            latest = max(latest or entry.row["occurred_at"], entry.row["occurred_at"])
    if latest and (known is None or known < latest):
        yield f"last active at {known}, in the journal at {latest}"
    alive = stored.counters.get("alive")
    if alive is not None and known is not None:
        yield from _wrong_run(books, rows, known, alive)


def _wrong_run(books: Books, rows: MemberRows, last: datetime, alive: list[str]) -> Iterator[str]:
    """A run of activities begins with one, and points live by it as long as the last one of it says."""
    since, until = alive
    if all(instant_text(entry.row["occurred_at"]) != since for entry in rows.entries.values() if _is_activity(entry)):
        yield f"active without a gap since {since}, when nothing happened"
    stores = {None, *(entry.row["store"] for entry in rows.entries.values())}
    programs = [one for one in books.programs.values() if one.points.expiry.kind == "inactivity"]
    ends = [program.expires_at(last, store) or last for program in programs for store in stores]
    if not min(ends) <= datetime.fromisoformat(until) <= max(ends):
        yield f"points live until {until}, by the last activity until {instant_text(max(ends))}"


def _is_activity(entry: ReadEntry) -> bool:
    """Whether an entry earned or spent."""
    if entry.kind == "purchase_recorded":
        return bool(entry.moved["program>"] or entry.moved[">spent"])
    return entry.kind in _ACTIVITIES


def _wrong_metric(books: Books, rows: MemberRows, counters: Counters) -> Iterator[str]:
    """What counts for tiers, by day, is what the purchases noted, less what came back of them.

    A program that counts another metric begins with nothing, so where there were two no more than that is known.
    """
    notes: list[tuple[int, str, int]] = []
    newest = 0
    for row in rows.purchases:
        document = rows.purchase(row)
        note = document.get("counted")
        if note is None or "applied" not in note:
            return  # earlier versions noted less than they counted
        newest = max(newest, _ordinal(note["day"]))
        if "metric" in note:
            notes.append((_ordinal(note["day"]), note["metric"], _left(document, note["metric"])))
    metrics = {name for _, name, _ in notes}
    name, *flat = counters.get("metric") or [next(iter(metrics), None)]
    counted: Days = {}
    for day, of, value in notes:
        if of == name and value:
            _add(counted, day, (value,))
    told = _days(flat, width=2)
    if told != counted:
        kept = min(map(days_kept, books.programs.values()), default=-1) if metrics == {name} else -1
        for day in counted.keys() | told.keys():
            if _differ(told.get(day), counted.get(day), exact=day >= newest - kept):
                words = f"by the purchases {counted.get(day)}"
                yield f"{told.get(day)} {name} of {date.fromordinal(day)} counted for tiers, {words}"


def _left(document: PurchaseDocument, metric: str) -> int:
    """What a purchase counts for tiers, less what came back of it."""
    match metric:
        case "points":
            return document["points_earned"] - sum([sum(line["reversed"].values()) for line in document["lines"]])
        case "amount":
            home, money = document.get("home"), document.get("money", document["amount"])
            return at_home(home, money) - (at_home(home, money_back(document)) if document["returns"] else 0)
        case _:
            return 1 - came_back_whole(document)


def _unsettled(books: Books, rows: MemberRows, stored: Account) -> Iterator[str]:
    """What purchases gave that may come back, by day; a day goes once its purchases can come back no more."""
    sums: dict[int, int] = {}
    for row in rows.purchases:
        document = rows.purchase(row)
        note = document.get("counted")
        if note is not None and "applied" in note and note.get("unsettled"):
            undone = sum([sum(line["reversed"].values()) for line in document["lines"]])
            day = _ordinal(note["day"])
            sums[day] = sums.get(day, 0) + document["points_earned"] - undone
    given = {day: points for day, points in sums.items() if points > 0}
    told = {day: points for day, (points,) in _days(stored.counters.get("unsettled", []), width=2).items()}
    if told == given:
        return
    days_kept = min((program.tier_policy.return_days for program in books.programs.values()), default=0)
    newest = stored.changed_at.date().toordinal()
    for day, points in given.items():
        if told.get(day, points) != points or (day not in told and newest - day < days_kept):
            words = f"counted as unsettled, {points} by the purchases"
            yield f"{told.get(day, 0)} points of {date.fromordinal(day)} {words}"
    if told.keys() - given.keys():
        yield "points counted as unsettled that no purchase gave"


def _wrong_lapsed(rows: MemberRows, counters: Counters) -> Iterator[str]:
    """No more points expired at an instant, and were not given back since, than the postings say; old ones go."""
    told = counters.get("lapsed", [])
    if not told:
        return
    gone: defaultdict[str, int] = defaultdict(int)
    for posting in (one for entry in rows.entries.values() for one in entry.postings):
        if posting["to"] == "expired" and posting["reason"] == "expired":
            gone[posting["expires_at"]] += posting["points"]
        elif posting["from"] == "expired":
            gone[posting["expires_at"]] -= posting["points"]
    for points, at in told:
        if not 0 < points <= gone[at]:
            yield f"{points} points of {at} counted as expired, {gone[at]} by the journal"


def _wrong_count(rows: MemberRows, counters: Counters) -> Iterator[str]:
    entries = rows.entries.values()
    undone = {entry.detail["purchase"] for entry in entries if entry.detail.get("undone")}
    bought = sum([entry.kind == "purchase_recorded" for entry in entries]) - len(undone)
    if purchase_count(counters) != bought:
        yield f"{purchase_count(counters)} purchases counted, {bought} in the journal"
    redeemed: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.kind in REDEEMED:
            redeemed[entry.detail["reward"]] += REDEEMED[entry.kind] * entry.detail["quantity"]
    for reward in redeemed.keys() | counters.get("rewards", {}).keys():
        had = times_redeemed(counters, reward)
        if had != redeemed[reward]:
            yield f"{had} of {reward} counted as redeemed, {redeemed[reward]} in the journal"
    thanked = _thanked(rows)
    if counters.get("referrals", []) != thanked:
        yield f"{len(counters.get('referrals', []))} referrals counted, {len(thanked)} in the journal"
    active_at = counters.get("active_at")
    if active_at and all(instant_text(entry.row["occurred_at"]) != active_at for entry in reversed(entries)):
        yield f"last active at {active_at}, when nothing happened"
    for standing in counters.get("tier_before", ()):
        if standing not in _standings(rows):
            yield f"a return may bring back {standing}, which the member never had"
    yield from _wrong_offers(rows, counters, undone)


def _thanked(rows: MemberRows) -> list[Any]:
    """For which newcomers the journal thanks, and for which purchase of theirs; earlier versions did not say which."""
    thanks: Counters = {}
    for entry in rows.entries.values():
        detail = entry.detail
        if entry.kind == "referral_credited" and "purchase" in detail:
            told = [date.fromisoformat(detail["day"]), entry.row["points"]] if "day" in detail else []
            told += [detail["expires_at"]] if "expires_at" in detail else []
            thanks = with_thanks(thanks, detail["referee"], detail["purchase"], *told)
        elif entry.kind == "referral_credited":
            thanks = {"referrals": [*thanks.get("referrals", ()), detail["referee"]]}
        elif entry.kind == "referral_returned":
            thanks = without_thanks(thanks, detail["referee"])
            if detail.get("points_forgiven"):
                thanks = with_thanks(thanks, detail["referee"], NO_PURCHASE)
    return thanks.get("referrals", [])


def _standings(rows: MemberRows) -> list[list[str | None]]:
    """Every tier the member has had: code, since and until."""
    changes = [entry.detail["tier"] for entry in rows.entries.values() if "tier" in entry.detail]
    enrolled_at = instant_text(rows.journal[0]["recorded_at"])
    first = [[one["from"], enrolled_at, None] for one in changes[:1]]
    return first + [[one["to"], one["since"], one["until"]] for one in changes]


def _wrong_offers(rows: MemberRows, counters: Counters, undone: set[int]) -> Iterator[str]:
    """What the notes of the purchases that were not undone sum to; earlier versions noted less than they counted."""
    documents = {row["version"]: rows.purchase(row) for row in rows.purchases}
    notes: dict[int, CountedDocument] = {}
    for version, document in documents.items():
        note = document.get("counted")
        if note is None or "applied" not in note:
            return
        notes[version] = note
    kept = [version for version in notes if version not in undone]
    applied: dict[str, int] = {}
    for version in kept:
        for reason in notes[version]["applied"]:
            applied[reason] = applied.get(reason, 0) + 1
    if counters.get("applied", {}) != applied:
        yield f"offers counted as applied {counters.get('applied', {})}, by the purchases {applied}"
    days: dict[str, Days] = defaultdict(dict)
    for version in kept:
        day = _ordinal(notes[version]["day"])
        _add(days["purchases"], day, (1, limited_points(documents[version])))
        for reason in notes[version]["applied_on"]:
            _add(days[reason], day, (1,))
    told = {"purchases": _days(counters.get("days", []), width=3)}
    told |= {reason: _days(pairs, width=2) for reason, pairs in counters.get("applied_on", {}).items()}
    newest = max([_ordinal(note["day"]) for note in notes.values()], default=0)
    if told != days:
        yield from _wrong_days(told, days, newest)


def _wrong_days(told: dict[str, Days], days: dict[str, Days], newest: int) -> Iterator[str]:
    for name in days.keys() | told.keys():
        there, counted = told.get(name, {}), days.get(name, {})
        for day in counted.keys() | there.keys():
            says, should = there.get(day), counted.get(day)
            if _differ(says, should, exact=day >= newest - DAYS_KEPT):
                yield f"{name} of {date.fromordinal(day)} counted as {says}, by the purchases {should}"


def _differ(says: tuple[int, ...] | None, should: tuple[int, ...] | None, *, exact: bool) -> bool:
    """Days long past may be forgotten, and begin anew with a purchase of then; sums end at what a counter can hold."""
    if says == should or (says is None and not exact):
        return False
    if says is None or should is None:
        return True
    return any(is_ > most or (exact and is_ < min(most, COUNT_MAX)) for is_, most in zip(says, should, strict=True))


@lru_cache(_DAYS_KEPT)
def _ordinal(day: str) -> int:
    return date.fromisoformat(day).toordinal()


def _add(days: Days, day: int, values: tuple[int, ...]) -> None:
    before = days.get(day)
    days[day] = values if before is None else tuple(map(sum, zip(before, values, strict=True)))


def _days(flat: list[int], *, width: int) -> Days:
    return {flat[at]: tuple(flat[at + 1 : at + width]) for at in range(0, len(flat), width)}
