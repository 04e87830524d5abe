"""Who leaves and comes back is a full member, but has no bonus a second time."""

from typing import Any

import pytest

from rules.command import AdjustPoints, ChangeIdentifiers, EnrolMember
from rules.outcome import Refused
from rules.program import parse_program
from tests.rules_world import NOW, TIERS, Member, earned, later, line, program, purchase

WELCOME = '[[campaigns]]\ncode = "welcome"\nwhen = { first_purchase = true }\neffect = { fixed = 25 }\n'
ONCE = '[[campaigns]]\ncode = "once"\neffect = { fixed = 3 }\nlimits = { per_member = 1 }\n'
DAILY = '[[campaigns]]\ncode = "daily"\neffect = { fixed = 2 }\nlimits = { per_member_per_day = 1 }\n'
COUPONS = (
    '[[coupons]]\ncode = "HELLO"\neffect = { fixed = 50 }\n'
    '[[coupons]]\ncode = "OFTEN"\neffect = { fixed = 1 }\nper_member = 0\n'
)
REFERRAL = "[referral]\nreferrer = 200\nnewcomer = 100\n"
RULES = program(WELCOME, ONCE, DAILY, COUPONS, REFERRAL, TIERS)
PHONE = ("phone", "+4930123456")


def back(referrer: int | None = 99) -> Member:
    member = Member(RULES)
    member.account, member.journal = None, []
    member.ok(EnrolMember(7, "card", NOW, {}, referrer=referrer), came_back=True)
    return member


def test_who_comes_back_has_no_bonus_of_a_newcomer_and_all_else() -> None:
    member = back()
    assert member.journal[0].detail == {"came_back": True}
    entry = member.buy(line(20_000), coupons=("OFTEN",))
    assert earned(entry) == {"base": 200, "campaign:daily": 2, "coupon:OFTEN": 1}
    assert "referral" not in entry.detail
    assert entry.account.tier.code == "silver"
    assert member.why("welcome") == "first_purchase"
    assert member.why("once") == "member_limit"


def test_a_coupon_that_each_person_has_once_is_used() -> None:
    refusal = back().say(purchase(line(2_000), coupons=("HELLO",)))
    assert isinstance(refusal, Refused)
    assert (refusal.reason, refusal.pointer) == ("unknown_coupon", "/coupons/0")


def test_returning_all_makes_nobody_a_newcomer_again() -> None:
    member = back()
    member.bring_all_back(member.buy(line(2_000)).version)
    assert "campaign:welcome" not in earned(member.buy(line(2_000)))


@pytest.mark.parametrize(("bought", "welcome"), [(0, 0), (1, 25)])
def test_a_phone_of_one_who_left_makes_one_who_comes_back_of_who_has_bought_nothing_yet(
    bought: int,
    welcome: int,
) -> None:
    member = Member(RULES, referrer=99)
    first = member.buy(line(2_000)) if bought else None
    entry = member.ok(ChangeIdentifiers((PHONE,), (), NOW), came_back=True)
    assert ("came_back" in entry.detail) is not bool(bought)
    first = first or member.buy(line(2_000))
    assert earned(first).get("campaign:welcome", 0) == welcome
    assert ("referral" in first.detail) is bool(bought)


def test_a_member_of_long_standing_who_gets_a_number_used_before_loses_nothing() -> None:
    member = Member(RULES)
    member.buy(line(2_000))
    member.ok(ChangeIdentifiers((PHONE,), (), NOW), came_back=True)
    assert earned(member.buy(line(2_000), at=later(days=1), coupons=("HELLO",)))["coupon:HELLO"] == 50


def test_points_of_one_who_came_back_are_theirs_like_anybodys() -> None:
    member = back()
    member.ok(AdjustPoints(5, "given", NOW))
    assert member.now.available == 5


def test_rejoin_days_are_a_year_unless_the_program_says_otherwise() -> None:
    def days(text: str) -> Any:
        return parse_program(f'[program]\ncode = "t"\nname = "T"\ncurrency = "EUR"\n{text}').membership.rejoin_days

    assert (days(""), days("[membership]\nrejoin_days = 0\n")) == (365, 0)
