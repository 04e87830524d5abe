"""What the rules of another program would have decided is found: prices, days, limits, thanks, offers.

A member lives under one program, and `verify` is given another one in its place: a bug of the rules that gives as much
too little or too much looks the same. Under their own program nothing is found.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
import pytest

from rules.command import AdjustPoints, CaptureHold, PlaceHold, RedeemReward, SettleAccount
from tests.member_rows import ADA, TOPOLOGY, rows_of
from tests.rules_world import NOW, TIERS, Member, campaign, later, line, program
from verify.books import TERMS, TIMELY, Books, MemberRows
from verify.ledger import check_member

Life = Callable[[Member], object]


def reward(points: int, valid_days: int = 30, per_member: int = 9) -> str:
    limits = f"valid_days = {valid_days}\nper_member = {per_member}\n"
    return f'[[rewards]]\ncode = "r"\nname = "R"\npoints = {points}\n{limits}'


def referral(referrer: int, newcomer: int, least: int = 0) -> str:
    return f"[referral]\nreferrer = {referrer}\nnewcomer = {newcomer}\nmin_amount = {least}\n"


def limits(**most: int) -> str:
    return f"limits = {{ {', '.join(f'{name} = {points}' for name, points in most.items())} }}"


def buy(member: Member) -> int:
    return member.buy(line(5000)).version


def buy_twice(member: Member) -> None:
    buy(member)
    member.buy(line(5000), at=later(hours=1))


def in_silver(member: Member) -> None:
    member.buy(line(10_000))
    buy(member)


def offer(when: str, **keys: str) -> str:
    return campaign("c", "fixed = 3", when=f"{{ {when} }}", **keys)


def group(first: int, second: int) -> str:
    return campaign("c", f"fixed = {first}", group='"g"') + campaign("d", f"fixed = {second}", group='"g"')


def redeem(member: Member) -> None:
    member.ok(AdjustPoints(100, "gift", NOW))
    for _ in range(2):
        member.ok(RedeemReward("r", 1, "code", NOW))


def spend_and_return(member: Member) -> None:
    version = buy(member)
    member.ok(CaptureHold(member.ok(PlaceHold(30, None, NOW)).version, None, NOW))
    member.bring_all_back(version)


INACTIVITY = 'expiry = {{ kind = "inactivity", months = {} }}'
ROLLING = 'expiry = {{ kind = "rolling", months = {} }}'
CASES: dict[str, tuple[Life, tuple[str, str], tuple[str, str]]] = {
    "a reward for fewer points": (redeem, ("", reward(5)), ("", reward(10))),
    "a reward that may be used longer": (redeem, ("", reward(5, valid_days=31)), ("", reward(5))),
    "a reward too often": (redeem, ("", reward(5)), ("", reward(5, per_member=1))),
    "points that live longer": (buy, (ROLLING.format(2), ""), (ROLLING.format(1), "")),
    "points that live shorter": (buy, (ROLLING.format(1), ""), (ROLLING.format(2), "")),
    "points that never end": (buy, ("", ""), (ROLLING.format(1), "")),
    "points available sooner": (buy, ("pending_days = 3", ""), ("pending_days = 4", "")),
    "points available at once": (buy, ("", ""), ("pending_days = 4", "")),
    "points by inactivity that live longer": (
        buy_twice, (INACTIVITY.format(2), ""), (INACTIVITY.format(1), ""),
    ),
    "other thanks": (buy, ("", referral(10, 5)), ("", referral(11, 5))),
    "thanks forgotten": (buy, ("", referral(0, 5)), ("", referral(11, 5))),
    "thanks for too little": (buy, ("", referral(10, 5)), ("", referral(10, 5, least=9999))),
    "another welcome": (buy, ("", referral(10, 5)), ("", referral(10, 0))),
    "debt that should be forgiven": (spend_and_return, ("", ""), ('on_return = "forgive"', "")),
    "points forgiven that should be owed": (spend_and_return, ('on_return = "forgive"', ""), ("", "")),
    "points forgiven by a return that should be refused": (
        spend_and_return, ('on_return = "forgive"', ""), ('on_return = "refuse"', ""),
    ),
    "a purchase beyond its limit": (buy, ("", ""), (limits(per_purchase=9), "")),
    "a day beyond its limit": (buy_twice, (limits(per_day=99), ""), (limits(per_day=60), "")),
    "an offer too often": (
        buy_twice,
        ("", campaign("c", "fixed = 3", limits="{ per_member = 2 }")),
        ("", campaign("c", "fixed = 3", limits="{ per_member = 1 }")),
    ),
    "an offer too often on a day": (
        buy_twice,
        ("", campaign("c", "fixed = 3", limits="{ per_member_per_day = 2 }")),
        ("", campaign("c", "fixed = 3", limits="{ per_member_per_day = 1 }")),
    ),
    "nothing for money": (buy, ('per_unit = "0"', ""), ("", "")),
    "nothing for a tier": (in_silver, ("", TIERS.replace("1.25", "1")), ("", TIERS)),
    "an offer of another store": (buy, ("", offer("")), ("", offer('stores = ["331"]'))),
    "an offer for another tier": (buy, ("", offer("") + TIERS), ("", offer('tiers = ["gold"]') + TIERS)),
    "an offer of another weekday": (buy, ("", offer("")), ("", offer('weekdays = ["mon"]'))),
    "an offer of another hour": (buy, ("", offer("")), ("", offer('from = "11:00"'))),
    "an offer that had ended": (buy, ("", offer("")), ("", offer("", ends_at='"2026-11-22T09:00:00Z"'))),
    "an offer withheld": (buy, ("", offer('stores = ["331"]')), ("", offer(""))),
    "an offer withheld for too little money": (buy, ("", offer("min_amount = 5001")), ("", offer(""))),
    "an offer for the first purchase": (buy_twice, ("", offer("")), ("", offer("first_purchase = true"))),
    "a lesser offer of a group": (buy, ("", group(3, 2)), ("", group(2, 3))),
    "a tier that was reached": (buy, ("", TIERS.replace("100", "200")), ("", TIERS.replace("100", "50"))),
    "an offer passed over": (buy, ("", offer("", ends_at='"2026-11-22T09:00:00Z"')), ("", offer(""))),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_what_another_program_would_have_decided_is_found(what: str) -> None:
    live, own, other = CASES[what]
    member = Member(program(own[1], points=own[0]), member_id=ADA, referrer=99)
    live(member)
    rows = rows_of(member, [member.program] * len(member.journal))
    assert wrong_by(member.program, rows) == {}
    assert TERMS in wrong_by(program(other[1], points=other[0]), rows)


def wrong_by(rules: Any, rows: MemberRows) -> dict[str, list[str]]:
    rows.entries.clear()
    books = Books("eu-1", TOPOLOGY, {1: rules})
    check_member(books, rows)
    return {one.check: one.examples for one in books.findings.values() if not one.ok}


def an_end(member: Member) -> None:
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(days=2)))
    member.say(SettleAccount(later(days=3)))


def a_beginning(member: Member) -> None:
    member.ok(AdjustPoints(10, "gift", NOW, pending_until=later(days=2)))
    member.say(SettleAccount(later(days=3)))


def a_lapse(member: Member) -> None:
    member.ok(AdjustPoints(10, "gift", NOW))
    member.ok(PlaceHold(10, 600, NOW))
    member.say(SettleAccount(later(days=3)))


def a_redemption_that_ends(member: Member) -> None:
    redeem(member)
    member.say(SettleAccount(later(days=99)))


@pytest.mark.parametrize("live", [an_end, a_beginning, a_lapse, a_redemption_that_ends])
@pytest.mark.parametrize("delta", [timedelta(seconds=-1), timedelta(seconds=1)])
def test_what_time_alone_changes_is_found_where_it_comes_sooner_or_later(live: Life, delta: timedelta) -> None:
    member = Member(program(reward(10)), member_id=ADA)
    live(member)
    rows = rows_of(member, [member.program] * len(member.journal))
    assert wrong_by(member.program, rows) == {}
    rows.journal[-1]["occurred_at"] += delta
    assert TIMELY in wrong_by(member.program, rows)


def test_points_that_are_used_after_their_end_are_found() -> None:
    """Were the hold placed two days later, nobody would have let them expire."""
    member = Member(program(), member_id=ADA)
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(days=1)))
    member.ok(PlaceHold(5, None, NOW))
    rows = rows_of(member, [member.program] * len(member.journal))
    rows.journal[-1]["recorded_at"] += timedelta(days=2)
    (told,) = wrong_by(member.program, rows)[TIMELY]
    assert "passes over what was due at 2026-11-23T10:00:00Z" in told


def test_points_that_end_later_taken_first_are_found() -> None:
    member = Member(program(), member_id=ADA)
    for days in (1, 2):
        member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(days=days)))
    member.ok(PlaceHold(5, None, NOW))
    rows = rows_of(member, [member.program] * len(member.journal))
    (posting,) = orjson.loads(rows.journal[-1]["postings"])
    posting[4] = "2026-11-24T10:00:00Z"
    rows.journal[-1]["postings"] = orjson.dumps([posting]).decode()
    assert "leaves points that expire at 2026-11-23T10:00:00Z" in wrong_by(member.program, rows)[TIMELY][0]


def test_points_forgiven_though_there_are_others_are_found() -> None:
    member = Member(program(points='on_return = "forgive"'), member_id=ADA)
    member.ok(AdjustPoints(30, "gift", NOW))
    version = buy(member)
    member.ok(CaptureHold(member.ok(PlaceHold(80, None, NOW)).version, None, NOW))
    member.bring_all_back(version)
    rows = rows_of(member, [member.program] * len(member.journal))
    shown: list[Any] = orjson.loads(rows.journal[-1]["account_after"])
    rows.journal[-1]["account_after"] = orjson.dumps([5, *shown[1:]]).decode()
    assert "50 points are forgiven and 0 owed, though there are others" in wrong_by(member.program, rows)[TERMS][0]
