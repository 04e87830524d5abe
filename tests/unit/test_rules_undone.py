"""A purchase that came back whole never happened: what it counted for counts back out, and nothing else does."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.command import AdjustPoints, CaptureHold, PlaceHold, ReversePurchase
from rules.outcome import Entry
from rules.program import Program
from rules.tier import qualifying
from rules.unsettled import unsettled
from tests.rules_history import LAW, baskets, live, parts_of, programs
from tests.rules_world import NOW, TIERS, Member, earned, later, line, program, purchase

WELCOME = '[[campaigns]]\ncode = "welcome"\nwhen = { first_purchase = true }\neffect = { fixed = 25 }\n'
REFERRAL = "[referral]\nreferrer = 200\nnewcomer = 100\n"
ONCE = '[[campaigns]]\ncode = "once"\neffect = { fixed = 7 }\nlimits = { per_member = 1 }\n'
DAILY = '[[campaigns]]\ncode = "daily"\neffect = { fixed = 7 }\nlimits = { per_member_per_day = 1 }\n'
COUPON = '[[coupons]]\ncode = "SAVE"\neffect = { fixed = 50 }\nper_member = 1\n'


@pytest.mark.parametrize(
    ("parts", "points", "more"),
    [
        ([WELCOME], "", {}),
        ([REFERRAL], "", {}),
        ([ONCE], "", {}),
        ([DAILY], "", {}),
        ([COUPON], "", {"coupons": ("SAVE",)}),
        ([], "limits = { per_day = 15 }", {}),
        ([], "limits = { purchases_per_day = 1 }", {}),
    ],
)
def test_bought_returned_and_bought_again_gives_what_the_first_gave(
    parts: list[str], points: str, more: dict[str, Any]
) -> None:
    member = Member(program(*parts, points=points), referrer=99)
    before = member.now.counters
    first = member.buy(line(1000, 2), line(500), **more)
    halves = [member.bring_back(first.version, part) for part in ((1, 1), (2, 1))]
    between = member.buy(line(1000, 2), line(500))
    assert earned(between) != earned(first)
    member.bring_all_back(between.version)
    last = member.bring_all_back(first.version)
    assert [one.detail.get("undone") for one in (*halves, last)] == [None, None, True]
    assert member.now.counters == before
    assert earned(member.buy(line(1000, 2), line(500), **more)) == earned(first)


@pytest.mark.parametrize("metric", ["points", "amount", "purchases"])
@pytest.mark.parametrize("policy", ["debt", "forgive"])
def test_what_came_back_whole_before_its_receipt_was_lost_counts_back_out_once(metric: str, policy: str) -> None:
    rules = program(
        WELCOME, REFERRAL, ONCE, DAILY, COUPON, f'[tier_policy]\nmetric = "{metric}"', TIERS,
        points=f'on_return = "{policy}"\nlimits = {{ purchases_per_day = 9, per_day = 1000 }}',
    )  # fmt: skip
    member = Member(rules, referrer=99)
    kept = member.buy(line(1000))
    lost = member.buy(line(1000, 2), coupons=("SAVE",))
    if policy == "forgive":
        member.ok(AdjustPoints(-member.now.available, "spent", NOW))
    member.bring_all_back(lost.version)
    before = member.now
    owed = kept.detail["referral"]  # as if it had been this purchase that was thanked for
    last = member.ok(ReversePurchase(lost.version, NOW), purchase=member.purchases[lost.version], referral=owed)
    assert last.detail == {"purchase": lost.version, "why": "receipt_conflict"}
    assert (member.now.counters, member.now.tier, last.points) == (before.counters, before.tier, 0)
    assert member.idle(ReversePurchase(lost.version, NOW), purchase=member.purchases[lost.version])


def test_a_purchase_after_one_that_stays_is_no_first_one() -> None:
    member = Member(program(WELCOME))
    first, second = member.buy(line(1000)), member.buy(line(1000))
    member.bring_all_back(first.version)
    assert earned(member.buy(line(1000))) == {"base": 10}
    member.bring_all_back(second.version)
    member.bring_all_back(member.journal[-2].version)
    assert earned(member.buy(line(1000))) == earned(first)


def test_another_day_s_purchase_stays_counted() -> None:
    member = Member(program(DAILY, points="limits = { per_day = 15 }"))
    first = member.buy(line(1000))
    member.buy(line(1000), at=later(days=1))
    member.bring_all_back(first.version, at=later(days=1))
    assert earned(member.buy(line(1000), at=later(days=1))) == {}
    assert earned(member.buy(line(1000), at=NOW, received_at=later(days=1))) == earned(first)


def test_what_was_forgiven_was_had_so_that_purchase_stays_counted() -> None:
    member = Member(program(WELCOME, ONCE, REFERRAL, points='on_return = "forgive"'), referrer=99)
    first = member.buy(line(1000, 2))
    hold = member.ok(PlaceHold(140, None, NOW)).version
    member.ok(CaptureHold(hold, None, NOW))
    member.bring_back(first.version, (1, 1))
    member.ok(AdjustPoints(200, "gift", NOW))
    assert "undone" not in member.bring_all_back(first.version).detail
    assert earned(member.buy(line(1000))) == {"base": 10}


def test_points_that_the_limits_of_a_day_never_counted_are_not_taken_off_them() -> None:
    member = Member(program(REFERRAL, points="limits = { per_day = 15 }"), referrer=99)
    first = member.buy(line(1000))
    assert earned(first) == {"base": 10, "referral": 100}
    assert earned(member.buy(line(1000))) == {"base": 5}
    member.bring_all_back(first.version)
    assert earned(member.buy(line(2000))) == {"base": 10}


@pytest.mark.parametrize("note", [None, {"coupons": ["SAVE"]}, {"coupons": ["SAVE"], "metric": "points"}])
def test_a_purchase_of_before_notes_named_every_offer_counts_out_as_it_would_today(note: dict[str, Any] | None) -> None:
    member = Member(program(WELCOME, ONCE, DAILY, COUPON, TIERS), referrer=99)
    before = member.now.counters
    first = member.buy(line(1000), coupons=("SAVE",))
    document = member.purchases[first.version].document
    if note is None:
        del document["counted"]
    else:
        document["counted"] = note | ({"day": "2026-11-22"} if "metric" in note else {})
    member.account = replace(member.now, counters=without(member.now.counters, "unsettled"))
    member.bring_all_back(first.version)
    assert without(member.now.counters, "metric") == before
    assert earned(member.buy(line(1000), coupons=("SAVE",))) == earned(first)


@LAW
@given(st.data(), programs(policy="debt"))
def test_whatever_was_before_buying_and_returning_leaves_the_counters_as_they_were(
    data: st.DataObject, rules: Program
) -> None:
    member = live(data, rules, steps=6)
    at, before, tier = member.now.changed_at, member.now.counters, member.now.tier
    asked = purchase(*data.draw(baskets), at=at, coupons=data.draw(st.sampled_from([(), ("SAVE",)])))
    first = member.say(asked)
    if not isinstance(first, Entry):
        return
    for part in parts_of(data, member.purchases[first.version].document):
        member.bring_back(first.version, part, at=at)
    after = member.now.counters
    moved = ("metric", "tier_before", "active_at", "alive", "unsettled", "lapsed")  # kept alive stays so; old days go
    assert without(after, *moved) == without(before, *moved)
    assert member.now.tier == tier
    day = rules.business_date(at)
    assert qualifying(after, rules, day) == qualifying(before, rules, day)
    assert unsettled(after, rules, day) == unsettled(before, rules, day)
    assert earned(member.ok(asked)) == earned(first)


def without(counters: dict[str, Any], *names: str) -> dict[str, Any]:
    return {known: kept for known, kept in counters.items() if known not in names}
