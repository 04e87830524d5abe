"""What time alone does: activation, expiry of each kind, lapse; at its instant, one entry each."""

from datetime import datetime

import pytest

from rules.command import AdjustPoints, PlaceHold, RedeemReward, SettleAccount, VoidHold
from tests.rules_world import NOW, Member, later, line, moves, program


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("expiry", "occurred_at", "expires_at"),
    [
        ('kind = "none"', "2026-11-22T10:00:00Z", None),
        ('kind = "rolling"', "2026-11-22T10:00:00Z", "2027-11-30T22:59:59Z"),
        ('kind = "rolling", round = "none"', "2026-11-22T10:00:00Z", "2027-11-22T10:00:00Z"),
        ('kind = "rolling", months = 3, round = "day"', "2026-11-30T10:00:00Z", "2027-02-28T22:59:59Z"),
        ('kind = "rolling", months = 1, round = "year_end"', "2026-12-05T10:00:00Z", "2027-12-31T22:59:59Z"),
        ('kind = "rolling", months = 1', "2026-11-30T23:30:00Z", "2027-01-31T22:59:59Z"),  # already December in Berlin
        ('kind = "fixed_dates", dates = ["12-31", "06-30"]', "2026-11-22T10:00:00Z", "2026-12-31T22:59:59Z"),
        ('kind = "fixed_dates", dates = ["12-31", "06-30"], months = 2', "2026-11-22T10:00:00Z", "2027-06-30T21:59:59Z"),  # noqa: E501 - a table
        ('kind = "fixed_dates", dates = ["02-29"]', "2027-01-01T10:00:00Z", "2027-02-28T22:59:59Z"),
        ('kind = "inactivity", months = 6', "2026-11-22T10:00:00Z", "2027-05-22T21:59:59Z"),
    ],
)  # fmt: skip
def test_points_expire_by_the_programs_own_calendar(expiry: str, occurred_at: str, expires_at: str | None) -> None:
    rules = program(points=f"expiry = {{ {expiry} }}", zone="Europe/Berlin")
    assert rules.expires_at(at(occurred_at)) == (expires_at and at(expires_at))


def test_pending_points_wait_for_the_start_of_a_day_and_expire_counted_from_the_purchase() -> None:
    rules = program(points='pending_days = 14\nexpiry = { kind = "rolling" }', zone="Europe/Berlin")
    member = Member(rules)
    member.buy(line(1000))
    assert (member.now.available, member.now.pending, member.now.due_at) == (0, 10, at("2026-12-05T23:00:00Z"))
    member.say(SettleAccount(at("2026-12-05T22:59:59Z")))
    assert member.now.available == 0
    member.say(SettleAccount(at("2026-12-05T23:00:00Z")))
    assert (member.now.available, member.now.due_at) == (10, at("2027-11-30T22:59:59Z"))
    assert member.journal[-1].occurred_at == at("2026-12-05T23:00:00Z")


def test_a_basket_received_after_its_pending_time_is_available_at_once() -> None:
    member = Member(program(points="pending_days = 2"))
    assert moves(member.buy(line(1000), at=later(days=-5), received_at=NOW)) == [(10, "program", "available")]


def test_no_command_sees_points_that_expired_before_it() -> None:
    member = Member(program())
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(days=1)))
    assert member.refused(PlaceHold(10, None, later(days=1))) == "insufficient_points"
    assert member.journal[-1].kind == "points_expired"


def test_a_hold_lapses_by_itself_and_gives_lots_back_with_their_own_expiry() -> None:
    member = Member(program())
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(minutes=30)))
    member.ok(AdjustPoints(10, "gift", NOW))
    member.ok(PlaceHold(15, 3600, NOW))
    member.say(SettleAccount(later(hours=1)))
    assert [entry.kind for entry in member.journal[-2:]] == ["hold_lapsed", "points_expired"]
    assert (member.now.available, member.now.expired, member.now.held) == (10, 10, 0)


def test_under_inactivity_every_earn_or_spend_moves_all_points_also_held_and_pending_ones() -> None:
    member = Member(program(points='pending_days = 60\nexpiry = { kind = "inactivity", months = 6 }'))
    member.ok(AdjustPoints(100, "gift", NOW))
    hold = member.ok(PlaceHold(40, None, NOW)).version
    member.buy(line(1000), at=later(hours=1))
    entry = member.buy(line(1000), at=later(hours=20))
    renewed = [posting for posting in entry.postings if posting.reason == "renewed"]
    assert [(posting.points, posting.source) for posting in renewed] == [
        (60, "available"),
        (10, "pending"),
        (40, "held"),
    ]
    ends_at = at("2027-05-23T23:59:59Z")
    assert {lot.expires_at for lot in member.now.lots} == {ends_at}
    member.ok(VoidHold(hold, later(hours=21)))
    assert [(lot.points, lot.expires_at) for lot in member.now.available_lots] == [(100, ends_at)]
    member.say(SettleAccount(ends_at))
    assert (member.now.available, member.now.expired) == (0, 120)


def test_under_inactivity_what_a_return_takes_is_found_though_it_has_moved() -> None:
    member = Member(program(points='pending_days = 60\nexpiry = { kind = "inactivity", months = 6 }'))
    version = member.buy(line(1000)).version
    member.ok(AdjustPoints(5, "gift", later(days=3)))
    assert moves(member.bring_back(version, (1, 1), at=later(days=4))) == [(10, "pending", "program")]


def test_an_unused_redemption_ends_at_its_time_and_its_points_stay_spent() -> None:
    reward = '[[rewards]]\ncode = "r"\nname = "R"\npoints = 10\nvalid_days = 2\n'
    member = Member(program(reward))
    member.ok(AdjustPoints(10, "gift", NOW))
    member.ok(RedeemReward("r", 1, "code", NOW))
    member.say(SettleAccount(at("2026-11-24T23:59:59Z")))
    assert member.journal[-1].kind == "redemption_expired"
    assert (member.now.redemptions, member.now.spent) == ((), 10)
