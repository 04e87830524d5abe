"""What time alone does: activation, expiry of each kind, lapse; at its instant, one entry each."""

from dataclasses import replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from rules.command import AdjustPoints, CancelRedemption, CaptureHold, PlaceHold, RedeemReward, SettleAccount, VoidHold
from rules.dates import end_of_day
from rules.decide import decide
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
    assert [entry.kind for entry in member.journal[-2:]] == ["hold_placed", "hold_lapsed"]
    assert moves(member.journal[-1]) == [
        (10, "held", "available"), (5, "held", "available"), (10, "available", "expired"),
    ]  # fmt: skip
    assert (member.now.available, member.now.expired, member.now.held) == (10, 10, 0)


def test_points_that_expire_when_their_hold_lapses_leave_the_others_of_that_instant_an_entry_of_their_own() -> None:
    member = Member(program())
    member.ok(AdjustPoints(30, "gift", NOW, expires_at=later(hours=1)))
    member.ok(PlaceHold(10, 3600, NOW))
    member.say(SettleAccount(later(hours=1)))
    assert [(entry.kind, moves(entry)) for entry in member.journal[-2:]] == [
        ("hold_lapsed", [(10, "held", "available"), (10, "available", "expired")]),
        ("points_expired", [(20, "available", "expired")]),
    ]


def in_debt(points: int, gift: int = 0) -> Member:
    """Spent what a return then took; `gift` points lie in a hold that outlives them."""
    member = Member(program(points='expiry = { kind = "rolling" }'))
    version = member.buy(line(points * 100)).version
    member.ok(CaptureHold(member.ok(PlaceHold(points, None, NOW)).version, None, NOW))
    if gift:
        member.ok(AdjustPoints(gift, "gift", NOW, expires_at=later(minutes=5)))
        member.ok(PlaceHold(gift, 600, NOW))
    member.bring_all_back(version)
    return member


def test_what_expired_in_a_hold_that_kept_it_from_a_debt_pays_that_first() -> None:
    for gift, debt, expired in ((8, 2, 0), (12, 0, 2)):
        member = in_debt(10, gift=gift)
        member.say(SettleAccount(later(days=1)))
        assert (member.now.debt, member.now.available, member.now.expired) == (debt, 0, expired)


def test_an_expired_offline_basket_pays_no_debt() -> None:
    member = in_debt(10)
    entry = member.buy(line(700), at=later(days=-600), received_at=NOW)
    assert moves(entry) == [(7, "program", "available"), (7, "available", "expired")]
    assert member.now.debt == 10


def test_pending_points_expire_at_their_instant() -> None:
    member = Member(program(points='pending_days = 14\nexpiry = { kind = "fixed_dates", dates = ["12-31"] }'))
    member.buy(line(1000), at=at("2026-12-25T10:00:00Z"))
    assert member.now.due_at == at("2026-12-31T23:59:59Z")
    member.say(SettleAccount(at("2027-01-20T00:00:00Z")))
    assert (member.journal[-1].kind, moves(member.journal[-1])) == ("points_expired", [(10, "pending", "expired")])
    assert (member.now.pending, member.now.available, member.now.expired) == (0, 0, 10)


def test_pending_points_whose_expiry_is_their_activation_expire_without_becoming_available() -> None:
    member = Member(program())
    ends_at = later(days=2)
    member.ok(AdjustPoints(10, "gift", NOW, pending_until=ends_at, expires_at=later(days=2, hours=1)))
    lot = replace(member.now.lots[0], expires_at=ends_at)  # an older version did not refuse it
    decision = decide(replace(member.now, lots=(lot,)), SettleAccount(ends_at), member.program)
    assert [moves(entry) for entry in decision.settled] == [[(10, "pending", "expired")]]


def test_an_offline_basket_that_expired_while_pending_earns_and_expires_in_one_entry() -> None:
    member = Member(program(points='pending_days = 40\nexpiry = { kind = "rolling", months = 1, round = "none" }'))
    entry = member.buy(line(700), at=later(days=-34), received_at=NOW)
    assert moves(entry) == [(7, "program", "pending"), (7, "pending", "expired")]
    assert member.now.due_at is None


@pytest.mark.parametrize(
    ("zone", "day", "ends_at"),
    [
        ("America/Santiago", "2026-04-04", "2026-04-05T03:59:59Z"),
        ("Africa/Cairo", "2030-10-31", "2030-10-31T21:59:59Z"),
        ("Europe/Berlin", "2026-10-25", "2026-10-25T22:59:59Z"),
    ],
)
def test_where_the_last_hour_of_a_day_comes_twice_the_day_ends_with_the_second(
    zone: str, day: str, ends_at: str
) -> None:
    assert end_of_day(date.fromisoformat(day), ZoneInfo(zone)) == at(ends_at)


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


def test_a_purchase_that_earns_and_spends_nothing_keeps_no_points_alive() -> None:
    member = Member(program(points='expiry = { kind = "inactivity", months = 6 }'))
    member.ok(AdjustPoints(10, "gift", NOW))
    ends_at = member.now.due_at
    assert member.buy(line(50), at=later(days=100)).postings == ()
    assert member.now.due_at == ends_at
    member.buy(line(100), at=later(days=100))
    assert member.now.due_at != ends_at


def test_under_inactivity_what_has_expired_in_a_hold_is_not_kept_alive() -> None:
    member = Member(program(points='expiry = { kind = "inactivity", months = 6 }'))
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(days=200)))
    hold = member.ok(PlaceHold(10, 3600, later(days=199, hours=23, minutes=30))).version
    member.buy(line(500), at=later(days=200, minutes=10))
    entry = member.ok(VoidHold(hold, later(days=200, minutes=20)))
    assert moves(entry) == [(10, "held", "available"), (10, "available", "expired")]


