"""Points for bringing a member come back with a first purchase that came back whole, by the policy of returns."""

import pytest

from rules.command import AdjustPoints, CloseMember, CreditReferral, ReturnReferral
from rules.counters import thanked_for
from rules.outcome import NothingToDo, Refused
from tests.rules_world import NOW, Member, earned, later, line, moves, program

TERMS = "[referral]\nreferrer = 200\nnewcomer = 100\nmin_amount = 1000\n"
REFEREE = 99


def thanked(policy: str = "debt") -> Member:
    member = Member(program(points=f'on_return = "{policy}"'))
    member.ok(CreditReferral(REFEREE, 2, 200, NOW))
    return member


def take_back(member: Member, purchase: int = 2) -> str:
    said = member.say(ReturnReferral(REFEREE, purchase, 200, NOW))
    if isinstance(said, NothingToDo):
        return "nothing to do"
    return said.reason if isinstance(said, Refused) else "taken"


def test_a_first_purchase_that_came_back_whole_tells_what_is_due_back_from_the_referrer() -> None:
    newcomer = Member(program(TERMS), referrer=8)
    first = newcomer.buy(line(1000, 2))
    assert "referral_return" not in newcomer.bring_back(first.version, (1, 1)).detail
    back = newcomer.bring_back(first.version, (1, 1))
    assert back.detail["referral_return"] == {
        "referrer": 8, "points": 200, "purchase": first.version, "on_return": "debt",
    }  # fmt: skip
    again = newcomer.buy(line(1000, 2))
    assert again.detail["referral"] == first.detail["referral"]
    assert earned(again) == earned(first)


def test_a_purchase_that_owed_nobody_takes_nothing_back() -> None:
    newcomer = Member(program(TERMS), referrer=8)
    newcomer.buy(line(1000))
    second = newcomer.buy(line(1000))
    assert "referral_return" not in newcomer.bring_all_back(second.version).detail


def test_what_the_newcomer_is_forgiven_the_referrer_gives_back_all_the_same() -> None:
    newcomer = Member(program(TERMS, points='on_return = "forgive"'), referrer=8)
    first = newcomer.buy(line(1000))
    newcomer.ok(AdjustPoints(-110, "spent", NOW))
    back = newcomer.bring_all_back(first.version)
    assert ("undone" in back.detail, back.detail["referral_return"]["points"]) == (False, 200)
    assert "referral" not in newcomer.buy(line(1000)).detail


def test_thanks_come_back_once_and_may_be_given_anew() -> None:
    member = thanked()
    entry = member.ok(ReturnReferral(REFEREE, 2, 200, NOW))
    assert (entry.kind, entry.points, moves(entry)) == ("referral_returned", -200, [(200, "available", "program")])
    assert take_back(member) == "nothing to do"
    assert (member.now.available, member.now.counters) == (0, {})
    member.ok(CreditReferral(REFEREE, 5, 200, NOW))
    assert take_back(member) == "nothing to do"
    assert take_back(member, 5) == "taken"


@pytest.mark.parametrize(
    ("policy", "left", "debt", "again"), [("debt", 0, 150, True), ("forgive", 0, 0, False), ("refuse", 0, 0, False)]
)
def test_thanks_that_were_spent_follow_the_policy_and_who_was_forgiven_is_not_thanked_again(
    policy: str, left: int, debt: int, *, again: bool
) -> None:
    member = thanked(policy)
    member.ok(AdjustPoints(-150, "spent", NOW))
    entry = member.ok(ReturnReferral(REFEREE, 2, 200, NOW))
    assert (member.now.available, member.now.debt) == (left, debt)
    assert entry.detail.get("points_forgiven", 0) == 150 - debt
    assert (thanked_for(member.now.counters, REFEREE) is None) is again
    assert take_back(member) == "nothing to do"
    if not again:
        assert member.idle(CreditReferral(REFEREE, 5, 200, NOW))
        member.ok(AdjustPoints(500, "gift", NOW))
        assert take_back(member, 5) == "nothing to do"


def test_what_is_missing_follows_the_policy_of_the_purchase_where_it_is_told() -> None:
    member = thanked("forgive")
    member.ok(AdjustPoints(-150, "spent", NOW))
    member.ok(ReturnReferral(REFEREE, 2, 200, NOW, "debt"))
    assert (member.now.available, member.now.debt, member.now.counters) == (0, 150, {})


def test_a_referrer_in_debt_owes_more() -> None:
    member = Member(program())
    bought = member.buy(line(5000))
    member.ok(AdjustPoints(-50, "spent", NOW))
    member.bring_all_back(bought.version)
    member.ok(CreditReferral(REFEREE, 2, 200, NOW))
    assert (member.now.available, member.now.debt) == (150, 0)
    member.ok(ReturnReferral(REFEREE, 2, 200, NOW))
    assert (member.now.available, member.now.debt) == (0, 50)


def test_thanks_that_an_earlier_version_gave_come_back_too() -> None:
    member = Member(program())
    member.ok(AdjustPoints(200, "referral", NOW))
    member.now.counters["referrals"] = [98, REFEREE]
    assert [take_back(member, purchase) for purchase in (7, 7)] == ["taken", "nothing to do"]
    assert member.now.counters == {"referrals": [98]}


@pytest.mark.parametrize("policy", ["debt", "forgive"])
@pytest.mark.parametrize(("days", "gone"), [(1, 0), (40, 200)])
def test_thanks_that_expired_unused_are_not_taken_again_from_others(policy: str, days: int, gone: int) -> None:
    member = Member(
        program(points=f'on_return = "{policy}"\nexpiry = {{ kind = "rolling", months = 1, round = "none" }}')
    )
    member.ok(CreditReferral(REFEREE, 2, 200, NOW))
    member.ok(AdjustPoints(500, "gift", NOW, expires_at=later(days=300)))
    entry = member.ok(ReturnReferral(REFEREE, 2, 200, later(days=days)))
    assert (member.now.available, member.now.debt) == (500, 0)
    assert (entry.points, entry.detail.get("points_lapsed", 0)) == (gone - 200, gone)
    assert member.now.issued == member.now.available


def test_thanks_whose_end_an_earlier_version_did_not_note_are_taken_first_to_expire_first() -> None:
    member = thanked()
    member.now.counters["referrals"] = [row[:4] for row in member.now.counters["referrals"]]
    member.ok(AdjustPoints(150, "gift", NOW, expires_at=later(days=3)))
    entry = member.ok(ReturnReferral(REFEREE, 2, 200, NOW))
    assert [(one.points, one.expires_at) for one in entry.postings] == [(150, later(days=3)), (50, None)]


def test_nothing_is_taken_from_who_was_never_thanked_or_is_gone() -> None:
    member = Member(program())
    assert take_back(member) == "nothing to do"
    member = thanked()
    member.ok(CloseMember(NOW))
    assert take_back(member) == "member_closed"
