"""Points on their way: holds, redemptions, transfers, thanks, and the end of a membership."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from rules.codec import parse_lots
from rules.command import (
    AdjustPoints,
    CancelRedemption,
    CancelTransfer,
    CaptureHold,
    CloseMember,
    Command,
    CreditReferral,
    PlaceHold,
    ReceiveTransfer,
    RedeemReward,
    SendTransfer,
    SettleTransfer,
    UseRedemption,
    VoidHold,
)
from rules.outcome import Entry, Refused
from tests.rules_world import NOW, TIERS, Member, later, line, moves, program, purchase

REWARDS = """
[[rewards]]
code = "coffee"
name = "A coffee"
points = 150
per_member = 2
[[rewards]]
code = "book"
name = "A book"
points = 10
stock = 5
"""


def rich(points: int = 1000, *parts: str) -> Member:
    member = Member(program(*(parts or (REWARDS,))))
    member.ok(AdjustPoints(points // 2, "gift", NOW, expires_at=later(days=1)))
    member.ok(AdjustPoints(points - points // 2, "gift", NOW, expires_at=later(days=9)))
    return member


def lots(member: Member) -> list[tuple[int, timedelta]]:
    return [(lot.points, (lot.expires_at or NOW) - NOW) for lot in member.now.lots]


def test_void_after_hold_is_as_if_nothing_had_happened() -> None:
    member = rich()
    before = member.now
    hold = member.ok(PlaceHold(700, None, NOW)).version
    assert lots(member) == [(300, timedelta(days=9))]
    member.ok(VoidHold(hold, NOW))
    assert (member.now.lots, member.now.holds, member.now.spent) == (before.lots, (), 0)


def test_a_capture_spends_first_to_expire_first_and_releases_the_rest() -> None:
    member = rich()
    hold = member.ok(PlaceHold(700, None, NOW)).version
    member.ok(CaptureHold(hold, 600, NOW))
    assert (lots(member), member.now.spent) == ([(400, timedelta(days=9))], 600)
    assert member.refused(CaptureHold(hold, 1, NOW), hold_existed=True) == "hold_closed"


def test_a_hold_takes_no_more_than_is_available_and_a_capture_no_more_than_its_hold_has() -> None:
    member = rich()
    assert member.refused(PlaceHold(1001, None, NOW)) == "insufficient_points"
    assert (member.now.available, member.now.holds) == (1000, ())
    first, second = (member.ok(PlaceHold(points, None, NOW)).version for points in (300, 400))
    assert member.refused(CaptureHold(first, 301, NOW)) == "insufficient_points"
    assert (member.now.available, member.now.held, member.now.spent) == (300, 700, 0)
    member.ok(CaptureHold(second, 400, NOW))


@pytest.mark.parametrize(("end", "back"), [(VoidHold, 10), (lambda hold, at: CaptureHold(hold, 3, at), 7)])
def test_what_a_hold_kept_from_a_debt_pays_it_though_it_expired_meanwhile(
    end: Callable[[int, datetime], Command], back: int
) -> None:
    member = Member(program())
    version = member.buy(line(1000)).version
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(minutes=5)))
    hold = member.ok(PlaceHold(10, 3600, NOW)).version
    member.ok(CaptureHold(member.ok(PlaceHold(10, None, NOW)).version, None, NOW))
    member.bring_all_back(version)
    assert member.now.debt == 10
    entry = member.ok(end(hold, later(minutes=10)))
    assert moves(entry)[-2:] == [(back, "held", "available"), (back, "available", "debt")]
    assert (entry.points, member.now.available, member.now.debt, member.now.expired) == (back, 0, 10 - back, 0)


def test_closing_expires_what_has_expired_in_a_hold_and_forfeits_the_rest() -> None:
    member = Member(program())
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(minutes=5)))
    member.ok(AdjustPoints(7, "gift", NOW))
    member.ok(PlaceHold(12, 3600, NOW))
    assert member.ok(CloseMember(later(minutes=10))).detail == {"forfeited": 7}
    assert member.now.expired == 17


def test_a_redemption_is_paid_used_once_and_then_closed() -> None:
    member = rich()
    entry = member.ok(RedeemReward("coffee", 2, "ABC", NOW, store="330"))
    assert (entry.points, entry.detail["code"], member.now.spent) == (-300, "ABC", 300)
    used = member.ok(UseRedemption(entry.version, "330", NOW))
    assert (used.postings, used.detail["status"]) == ((), "used")
    again = UseRedemption(entry.version, "330", NOW)
    assert member.refused(again, redemption_existed=True) == "redemption_closed"
    assert member.refused(again) == "not_found"


def test_a_cancelled_redemption_gives_points_back_to_their_lots_and_one_more_may_be_redeemed() -> None:
    member = rich()
    before = member.now.lots
    version = member.ok(RedeemReward("coffee", 2, "ABC", NOW)).version
    assert member.refused(RedeemReward("coffee", 1, "DEF", NOW)) == "limit_exceeded"
    cancelled = member.ok(CancelRedemption(version, NOW))
    assert cancelled.detail == {"redemption": version, "status": "cancelled", "reward": "coffee", "quantity": 2}
    assert member.now.lots == before
    member.ok(RedeemReward("coffee", 1, "DEF", NOW))


def test_points_of_a_cancelled_redemption_that_have_expired_meanwhile_expire_at_once() -> None:
    member = rich(300)
    version = member.ok(RedeemReward("coffee", 2, "ABC", NOW)).version
    member.ok(CancelRedemption(version, later(days=2)))
    assert (member.now.available, member.now.expired) == (150, 150)


def test_points_that_come_back_pay_debt_first_unless_they_have_expired() -> None:
    member = rich(300)
    versions = [member.ok(RedeemReward("coffee", 1, code, NOW)).version for code in ("A", "B")]
    purchased = member.buy(line(4000)).version
    hold = member.ok(PlaceHold(40, None, NOW)).version
    member.ok(CaptureHold(hold, None, NOW))
    member.bring_all_back(purchased)
    assert member.now.debt == 40
    at = later(days=2)
    assert moves(member.ok(CancelRedemption(versions[0], at)))[1:] == [(150, "available", "expired")]
    assert moves(member.ok(CancelRedemption(versions[1], at)))[1:] == [(40, "available", "debt")]


@pytest.mark.parametrize(
    ("reward", "quantity", "stock_left", "reason"),
    [
        ("tea", 1, None, "reward_not_found"),
        ("coffee", 3, None, "limit_exceeded"),
        ("book", 3, 2, "out_of_stock"),
        ("book", 1, None, "out_of_stock"),
        ("book", 101, 500, "insufficient_points"),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused(
    reward: str, quantity: int, stock_left: int | None, reason: str
) -> None:
    assert rich().refused(RedeemReward(reward, quantity, "ABC", NOW), stock_left=stock_left) == reason


def test_a_reward_with_stock_left_is_given() -> None:
    assert rich().ok(RedeemReward("book", 2, "ABC", NOW), stock_left=2).points == -20


def test_a_transfer_keeps_the_expiry_of_its_points_and_conserves_them() -> None:
    sender, receiver = rich(), Member(program(), member_id=8)
    sent = sender.ok(SendTransfer(8, 600, NOW))
    assert (sender.now.available, sender.now.held) == (400, 600)
    taken = ReceiveTransfer(7, sent.version, parse_lots(sent.detail["lots"]), NOW)
    assert receiver.ok(taken).points == 600
    assert lots(receiver) == [(500, timedelta(days=1)), (100, timedelta(days=9))]
    sender.ok(SettleTransfer(sent.version, NOW))
    assert (sender.now.held, sender.now.spent, sender.now.holds) == (0, 600, ())
    assert sender.idle(SettleTransfer(sent.version, NOW), transfer_existed=True)
    assert sender.refused(CancelTransfer(sent.version, NOW)) == "not_found"


def test_a_cancelled_transfer_is_as_if_nothing_had_happened() -> None:
    sender = rich()
    before = sender.now.lots
    version = sender.ok(SendTransfer(8, 600, NOW)).version
    assert sender.now.due_at == later(days=9)  # a transfer under way does not lapse
    assert sender.refused(VoidHold(version, NOW)) == "hold_not_found"
    assert sender.refused(CaptureHold(version, None, NOW)) == "hold_not_found"
    assert sender.refused(purchase(line(100), capture_holds=(version,))) == "hold_not_found"
    sender.ok(CancelTransfer(version, NOW, "member_closed"))
    assert (sender.now.lots, sender.now.held) == (before, 0)


def test_what_expires_on_the_way_expires_with_the_receiver() -> None:
    sender, receiver = rich(), Member(program(), member_id=8)
    sent = sender.ok(SendTransfer(8, 600, NOW))
    receiver.ok(ReceiveTransfer(7, sent.version, parse_lots(sent.detail["lots"]), later(days=2)))
    assert (receiver.now.available, receiver.now.expired) == (100, 500)


@pytest.mark.parametrize(
    ("command", "reason"), [(SendTransfer(8, 1001, NOW), "insufficient_points"), (SendTransfer(7, 1, NOW), "malformed")]
)
def test_a_transfer_of_too_much_or_to_oneself_is_refused(command: SendTransfer, reason: str) -> None:
    assert rich().refused(command) == reason


def test_a_referral_is_credited_once_for_each_newcomer() -> None:
    member = Member(program())
    assert member.ok(CreditReferral(99, 2, 200, NOW)).points == 200
    assert member.idle(CreditReferral(99, 2, 200, NOW))
    assert member.ok(CreditReferral(98, 2, 200, NOW)).points == 200


def test_closing_releases_holds_forfeits_what_is_left_and_refuses_everything_after() -> None:
    member = Member(program(TIERS, REWARDS, points="pending_days = 14"))
    member.ok(AdjustPoints(100, "gift", NOW))
    member.buy(line(50_000))
    member.ok(PlaceHold(30, None, NOW))
    member.ok(RedeemReward("book", 1, "ABC", NOW), stock_left=1)
    entry = member.ok(CloseMember(NOW))
    assert entry.detail == {"forfeited": 590}
    now = member.now
    assert (now.available, now.pending, now.held, now.spent, now.expired) == (0, 0, 0, 10, 590)
    assert (now.status, now.due_at, now.counters, now.redemptions) == ("closed", None, {}, ())
    assert member.refused(purchase(line(100))) == "member_closed"
    assert member.refused(CloseMember(NOW)) == "member_closed"


@pytest.mark.parametrize(("cancelled", "buckets"), [(False, (0, 600, 400)), (True, (0, 0, 1000))])
def test_a_transfer_under_way_survives_the_closing_of_its_sender(
    *,
    cancelled: bool,
    buckets: tuple[int, int, int],
) -> None:
    member = rich()
    version = member.ok(SendTransfer(8, 600, NOW)).version
    member.ok(CloseMember(NOW))
    assert member.now.held == 600
    member.ok(CancelTransfer(version, NOW) if cancelled else SettleTransfer(version, NOW))
    assert (member.now.held, member.now.spent, member.now.expired) == buckets


def test_an_adjustment_takes_no_more_than_there_is() -> None:
    member = rich(100)
    assert moves(member.ok(AdjustPoints(-60, "error", NOW))) == [
        (50, "available", "program"),
        (10, "available", "program"),
    ]
    assert member.refused(AdjustPoints(-41, "error", NOW)) == "insufficient_points"


@pytest.mark.parametrize(
    ("expires_after", "expiry", "pointer"),
    [
        (timedelta(days=9), "none", "/expires_at"),
        (timedelta(days=10), "none", "/expires_at"),
        (None, "rolling", "/pending_until"),
        (timedelta(days=11), "rolling", None),
        (None, "none", None),
    ],
)
def test_points_that_would_expire_before_they_are_available_are_not_given(
    expires_after: timedelta | None, expiry: str, pointer: str | None
) -> None:
    until = later(days=10 if expires_after else 800)
    member = Member(program(points=f'expiry = {{ kind = "{expiry}" }}'))
    given = AdjustPoints(10, "gift", NOW, until, NOW + expires_after if expires_after else None)
    outcome = member.say(given)
    if pointer is None:
        assert isinstance(outcome, Entry)
    else:
        assert isinstance(outcome, Refused)
        assert (outcome.reason, outcome.pointer) == ("malformed", pointer)