def test_under_inactivity_what_a_return_takes_is_found_though_it_has_moved() -> None:
    member = Member(program(points='pending_days = 60\nexpiry = { kind = "inactivity", months = 6 }'))
    version = member.buy(line(1000)).version
    member.ok(AdjustPoints(5, "gift", later(days=3)))
    assert moves(member.bring_back(version, (1, 1), at=later(days=4))) == [(10, "pending", "program")]


MONTH = 'expiry = { kind = "inactivity", months = 1 }'


@pytest.mark.parametrize("days", [(-25, -5), (-5, -25), (-35, -20), (-20, -35), (-20, -35, -5), (-5, -35, -20)])
def test_under_inactivity_baskets_expire_from_the_latest_one_in_whatever_order_they_come(days: tuple[int, ...]) -> None:
    member = Member(program(points=MONTH))
    came = NOW if days[0] > days[-1] else None  # in order each comes on its day
    for day in days:
        member.buy(line(1000), at=later(days=day), received_at=came)
    ends_at = member.program.expires_at(later(days=max(days)))
    assert [(lot.points, lot.expires_at) for lot in member.now.lots] == [(10 * len(days), ends_at)]
    assert [member.purchases[entry.version].document["expires_at"] for entry in member.journal[-1:]]


def test_under_inactivity_a_late_basket_expires_from_a_spend_since() -> None:
    member = Member(program(points=MONTH + "\nworth = { points = 1, amount = 1 }"))
    member.ok(AdjustPoints(10, "gift", later(days=-9)))
    member.ok(PlaceHold(5, None, later(days=-8)))
    member.ok(AdjustPoints(-1, "taken", later(days=-2)))
    entry = member.buy(line(1000), at=later(days=-34), received_at=NOW)
    assert entry.postings[0].expires_at == member.program.expires_at(later(days=-2))
    assert member.now.counters["active_at"] == "2026-11-20T10:00:00Z"


def test_under_inactivity_an_activity_before_a_hold_s_points_expired_keeps_them_till_the_latest() -> None:
    member = Member(program(points=MONTH + "\nhold_max_s = 1000000"))
    member.ok(AdjustPoints(10, "gift", later(days=-32)))
    member.ok(PlaceHold(10, 10**6, later(days=-3)))
    assert "renewed" not in [one.reason for one in member.buy(line(1000), at=NOW).postings]
    entry = member.buy(line(1000), at=later(days=-2), received_at=NOW)
    renewed = [(one.points, one.source, one.expires_at) for one in entry.postings if one.reason == "renewed"]
    assert renewed == [(10, "held", member.program.expires_at(NOW))]


REWARDED = '[[rewards]]\ncode = "r"\nname = "R"\npoints = 10\n'


@pytest.mark.parametrize("bought_between", [0, 1])
def test_under_inactivity_what_is_spent_is_kept_alive_too_should_it_come_back(bought_between: int) -> None:
    """By its purchase, and by any that follows in time."""
    member = Member(program(REWARDED, points=MONTH + "\nworth = { points = 1, amount = 1 }"))
    member.ok(AdjustPoints(40, "gift", NOW))
    hold = member.ok(PlaceHold(10, None, later(days=28))).version
    redeemed = member.ok(RedeemReward("r", 1, "code", later(days=28))).version
    paid = member.buy(line(500), at=later(days=28), capture_holds=(hold,), pay_with_points=5).version
    if bought_between:
        member.buy(line(100), at=later(days=45))
    at = later(days=70 if bought_between else 50)
    member.ok(CancelRedemption(redeemed, at))
    member.bring_back(paid, (1, 1), at=at)
    alive_until = member.program.expires_at(later(days=45 if bought_between else 28))
    assert (member.now.available, member.now.expired) == (41 if bought_between else 40, 0)
    assert {lot.expires_at for lot in member.now.lots} == {alive_until}


def test_under_inactivity_what_is_spent_ends_a_month_after_the_last_activity_that_came_in_time() -> None:
    member = Member(program(REWARDED, points=MONTH))
    member.ok(AdjustPoints(10, "gift", NOW))
    redeemed = member.ok(RedeemReward("r", 1, "code", NOW)).version
    member.buy(line(100), at=later(days=90))
    assert moves(member.ok(CancelRedemption(redeemed, later(days=91)))) == [
        (10, "spent", "available"), (10, "available", "expired"),
    ]  # fmt: skip


def test_a_program_that_does_not_count_activity_notes_none() -> None:
    member = Member(program())
    member.buy(line(1000))
    assert "active_at" not in member.now.counters


def test_an_unused_redemption_ends_at_its_time_and_its_points_stay_spent() -> None:
    reward = '[[rewards]]\ncode = "r"\nname = "R"\npoints = 10\nvalid_days = 2\n'
    member = Member(program(reward))
    member.ok(AdjustPoints(10, "gift", NOW))
    member.ok(RedeemReward("r", 1, "code", NOW))
    member.say(SettleAccount(at("2026-11-24T23:59:59Z")))
    assert member.journal[-1].kind == "redemption_expired"
    assert (member.now.redemptions, member.now.spent) == ((), 10)


def test_time_never_goes_back_for_a_member_whatever_a_clock_says() -> None:
    member = Member(program())
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(minutes=30)))
    member.ok(PlaceHold(5, 600, NOW))
    member.ok(AdjustPoints(7, "gift", later(hours=1)))
    after = member.now
    entry = member.ok(PlaceHold(7, 60, NOW))
    assert (entry.occurred_at, entry.account.changed_at) == (later(hours=1), later(hours=1))
    assert member.now.holds[0].expires_at == later(hours=1, minutes=1)
    assert (after.expired, member.now.expired) == (10, 10)
    assert member.idle(SettleAccount(NOW))
