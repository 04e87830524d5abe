"""Returns: pinned to the original attribution, taken from the right lots, paid points back, debt by policy."""

import pytest

from rules.command import AdjustPoints, CaptureHold, Line, PlaceHold, VoidHold
from tests.rules_world import NOW, Member, later, line, moves, program, purchase, returned, spend

WORTH = "worth = { points = 100, amount = 100 }\n"


def test_parts_reverse_the_proportion_floored_over_all_lines_and_the_last_part_the_rest() -> None:
    member = Member(program())
    version = member.buy(line(1000, 3), line(250, "0.375")).version
    points = [-member.bring_back(version, part).points for part in [(1, 1), (2, "0.1"), (1, 1), (2, "0.275"), (1, 1)]]
    assert points == [3, 0, 4, 1, 4]
    assert member.now.available == 0


@pytest.mark.parametrize(
    ("lines", "back", "points"),
    [
        ([line(100)] * 1_000, "0.999", 999),  # a thousandth less than all of each
        ([line(100, 2)] * 9, 1, 4),  # one of two for 1.00
        ([line(100, 3), line(200, 3), line(100, "0.3")], "0.1", 0),
    ],
)
def test_what_comes_back_of_many_lines_is_rounded_once_for_all_of_them(
    lines: list[Line], back: object, points: int
) -> None:
    member = Member(program())
    version = member.buy(*lines).version
    assert -member.bring_back(version, *((number, back) for number in range(1, len(lines) + 1))).points == points
    member.bring_all_back(version)
    assert member.now.issued == 0


def test_each_reason_is_rounded_by_itself() -> None:
    member = Member(program('[[campaigns]]\ncode = "extra"\neffect = { per_unit = "1" }\n'))
    version = member.buy(*[line(100, 2)] * 3).version
    back = member.bring_back(version, (1, 1), (2, 1), (3, 1))
    assert [(one.reason, one.points) for one in back.postings] == [("base", 1), ("campaign:extra", 1)]


def test_points_that_paid_come_back_rounded_once_for_each_lot() -> None:
    member = Member(program(points=WORTH + 'per_unit = "0"'))
    member.ok(AdjustPoints(5, "old", NOW, expires_at=later(days=5)))
    member.ok(AdjustPoints(95, "new", NOW, expires_at=later(days=50)))
    version = member.buy(*[line(10, 2)] * 10, pay_with_points=100).version
    back = member.bring_back(version, *((number, 1) for number in range(1, 11)))
    assert [one.points for one in back.postings] == [2, 47]
    member.bring_all_back(version)
    assert (member.now.available, member.now.spent) == (100, 0)


def test_the_lines_show_the_same_in_whatever_order_they_came_back() -> None:
    shown = []
    for order in ((1, 2, 3), (3, 2, 1)):
        member = Member(program())
        version = member.buy(line(100, 2), line(200, 3), line(100, 2)).version
        for number in order:
            member.bring_back(version, (number, 1))
        shown.append([one["reversed"] for one in member.purchases[version].document["lines"]])
    assert shown == [[{}, {"base": 1}, {}]] * 2


def test_the_rest_of_a_return_that_was_rounded_line_by_line_goes_with_the_next_one() -> None:
    member = Member(program())
    version = member.buy(*[line(100, 2)] * 4, line(100)).version
    for one in member.purchases[version].document["lines"][:4]:  # as the version before left it: half of four points
        one |= {"returned": "1", "reversed": {"base": 0}}
    assert member.bring_back(version, (5, 1)).points == -3
    assert member.bring_all_back(version).points == -2
    assert member.now.issued == 0


@pytest.mark.parametrize("lines", [[(1, 4)], [(2, 1)], [(1, 2), (1, 2)], [(0, 1)], [(1, "3.001")]])
def test_more_than_was_bought_is_refused(lines: list[tuple[int, object]]) -> None:
    member = Member(program())
    version = member.buy(line(1000, 3)).version
    asked = returned(version, *lines)
    assert member.refused(asked, purchase=member.purchases[version]) == "return_exceeds_purchase"


