"""Laws of returns over random programs, baskets and ways to bring them back."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rules.command import AdjustPoints, PlaceHold
from rules.outcome import Entry
from rules.program import Program
from tests.rules_history import LAW, baskets, lines, parts_of, programs
from tests.rules_world import NOW, Member, purchase


@LAW
@given(st.data(), programs(policy="debt"))
def test_earn_then_return_all_leaves_nothing_in_any_order_and_parts(data: st.DataObject, rules: Program) -> None:
    member = Member(rules, referrer=99)
    version = member.buy(*data.draw(baskets)).version
    for part in parts_of(data, member.purchases[version].document):
        member.bring_back(version, part)
    now = member.now
    assert (now.available, now.pending, now.debt, now.issued) == (0, 0, 0, 0)
    metric = now.counters.get("metric", [None])[1:]
    assert sum(metric[1::2]) == 0


@LAW
@given(st.data(), programs(policy="debt"))
def test_whatever_came_back_each_reason_and_lot_gave_up_the_floor_of_its_whole_proportion(
    data: st.DataObject, rules: Program
) -> None:
    member = Member(rules)
    member.ok(AdjustPoints(500, "gift", NOW))
    member.ok(AdjustPoints(5, "gift", NOW, expires_at=NOW + timedelta(days=1)))
    basket = data.draw(st.lists(lines, min_size=1, max_size=9).map(tuple))
    outcome = member.say(purchase(*basket, pay_with_points=data.draw(st.integers(0, 9))))
    if not isinstance(outcome, Entry):
        return
    for part in parts_of(data, member.purchases[outcome.version].document):
        member.bring_back(outcome.version, part)
        bought = member.purchases[outcome.version].document["lines"]
        for reason in {reason for one in bought for reason in one["earned"]}:
            pairs = [(one["earned"].get(reason, 0), one["reversed"].get(reason, 0)) for one in bought]
            assert sum(done for _, done in pairs) == floor_of([points for points, _ in pairs], bought)
        for lot in range(len(bought[0].get("paid", ()))):
            assert sum(one["repaid"][lot] for one in bought) == floor_of([one["paid"][lot] for one in bought], bought)


def floor_of(attributed: list[int], bought: list[dict[str, Any]]) -> int:
    """What was returned of all lines, as exact fractions."""
    parts = zip(attributed, bought, strict=True)
    return floor(sum(points * Fraction(one["returned"]) / Fraction(one["quantity"]) for points, one in parts))


@LAW
@given(st.data(), programs(policy="debt"))
def test_returning_a_basket_paid_with_points_restores_them(data: st.DataObject, rules: Program) -> None:
    member = Member(rules)
    member.ok(AdjustPoints(500, "gift", NOW))
    hold = member.ok(PlaceHold(data.draw(st.integers(1, 200)), None, NOW)).version
    asked = purchase(*data.draw(baskets), capture_holds=(hold,), pay_with_points=data.draw(st.integers(0, 5)))
    outcome = member.say(asked)
    if isinstance(outcome, Entry):
        for number, one in enumerate(member.purchases[outcome.version].document["lines"], 1):
            half = (Decimal(one["quantity"]) / 2).quantize(Decimal("0.001"))
            if half:
                member.bring_back(outcome.version, (number, half))
        member.bring_all_back(outcome.version)
        assert (member.now.available, member.now.spent, member.now.issued, member.now.debt) == (500, 0, 500, 0)
