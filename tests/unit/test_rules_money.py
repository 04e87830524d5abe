"""What was not paid with money earns nothing, under every effect, and counts for no tier."""

from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.command import AdjustPoints, Line, PlaceHold
from rules.offer import exact_sum, item_parts
from rules.outcome import Entry
from rules.program import Program
from tests.rules_history import LAW, baskets, programs
from tests.rules_world import NOW, TIERS, Member, campaign, earned, later, line, moves, program

WORTH = "worth = { points = 1, amount = 1 }\n"
EFFECTS = ("fixed = 10", "fixed_per_item = 10", 'multiply = "3"', 'per_unit = "2"')
REFERRAL = "[referral]\nreferrer = 200\nnewcomer = 100\n"


def buyer(*parts: str, points: str = "", given_points: int = 10_000, referrer: int | None = None) -> Member:
    """A member with points to pay with, a cent each."""
    member = Member(program(*parts, points=WORTH + points), referrer=referrer)
    member.ok(AdjustPoints(given_points, "gift", NOW))
    return member


def attributed(member: Member, entry: Entry, reason: str) -> list[int]:
    return [one["earned"].get(reason, 0) for one in member.purchases[entry.version].document["lines"]]


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("held", [True, False])
def test_a_basket_paid_wholly_with_points_earns_nothing(effect: str, *, held: bool) -> None:
    member = buyer(campaign("c", effect), '[[coupons]]\ncode = "SAVE"\neffect = { fixed = 5 }\n')
    with_points: dict[str, Any] = {"pay_with_points": 300}
    if held:
        with_points = {"capture_holds": (member.ok(PlaceHold(500, None, NOW)).version,)}
    entry = member.buy(line(100, 2), line(200, "0.375"), coupons=("SAVE",), **with_points)
    assert (earned(entry), entry.detail["points_earned"]) == ({}, 0)
    assert [member.why(name) for name in ("base", "c", "coupon:SAVE")] == ["no_money"] * 3
    again = member.buy(line(100), coupons=("SAVE",))
    assert earned(again)["coupon:SAVE"] == 5, "a coupon that gave nothing is not used up"


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_give_away_earns_nothing(effect: str) -> None:
    rules = program(campaign("c", effect, match='{ categories = ["FREE"] }'), points='per_unit = "1"')
    member = Member(rules)
    entry = member.buy(line(0, 999_999_999, "FREE"), line(200, 1, "OTHER"))
    assert (earned(entry), member.why("c")) == ({"base": 2}, "no_money")
    assert earned(member.buy(line(0, 5, "FREE"))) == {}


def test_beside_goods_that_cost_money_a_give_away_has_no_part_in_what_is_earned() -> None:
    member = Member(program(campaign("f", "fixed = 10"), campaign("i", "fixed_per_item = 3")))
    entry = member.buy(line(0, 7), line(100, 2), line(0, 1), line(300, 1))
    assert attributed(member, entry, "campaign:f") == [0, 3, 0, 7]
    assert (attributed(member, entry, "campaign:i"), earned(entry)["campaign:i"]) == ([0, 6, 0, 3], 9)


@pytest.mark.parametrize(
    ("lines", "paid", "points"),
    [
        ([(100, 2)], 50, 10),  # 2 x 1/2
        ([(100, 1)], 1, 9),  # 0.99
        ([(100, 1)], 99, 0),  # 0.01 of an item is no whole point
        ([(300, 3)], 100, 20),
        ([(100, 1), (100, 1)], 100, 10),  # two halves
        ([(3, 1), (3, 1), (3, 1)], 3, 20),  # three times two thirds, exactly
        ([(100, "0.375"), (100, "0.625")], 0, 10),  # floored once, not per line
        ([(100, "0.375")], 50, 1),  # 0.1875
        ([(0, 9), (200, 2)], 100, 10),
    ],
)
def test_items_count_in_proportion_to_the_money_paid_for_them(
    lines: list[tuple[int, Any]], paid: int, points: int
) -> None:
    member = buyer(campaign("c", "fixed_per_item = 10"), points='per_unit = "0"')
    entry = member.buy(*(line(*one) for one in lines), pay_with_points=paid)
    assert entry.detail.get("points_earned", entry.points) == points


def test_a_cent_of_money_makes_a_fixed_effect_count() -> None:
    member = buyer(campaign("c", "fixed = 10"), points='per_unit = "0"')
    assert member.buy(line(100), pay_with_points=99).detail["points_earned"] == 10
    assert member.buy(line(100), pay_with_points=100).detail["points_earned"] == 0


