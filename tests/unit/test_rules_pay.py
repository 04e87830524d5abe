"""Paying with points: holds and points on top spend the fewest points that pay the money taken off, and no more."""

import re
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.command import AdjustPoints, CaptureHold, PlaceHold
from rules.outcome import Entry, Refused
from rules.program import Program
from tests.rules_history import LAW, baskets
from tests.rules_world import NOW, Member, later, line, moves, program, purchase

WORTHS = ((1, 1), (100, 100), (10, 1), (3, 100), (100, 1000), (1, 10), (7, 3), (1000, 7))


def paying(points: int, amount: int, *, given_points: int = 10_000, per_unit: str = "0") -> Member:
    """A member with points of two expiries, each `points` of them worth `amount` minor units."""
    member = Member(program(points=f'worth = {{ points = {points}, amount = {amount} }}\nper_unit = "{per_unit}"'))
    member.ok(AdjustPoints(given_points // 2, "old", NOW, expires_at=later(days=5)))
    member.ok(AdjustPoints(given_points - given_points // 2, "new", NOW, expires_at=later(days=50)))
    return member


def hold(member: Member, points: int) -> int:
    return member.ok(PlaceHold(points, 3600, NOW)).version


@pytest.mark.parametrize(
    ("worth", "holds", "due", "captured", "amount"),
    [
        ((1, 1), [101], [100], [100], 100),
        ((1, 1), [300], [0], [], 0),
        ((1, 1), [200, 200], [300], [200, 100], 300),
        ((1, 1), [300, 200], [300], [300], 300),
        ((1, 1), [100, 200, 300], [150], [100, 50], 150),
        ((1, 1), [600], [100, 200], [300], 300),
        ((10, 1), [9], [100], [], 0),  # less than a cent
        ((10, 1), [15], [100], [10], 1),
        ((10, 1), [5, 5], [100], [5, 5], 1),  # together a cent
        ((10, 1), [1009], [100], [1000], 100),
        ((3, 100), [7], [100], [3], 100),
        ((3, 100), [7], [34], [2], 34),  # the ceiling
        ((1, 10), [7], [61], [7], 61),
        ((1, 10), [7], [60], [6], 60),
        ((100, 1000), [50], [499], [50], 499),
    ],
)
def test_holds_spend_what_the_due_takes_in_their_order_and_release_the_rest(
    worth: tuple[int, int], holds: list[int], due: list[int], captured: list[int], amount: int
) -> None:
    member = paying(*worth)
    versions = tuple(hold(member, points) for points in holds)
    before = member.now.available
    entry = member.buy(*map(line, due), capture_holds=versions)
    spent = dict(zip(versions, captured, strict=False))
    released = sum(holds) - sum(captured)
    assert entry.detail == {
        "points_earned": 0,
        "points_paid": sum(captured),
        "captured": [{"hold": version, "points": points} for version, points in spent.items()],
        "released": released,
    }
    payment = member.purchases[entry.version].document.get("payment", {"points": 0, "amount": 0})
    assert (payment["points"], payment["amount"]) == (sum(captured), amount)
    assert (member.now.held, member.now.holds) == (0, ())
    assert member.now.available == before + released
    again = purchase(line(100), capture_holds=versions[:1])
    assert member.refused(again, holds_existed=frozenset(versions)) == "hold_closed"


def test_without_a_worth_a_hold_is_captured_whole_and_takes_no_money_off() -> None:
    member = Member(program())
    member.ok(AdjustPoints(500, "gift", NOW))
    entry = member.buy(line(100), capture_holds=(hold(member, 300),))
    assert (entry.detail["points_paid"], entry.detail["released"], entry.detail["points_earned"]) == (300, 0, 1)
    assert member.purchases[entry.version].document["payment"]["amount"] == 0
    assert member.buy(line(0), capture_holds=(hold(member, 200),)).detail["released"] == 0


def test_of_a_hold_the_first_to_expire_is_spent_and_what_comes_back_keeps_its_expiry() -> None:
    member = paying(1, 1, given_points=200)
    version = hold(member, 150)
    entry = member.buy(line(120), capture_holds=(version,))
    assert moves(entry) == [(100, "held", "spent"), (20, "held", "spent"), (30, "held", "available")]
    assert [(lot.points, lot.expires_at) for lot in member.now.lots] == [(80, later(days=50))]


def test_what_has_expired_in_a_hold_meanwhile_pays_but_does_not_come_back() -> None:
    member = Member(program(points="worth = { points = 1, amount = 1 }"))
    member.ok(AdjustPoints(100, "short", NOW, expires_at=later(minutes=5)))
    version = hold(member, 100)
    entry = member.buy(line(30), capture_holds=(version,), at=later(minutes=10))
    assert moves(entry) == [(30, "held", "spent"), (70, "held", "available"), (70, "available", "expired")]


def test_what_a_hold_releases_pays_debt_first() -> None:
    member = Member(program(points="worth = { points = 1, amount = 1 }"))
    bought = member.buy(line(1000)).version
    member.ok(AdjustPoints(10, "gift", NOW))
    version = hold(member, 10)
    member.ok(CaptureHold(hold(member, 10), None, NOW))
    member.bring_all_back(bought)
    assert member.now.debt == 10
    assert moves(member.buy(line(4), capture_holds=(version,)))[-1] == (6, "available", "debt")
    assert (member.now.debt, member.now.available) == (4, 0)


def test_only_what_paid_comes_back_with_the_goods() -> None:
    member = paying(1, 1, given_points=1000)
    version = hold(member, 600)
    bought = member.buy(line(200, 2), line(100), capture_holds=(version,)).version
    assert (member.now.spent, member.now.available) == (300, 700)
    member.bring_back(bought, (1, 1))
    assert (member.now.spent, member.now.available) == (200, 800)
    member.bring_all_back(bought)
    assert (member.now.spent, member.now.available, member.now.held) == (0, 1000, 0)


@pytest.mark.parametrize(
    ("worth", "held", "points", "due", "would_do"),
    [
        ((1, 1), 0, 101, 100, 100),
        ((1, 1), 0, 1, 0, 0),
        ((1, 1), 60, 41, 100, 40),
        ((1, 1), 600, 1, 300, 0),
        ((10, 1), 0, 9, 100, 10),
        ((10, 1), 0, 15, 100, 10),
        ((10, 1), 0, 1009, 100, 1000),
        ((10, 1), 0, 9, 0, 0),
        ((10, 1), 15, 3, 100, 5),
        ((3, 100), 0, 3, 34, 2),
        ((1, 10), 0, 7, 60, 6),
        ((100, 1000), 0, 51, 500, 50),
    ],
)
def test_points_that_pay_nothing_more_are_refused_and_the_number_that_would_do_is_named(
    worth: tuple[int, int], held: int, points: int, due: int, would_do: int
) -> None:
    member = paying(*worth)
    holds = (hold(member, held),) if held else ()
    refusal = member.say(purchase(line(due), capture_holds=holds, pay_with_points=points))
    assert isinstance(refusal, Refused)
    assert (refusal.reason, refusal.pointer) == ("limit_exceeded", "/pay_with_points")
    assert re.findall(r"send (?:at least )?(\d+)$", refusal.detail) == [str(would_do)]
    member.ok(purchase(line(due), capture_holds=holds, pay_with_points=would_do))


@pytest.mark.parametrize(("worth", "due", "points"), [((3, 100), 34, 2), ((3, 100), 100, 3), ((1, 10), 61, 7)])
def test_a_basket_can_be_paid_wholly_with_the_ceiling(worth: tuple[int, int], due: int, points: int) -> None:
    member = paying(*worth)
    payment = member.purchases[member.buy(line(due), pay_with_points=points).version].document["payment"]
    assert (payment["points"], payment["amount"]) == (points, due)


worths = st.one_of(st.sampled_from(WORTHS), st.tuples(st.integers(1, 40), st.integers(1, 40)))


def worth_program(worth: tuple[int, int]) -> Program:
    return paying(*worth).program


@LAW
@given(st.integers(0, 10**6), worths)
def test_points_for_is_the_fewest_points_that_pay_an_amount(amount: int, worth: tuple[int, int]) -> None:
    rules = worth_program(worth)
    fewest = rules.home.points_for(amount)
    assert fewest == ceil(amount * worth[0] / worth[1])
    assert rules.home.amount_of(fewest) >= amount
    assert not amount or rules.home.amount_of(fewest - 1) < amount


@LAW
@given(baskets, worths, st.lists(st.integers(1, 1500), max_size=3), st.integers(0, 1500))
def test_no_point_is_spent_for_nothing_and_none_is_lost(
    basket: Any, worth: tuple[int, int], holds: list[int], points: int
) -> None:
    member = paying(*worth)
    versions = tuple(hold(member, held) for held in holds)
    before, due = member.now, sum(one.amount for one in basket)
    asked = purchase(*basket, capture_holds=versions, pay_with_points=points)
    outcome = member.say(asked)
    if isinstance(outcome, Refused):
        would_do = int(outcome.detail.rpartition(" ")[2])
        assert would_do != points
        outcome = member.say(purchase(*basket, capture_holds=versions, pay_with_points=would_do))
        points = would_do
    assert isinstance(outcome, Entry)
    payment = member.purchases[outcome.version].document.get("payment", {"points": 0, "amount": 0})
    spent, amount = payment["points"], payment["amount"]
    assert spent == member.program.home.points_for(amount) <= member.program.home.points_for(due)
    assert amount == min(due, member.program.home.amount_of(spent))
    assert spent >= points
    assert (member.now.spent, member.now.held) == (spent, 0)
    assert member.now.available == before.available + sum(holds) - spent