def test_what_came_back_before_counts_towards_what_was_bought() -> None:
    member = Member(program())
    version = member.buy(line(1000, 3)).version
    member.bring_back(version, (1, 2))
    again = returned(version, (1, 2))
    assert member.refused(again, purchase=member.purchases[version]) == "return_exceeds_purchase"
    assert member.bring_back(version, (1, 1)).points == -4
    assert member.now.issued == 0


def test_a_return_of_an_unknown_purchase_is_refused() -> None:
    assert Member(program()).refused(returned(5, (1, 1))) == "purchase_not_found"


def test_a_return_goes_by_what_was_earned_then_whatever_the_program_says_today() -> None:
    member = Member(program(points='per_unit = "3"'))
    version = member.buy(line(1000, 2)).version
    member.program = program(points='per_unit = "1"', version=2)
    assert member.bring_back(version, (1, 1)).points == -15


def test_pending_points_of_the_purchase_go_first_then_its_lot_then_first_to_expire() -> None:
    member = Member(program(points='pending_days = 14\nexpiry = { kind = "rolling", round = "none" }'))
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(days=30)))
    version = member.buy(line(1000, 2)).version
    assert moves(member.bring_back(version, (1, 1))) == [(5, "pending", "program")]
    back = member.bring_back(version, (1, 1), at=later(days=20))
    assert moves(back) == [(5, "available", "program")]
    assert member.now.available_lots[0].expires_at == later(days=30)
    other = member.buy(line(1000), at=later(days=20)).version
    spend_all = member.now.pending
    member.ok(AdjustPoints(-10, "taken", later(days=20)))
    assert (spend_all, moves(member.bring_back(other, (1, 1), at=later(days=21)))) == (10, [(10, "pending", "program")])


def test_a_return_leaves_other_points_of_the_same_pending_day_alone() -> None:
    member = Member(program(points='pending_days = 14\nexpiry = { kind = "rolling", round = "none" }'))
    first, second = (member.buy(line(1000), at=later(hours=hours)) for hours in (0, 8))
    member.bring_all_back(second.version, at=later(hours=9))
    assert [lot.expires_at for lot in member.now.lots] == [first.postings[0].expires_at]


@pytest.mark.parametrize(("policy", "debt", "issued"), [("debt", 8, 0), ("forgive", 0, 8)])
def test_what_is_missing_follows_the_policy(policy: str, debt: int, issued: int) -> None:
    member = Member(program(points=f'on_return = "{policy}"'))
    version = member.buy(line(1000)).version
    spend(member, 8)
    member.bring_all_back(version)
    assert (member.now.available, member.now.debt, member.now.issued) == (0, debt, issued)


def test_what_is_forgiven_is_told_and_not_counted_as_reversed() -> None:
    member = Member(program(points='on_return = "forgive"'))
    version = member.buy(line(1000, 2)).version
    assert member.bring_back(version, (1, 1)).detail == {"purchase": version}
    spend(member, 3)
    entry = member.bring_back(version, (1, 1))
    assert (entry.points, moves(entry)) == (-2, [(2, "available", "program")])
    assert entry.detail == {"purchase": version, "points_reversed": 2, "points_forgiven": 3}
    told = [{key: one[key] for key in one if "points" in key} for one in member.purchases[version].document["returns"]]
    assert told == [{"points_reversed": 5}, {"points_reversed": 2, "points_forgiven": 3}]


def test_a_policy_of_refusal_refuses_the_whole_return() -> None:
    member = Member(program(points='on_return = "refuse"'))
    version = member.buy(line(1000)).version
    spend(member, 8)
    asked = returned(version, (1, 1))
    assert member.refused(asked, purchase=member.purchases[version]) == "insufficient_points"
    assert member.now.available == 2


YEAR_END = 'expiry = { kind = "fixed_dates", dates = ["12-31"] }'


