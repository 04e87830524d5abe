"""A tier bought with returned goods goes: lately reached, it falls with the goods without which it was not reached."""

from datetime import datetime

import pytest

from rules.command import SettleAccount
from rules.counters import Counters
from rules.state import TierStanding
from tests.rules_world import NOW, TIERS, Member, at, later, line, policy, program


def codes(member: Member) -> list[str]:
    return [entry.detail["tier"]["to"] for entry in member.journal if "tier" in entry.detail]


def start(member: Member) -> TierStanding:
    return member.journal[0].account.tier


@pytest.mark.parametrize("metric", ["points", "amount", "purchases"])
@pytest.mark.parametrize(("days", "code"), [(0, "basic"), (30, "basic"), (31, "gold")])
def test_a_tier_goes_with_what_bought_it_within_the_days_of_returns(metric: str, days: int, code: str) -> None:
    tiers = TIERS.replace("100", "1").replace("300", "2") if metric == "purchases" else TIERS
    member = Member(program(tiers, policy(metric=f'"{metric}"')))
    versions = [member.buy(line(15_000)).version for _ in range(2)]
    assert member.now.tier.code == "gold"
    for version in versions:
        member.bring_all_back(version, at=later(days=days))
    assert member.now.tier.code == code
    if code == "basic":
        assert member.now.tier == start(member)
        assert "tier_before" not in member.now.counters


def test_the_entry_that_took_a_tier_says_so() -> None:
    member = Member(program(TIERS))
    version = member.buy(line(30_000, 3)).version
    told = [member.bring_back(version, (1, 1)).detail.get("tier", {}) for _ in range(3)]
    assert [(one.get("from"), one.get("to")) for one in told] == [("gold", "silver"), (None, None), ("silver", "basic")]
    assert codes(member) == ["gold", "silver", "basic"]


def test_what_other_purchases_hold_stays_from_when_it_was_reached() -> None:
    member = Member(program(TIERS))
    member.buy(line(9_000), at=later(days=-200))
    version = member.buy(line(25_000, 5)).version
    gold = member.now.tier
    member.bring_back(version, (1, 1), at=later(days=9))
    assert member.now.tier == TierStanding("silver", gold.since, gold.until)
    member.bring_back(version, (1, 3), at=later(days=9))
    assert member.now.tier.code == "silver"
    member.bring_back(version, (1, 1), at=later(days=9))
    assert member.now.tier == start(member)


def test_a_return_that_leaves_the_tier_s_metric_takes_nothing() -> None:
    member = Member(program(TIERS))
    member.buy(line(30_000))
    version = member.buy(line(29_900)).version
    member.bring_all_back(version)
    assert member.now.tier.code == "gold"


@pytest.mark.parametrize(("days", "code"), [(29, "basic"), (31, "silver")])
def test_a_tier_held_before_comes_back_as_it_was_and_may_go_in_its_turn(days: int, code: str) -> None:
    member = Member(program(TIERS))
    first = member.buy(line(10_000)).version
    silver = member.now.tier
    second = member.buy(line(20_000), at=later(days=20)).version
    member.bring_all_back(second, at=later(days=25))
    assert member.now.tier == silver
    member.bring_all_back(first, at=later(days=days))
    assert member.now.tier.code == code


def test_one_return_may_take_two_tiers() -> None:
    member = Member(program(TIERS))
    first = member.buy(line(10_000)).version
    member.buy(line(20_000), at=later(days=1))
    member.bring_all_back(first, at=later(days=2))
    assert (member.now.tier.code, codes(member)) == ("silver", ["silver", "gold", "silver"])
    member.bring_all_back(member.journal[2].version, at=later(days=3))
    assert member.now.tier == start(member)


def test_a_tier_held_before_that_would_have_ended_meanwhile_has() -> None:
    member = Member(program(TIERS))
    member.buy(line(10_000), at=later(days=-360))
    version = member.buy(line(30_000)).version
    assert member.now.tier.code == "gold"
    member.bring_all_back(version, at=later(days=20))
    assert (member.now.tier.code, member.now.tier.until) == ("basic", None)


def test_a_tier_held_before_that_the_window_no_longer_earns_is_held_to_its_end() -> None:
    member = Member(program(TIERS))
    first = member.buy(line(10_000), at=later(days=-300)).version
    member.bring_all_back(first, at=later(days=-200))
    silver = member.now.tier
    member.bring_all_back(member.buy(line(30_000)).version)
    assert (silver.code, member.now.tier) == ("silver", silver)


def test_a_calendar_year_that_began_meanwhile_keeps_no_tier_of_returned_goods() -> None:
    member = Member(program(TIERS, policy(window='{ kind = "calendar_year" }')))
    version = member.buy(line(30_000), at=at("2026-12-20T12:00:00Z")).version
    member.say(SettleAccount(at("2027-01-02T00:00:00Z")))
    assert (member.journal[-1].kind, member.now.tier.until) == ("tier_renewed", at("2028-01-01T00:00:00Z"))
    member.bring_all_back(version, at=at("2027-01-05T12:00:00Z"))
    assert member.now.tier.code == "basic"


def test_what_the_end_of_a_period_left_no_return_takes() -> None:
    months = 'window = { kind = "rolling", months = 1 }\n'
    member = Member(program(TIERS, policy() + months))
    gold = member.buy(line(30_000)).version
    member.say(SettleAccount(later(days=31)))
    silver = member.now.tier
    member.bring_all_back(gold, at=later(days=31))
    assert (silver.code, member.now.tier) == ("silver", silver)


def test_days_that_leave_the_window_take_no_tier_that_was_reached_with_them() -> None:
    member = Member(program(TIERS))
    member.buy(line(6_000), at=later(days=-360))
    version = member.buy(line(6_000, 6)).version
    member.bring_back(version, (1, 1), at=later(days=20))
    assert member.now.tier.code == "silver"
    member.bring_back(version, (1, 2), at=later(days=20))
    assert member.now.tier.code == "basic"


@pytest.mark.parametrize(
    ("keys", "code"),
    [({"downgrade": '"never"'}, "basic"), ({"return_days": "0"}, "gold"), ({"return_days": "5"}, "gold")],
)
def test_the_policy_says_for_how_long_a_return_takes_a_tier(keys: dict[str, str], code: str) -> None:
    member = Member(program(TIERS, policy(**keys)))
    version = member.buy(line(30_000)).version
    member.bring_all_back(version, at=later(days=6))
    assert member.now.tier.code == code


def test_a_tier_reached_before_this_was_noted_waits_for_the_end_of_its_period() -> None:
    member = Member(program(TIERS))
    version = member.buy(line(30_000)).version
    del member.now.counters["tier_before"]
    member.bring_all_back(version)
    assert member.now.tier.code == "gold"


def test_what_a_tier_was_reached_from_is_noted_while_a_return_may_take_it() -> None:
    def noted(counters: Counters) -> list[tuple[str, datetime]]:
        return [(code, at(since)) for code, since, _ in counters.get("tier_before", ())]

    member = Member(program(TIERS))
    member.buy(line(10_000))
    assert noted(member.now.counters) == [("basic", start(member).since)]
    member.buy(line(20_000), at=later(days=10))
    assert noted(member.now.counters) == [("basic", start(member).since), ("silver", NOW)]
    member.buy(line(1), at=later(days=41))
    assert noted(member.now.counters) == []