@pytest.mark.parametrize(("amount", "paid", "newcomer"), [(0, 0, 0), (500, 500, 0), (500, 499, 100), (500, 0, 100)])
def test_a_referral_needs_a_purchase_with_money(amount: int, paid: int, newcomer: int) -> None:
    member = buyer(REFERRAL, referrer=99)
    entry = member.buy(line(amount), pay_with_points=paid)
    assert earned(entry).get("referral", 0) == newcomer
    assert ("referral" in entry.detail) == bool(newcomer)


@pytest.mark.parametrize(
    ("when", "why"), [("min_amount = 701", "min_amount"), ("min_amount = 700", "applied"), ("", "applied")]
)
def test_min_amount_compares_the_money_after_points(when: str, why: str) -> None:
    member = buyer(campaign("c", "fixed = 5", when=f"{{ {when} }}"))
    member.buy(line(600), line(400), pay_with_points=300)
    assert member.why("c") == why


def test_a_purchase_tells_how_much_of_it_was_money() -> None:
    member = buyer()
    documents = [
        member.purchases[member.buy(line(600), line(400), pay_with_points=points).version].document for points in (0, 1)
    ]
    assert [(one["amount"], one["money"]) for one in documents] == [(1000, 1000), (1000, 999)]


@pytest.mark.parametrize("metric", ["points", "amount", "purchases"])
def test_a_purchase_without_money_counts_for_no_tier(metric: str) -> None:
    policy = f'[tier_policy]\nmetric = "{metric}"\n'
    member = Member(program(TIERS.replace("100", "1").replace("300", "2"), policy, points=WORTH))
    member.ok(AdjustPoints(1000, "gift", NOW))
    free, paid = member.buy(line(0)).version, member.buy(line(500), pay_with_points=500).version
    assert (member.now.tier.code, member.now.counters.get("metric")) == ("basic", None)
    bought = member.buy(line(100))
    assert member.now.tier.code != "basic"
    before = member.now.counters["metric"]
    for version in (free, paid):
        member.bring_all_back(version)
    assert member.now.counters["metric"] == before
    assert moves(member.bring_all_back(bought.version, at=later(days=1)))[-1][2] == "program"


shares = st.lists(
    st.tuples(st.one_of(st.integers(1, 9).map(Decimal), st.decimals("0.001", 9, places=3)), st.integers(0, 3000)),
    min_size=1,
    max_size=6,
)


@LAW
@given(shares, st.data())
def test_items_are_summed_exactly(bought: list[tuple[Decimal, int]], data: st.DataObject) -> None:
    lines = [Line("a", quantity, amount) for quantity, amount in bought]
    money = [data.draw(st.integers(0, one.amount)) for one in lines]
    numerator, denominator = exact_sum([item_parts(one, paid) for one, paid in zip(lines, money, strict=True)])
    oracle = sum(
        (Fraction(one.quantity) * paid / one.amount for one, paid in zip(lines, money, strict=True) if paid),
        Fraction(0),
    )
    assert Fraction(numerator, denominator) == oracle
    assert numerator * 7 // denominator == floor(oracle * 7)


@LAW
@given(st.data(), programs(), baskets)
def test_nothing_is_earned_where_no_money_was_paid(
    data: st.DataObject, rules: Program, basket: tuple[Line, ...]
) -> None:
    member = Member(rules, referrer=99)
    member.ok(AdjustPoints(50_000, "gift", NOW))
    needed = rules.home.points_for(sum(one.amount for one in basket))
    points = data.draw(st.sampled_from([0, needed, needed // 2]))
    part = rules.home.points_for(rules.home.amount_of(points))  # what pays something
    entry = member.buy(*basket, coupons=data.draw(st.sampled_from([(), ("SAVE",)])), pay_with_points=part)
    document = member.purchases[entry.version].document
    for one in document["lines"]:
        money = one["amount"] - one.get("paid_amount", 0)
        assert money or not one["earned"]
    if not document["money"]:
        assert (document["points_earned"], entry.detail.get("referral"), member.now.counters.get("metric")) == (
            0, None, None,
        )  # fmt: skip
        assert not any(one["applied"] for one in member.explanation)


@LAW
@given(programs(), baskets, st.integers(0, 5000))
def test_paying_with_points_never_earns_more(rules: Program, basket: tuple[Line, ...], points: int) -> None:
    members = [Member(rules), Member(rules)]
    for member in members:
        member.ok(AdjustPoints(50_000, "gift", NOW))
    due = sum(one.amount for one in basket)
    part = rules.home.points_for(min(rules.home.amount_of(points), due))
    in_money = members[0].buy(*basket)
    in_points = members[1].buy(*basket, pay_with_points=part)
    earned_points = [entry.detail.get("points_earned", entry.points) for entry in (in_money, in_points)]
    assert earned_points[1] <= earned_points[0]