@pytest.mark.parametrize("policy", ["debt", "forgive", "refuse"])
def test_what_expired_unused_is_not_taken_again_from_others(policy: str) -> None:
    """A basket of December that comes back in January takes nothing of January's points."""
    member = Member(program(points=f'{YEAR_END}\non_return = "{policy}"'))
    bought = [member.buy(line(1000)).version, member.buy(line(500)).version]
    member.ok(CaptureHold(member.ok(PlaceHold(6, None, NOW)).version, None, NOW))
    member.ok(AdjustPoints(100, "gift", later(days=45)))
    back = member.bring_back(bought[0], (1, "0.5"), at=later(days=46))
    assert (moves(back), back.points) == ([(5, "expired", "program")], 0)
    assert back.detail["points_reversed"] == 5
    assert moves(member.bring_back(bought[1], (1, 1), at=later(days=46)))[0] == (4, "expired", "program")
    assert moves(member.bring_all_back(bought[0], at=later(days=47))) == [(5, "available", "program")]
    assert (member.now.available, member.now.spent, member.now.expired, member.now.issued) == (94, 6, 0, 100)
    assert "lapsed" not in member.now.counters


def test_what_was_spent_of_a_basket_while_later_points_expired_unused_is_set_off_against_those() -> None:
    """Without the basket they would have been spent in its place."""
    member = Member(program(points=YEAR_END))
    member.ok(AdjustPoints(10, "gift", NOW, expires_at=later(days=50)))
    version = member.buy(line(1000)).version
    spend(member, 7)
    member.ok(AdjustPoints(100, "gift", later(days=51)))
    back = member.bring_all_back(version, at=later(days=52))
    assert moves(back) == [(3, "expired", "program"), (7, "expired", "program")]
    assert (member.now.available, member.now.spent, member.now.expired, member.now.issued) == (100, 7, 3, 110)


def test_what_a_hold_keeps_of_a_returned_basket_gets_others_in_its_place() -> None:
    member = Member(program(points=f"{YEAR_END}\nhold_max_s = 9000000"))
    version = member.buy(line(1000)).version
    member.ok(AdjustPoints(6, "gift", NOW, expires_at=later(days=80)))
    hold = member.ok(PlaceHold(8, 80 * 86_400, NOW)).version
    back = member.bring_all_back(version, at=later(days=1))
    assert moves(back) == [
        (2, "available", "program"), (6, "available", "held"), (6, "held", "program"), (2, "debt", "program"),
    ]  # fmt: skip
    member.ok(VoidHold(hold, later(days=50)))
    assert (member.now.available, member.now.expired, member.now.debt, member.now.issued) == (6, 0, 0, 6)


def test_under_inactivity_what_expired_unused_after_it_was_renewed_is_not_taken_again_either() -> None:
    member = Member(program(points='expiry = { kind = "inactivity", months = 1 }'))
    version = member.buy(line(1000)).version
    member.ok(AdjustPoints(3, "gift", later(days=5)))
    member.ok(AdjustPoints(7, "gift", later(days=50)))
    assert moves(member.bring_all_back(version, at=later(days=51))) == [(10, "expired", "program")]
    assert (member.now.available, member.now.expired) == (7, 3)


def test_what_expired_long_ago_is_forgotten_with_the_next_basket() -> None:
    member = Member(program(points=YEAR_END))
    version = member.buy(line(1000)).version
    member.buy(line(100), at=later(days=39 + 42))
    assert moves(member.bring_all_back(version, at=later(days=82))) == [
        (1, "available", "program"), (9, "debt", "program"),
    ]  # fmt: skip


def test_later_earnings_pay_debt_first() -> None:
    member = Member(program())
    version = member.buy(line(1000)).version
    spend(member, 10)
    member.bring_all_back(version)
    entry = member.buy(line(1500))
    assert moves(entry) == [(15, "program", "available"), (10, "available", "debt")]
    assert (member.now.available, member.now.debt) == (5, 0)


def test_what_points_pay_is_taken_off_the_lines_and_earns_nothing() -> None:
    member = Member(program(points=WORTH))
    member.ok(AdjustPoints(500, "gift", NOW))
    entry = member.buy(line(1000), line(500), pay_with_points=300)
    assert moves(entry) == [(300, "available", "spent"), (12, "program", "available")]
    assert entry.detail == {"points_earned": 12, "points_paid": 300, "captured": []}
    lines = member.purchases[entry.version].document["lines"]
    assert [(one["paid_amount"], one["paid"], one["points"]) for one in lines] == [(200, [200], 8), (100, [100], 4)]


