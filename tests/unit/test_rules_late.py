"""Baskets that come late: decided by the version of their instant, on the member's state of today."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.command import Receipt
from rules.decide import decide
from rules.evaluate import Evaluation, evaluate
from rules.outcome import Accepted, Refused
from rules.program import Program
from tests.rules_history import LAW, LONG_AGO, baskets, live, programs, versions
from tests.rules_world import NOW, TIERS, Member, earned, later, line, program, purchase, returned, spend

THEN, NOON = later(days=-3), later(days=-1)
PLUS_TEN = '[[campaigns]]\ncode = "ten"\neffect = { fixed = 10 }\n'
SAVE = '[[coupons]]\ncode = "SAVE"\neffect = { fixed = 7 }\n'
COUPONS = st.sampled_from([(), ("SAVE",)])
THIRD = '[[stores]]\ncode = "332"\nname = "S"\nregion = "eu"\n'


def changed(then: Program, now: Program, since: datetime = NOON) -> Program:
    """The program of today, another one until yesterday."""
    return versions((LONG_AGO, then), (since, now))


def late(member: Member, *, at: datetime = THEN, **more: Any) -> Any:
    return member.say(purchase(line(1_000), at=at, received_at=NOW, **more))


def test_a_late_basket_earns_what_an_evaluation_at_its_instant_says() -> None:
    rules = changed(program(PLUS_TEN, points='per_unit = "1"'), program(points='per_unit = "3"'))
    member = Member(rules)
    asked = purchase(line(1_000), at=THEN)
    told = evaluate(member.now, asked, rules.at(THEN), THEN)
    assert isinstance(told, Evaluation)
    entry = late(member)
    assert (entry.points, told.points, entry.program_version) == (20, 20, 1)
    today = member.buy(line(1_000))
    assert (today.points, today.program_version) == (30, None)


def test_a_campaign_a_store_and_a_coupon_that_are_gone_still_count_for_baskets_of_then() -> None:
    rules = changed(program(PLUS_TEN, SAVE, THIRD), program())
    entry = late(Member(rules), store="332", coupons=("SAVE",))
    assert earned(entry) == {"base": 10, "campaign:ten": 10, "coupon:SAVE": 7}
    assert Member(rules).refused(purchase(line(1_000), store="332")) == "unknown_store"


def test_what_came_later_does_not_count_for_baskets_of_before() -> None:
    rules = changed(program(), program(PLUS_TEN, SAVE, THIRD))
    assert earned(late(Member(rules))) == {"base": 10}
    for more, reason in (({"store": "332"}, "unknown_store"), ({"coupons": ("SAVE",)}, "unknown_coupon")):
        refusal = late(Member(rules), **more)
        assert isinstance(refusal, Refused)
        assert refusal.reason == reason


def test_a_basket_of_before_the_first_version_is_decided_by_the_first() -> None:
    rules = versions((THEN, program(PLUS_TEN)), (NOON, program()))
    entry = late(Member(rules), at=THEN - timedelta(days=9))
    assert (entry.points, entry.program_version) == (20, 1)


def test_a_scheduled_version_decides_from_its_instant_on() -> None:
    rules = changed(program(), program(PLUS_TEN), since=NOW)
    member = Member(rules)
    assert late(member, at=NOW - timedelta(microseconds=1)).points == 10
    assert late(member, at=NOW).points == 20


def test_limits_are_those_of_today() -> None:
    rules = changed(program(), program(points="limits = { per_day = 3 }"))
    member = Member(rules)
    assert [late(member).points for _ in range(2)] == [3, 0]
    generous = changed(program(points="limits = { per_day = 3 }"), program())
    assert late(Member(generous)).points == 10


def test_how_often_an_offer_applied_is_counted_up_to_today() -> None:
    once = PLUS_TEN.replace("effect", "limits = { per_member = 1 }\neffect")
    member = Member(changed(program(once), program(once)))
    assert [member.buy(line(1_000)).points, late(member).points] == [20, 10]


def test_tiers_and_what_counts_for_them_are_those_of_today() -> None:
    by_amount = program(TIERS, "[tier_policy]\nmetric = 'amount'\n")
    member = Member(changed(program(TIERS), by_amount))
    member.buy(line(4_000))
    late(member)
    assert member.now.counters["metric"] == ["amount", THEN.date().toordinal(), 1_000, NOW.date().toordinal(), 4_000]
    assert member.now.tier.code == "gold"


def test_what_a_tier_multiplies_is_that_of_then_for_the_tier_held_today() -> None:
    better = program(TIERS.replace("1.25", "3"))
    member = Member(changed(program(TIERS), better))
    member.buy(line(10_000))
    assert earned(late(member)) == {"base": 10, "tier:silver": 2}


def test_points_pay_at_the_worth_of_then_and_expire_as_then() -> None:
    expiry = "expiry = { kind = 'rolling', months = 2, round = 'day' }\n"
    then = program(points=expiry + "worth = { points = 1, amount = 10 }")
    member = Member(changed(then, program(points="worth = { points = 1, amount = 1 }")))
    member.buy(line(10_000))
    entry = late(member, pay_with_points=50)
    assert earned(entry) == {"base": 5}
    assert [one.expires_at for one in entry.postings if one.source == "program"] == [then.expires_at(THEN)]


@pytest.mark.parametrize(("then", "now", "debt", "forgiven"), [("debt", "forgive", 10, 0), ("forgive", "debt", 0, 10)])
def test_a_return_takes_back_by_the_policy_under_which_the_goods_were_bought(
    then: str, now: str, debt: int, forgiven: int
) -> None:
    member = Member(changed(program(points=f"on_return = {then!r}"), program(points=f"on_return = {now!r}")))
    version = late(member).version
    spend(member, 10)
    entry = member.bring_back(version, (1, 1))
    assert (entry.account.debt, entry.detail.get("points_forgiven", 0)) == (debt, forgiven)
    assert entry.program_version is None


def test_the_store_that_takes_goods_back_is_one_of_the_day_they_came_back() -> None:
    rules = changed(program(THIRD), program())
    member = Member(rules)
    version = late(member).version
    for at, store, outcome in ((NOW, "332", "unknown_store"), (THEN, "332", None)):
        command = replace(returned(version, (1, "0.5"), at=at), receipt=Receipt(store, "1", "x"), received_at=NOW)
        said = member.say(command, purchase=member.purchases[version])
        assert (said.reason if isinstance(said, Refused) else None) == outcome
    assert member.journal[-1].program_version == 1


@LAW
@given(st.data(), programs(), programs())
def test_a_late_basket_is_decided_as_on_its_day_but_for_limits(
    data: st.DataObject, then: Program, now: Program
) -> None:
    member = live(data, now, steps=4)
    limits = {"limits": now.points.limits}
    points = then.document.points.model_copy(update=limits)
    then = Program(then.document.model_copy(update={"points": points}), 1)
    rules = versions((LONG_AGO, then), (member.now.changed_at, now))
    lines, at = data.draw(baskets), member.now.changed_at - timedelta(days=data.draw(st.integers(1, 30)))
    asked = purchase(*lines, at=at, received_at=member.now.changed_at, coupons=data.draw(COUPONS))
    alone, among = (decide(member.now, asked, one).outcome for one in (then, rules))
    if isinstance(alone, Refused):
        assert among == alone
        return
    assert isinstance(among, Accepted)
    assert earned(among.entry) == earned(alone.entry)
    assert among.entry.program_version == 1