@pytest.mark.parametrize(("points", "reason"), [(501, "insufficient_points"), (1001, "limit_exceeded")])
def test_paying_with_more_points_than_there_are_or_are_due_refuses_the_purchase(points: int, reason: str) -> None:
    member = Member(program(points=WORTH))
    member.ok(AdjustPoints(500, "gift", NOW))
    assert member.refused(purchase(line(1000), pay_with_points=points)) == reason
    assert member.now.available == 500


def test_points_on_top_of_a_hold_pay_no_more_than_is_left_to_pay() -> None:
    member = Member(program(points=WORTH))
    member.ok(AdjustPoints(1500, "gift", NOW))
    hold = member.ok(PlaceHold(600, None, NOW)).version
    assert member.refused(purchase(line(1000), capture_holds=(hold,), pay_with_points=401)) == "limit_exceeded"
    assert (member.now.held, member.now.available) == (600, 900)
    assert member.buy(line(1000), capture_holds=(hold,), pay_with_points=400).points == -1000


def test_a_program_without_worth_takes_no_points_for_money() -> None:
    member = Member(program())
    member.ok(AdjustPoints(500, "gift", NOW))
    assert member.refused(purchase(line(1000), pay_with_points=1)) == "limit_exceeded"


def test_a_purchase_captures_its_holds_whole_or_is_refused_whole() -> None:
    member = Member(program(points=WORTH))
    member.ok(AdjustPoints(500, "gift", NOW))
    first, second = (member.ok(PlaceHold(points, None, NOW)).version for points in (100, 150))
    assert member.refused(purchase(line(1000), capture_holds=(first, 99))) == "hold_not_found"
    assert member.refused(purchase(line(1000), capture_holds=(first, first))) == "hold_closed"
    assert member.now.held == 250
    entry = member.buy(line(1000), capture_holds=(first, second), pay_with_points=50)
    assert entry.detail["captured"] == [{"hold": first, "points": 100}, {"hold": second, "points": 150}]
    assert (member.now.held, member.now.spent, entry.detail["points_earned"]) == (0, 300, 7)
    again = purchase(line(1000), capture_holds=(first,))
    assert member.refused(again, holds_existed=frozenset({first})) == "hold_closed"


def test_paid_points_come_back_in_proportion_into_lots_with_their_own_expiry() -> None:
    member = Member(program(points=WORTH + 'per_unit = "0"'))
    member.ok(AdjustPoints(100, "old", NOW, expires_at=later(days=5)))
    member.ok(AdjustPoints(100, "new", NOW, expires_at=later(days=50)))
    version = member.buy(line(300, 3), pay_with_points=150).version
    member.bring_back(version, (1, 1), at=later(days=1))
    assert [(lot.points, lot.expires_at) for lot in member.now.lots] == [(33, later(days=5)), (66, later(days=50))]
    back = member.bring_back(version, (1, 2), at=later(days=6))
    assert moves(back) == [(67, "spent", "available"), (34, "spent", "available"), (67, "available", "expired")]
    assert (member.now.available, member.now.expired, member.now.spent) == (100, 100, 0)


def test_an_offline_basket_already_past_its_expiry_earns_and_expires_in_one_entry() -> None:
    member = Member(program(points='expiry = { kind = "rolling", months = 1, round = "none" }'))
    entry = member.buy(line(1000), at=later(days=-60), received_at=NOW)
    assert moves(entry) == [(10, "program", "available"), (10, "available", "expired")]


COUPON = '[[coupons]]\ncode = "SAVE"\neffect = { fixed = 50 }\nper_member = '


def test_a_return_frees_only_a_coupon_that_was_counted() -> None:
    member = Member(program(COUPON + "0"))
    shown = purchase(line(1000), coupons=("SAVE",))
    uncounted = member.ok(shown).version
    member.program = program(COUPON + "1", version=2)
    counted = member.ok(shown).version
    member.bring_all_back(uncounted)
    assert member.refused(shown) == "unknown_coupon"
    member.bring_all_back(counted)
    assert member.ok(shown).points == 60


def test_a_purchase_recorded_without_a_note_of_what_it_counted_frees_its_coupon() -> None:
    member = Member(program(COUPON + "1"))
    shown = purchase(line(1000), coupons=("SAVE",))
    version = member.ok(shown).version
    del member.purchases[version].document["counted"]
    member.bring_all_back(version)
    assert member.ok(shown).points == 60
