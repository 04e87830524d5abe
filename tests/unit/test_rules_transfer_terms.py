"""Who may send points, how many and which: points of purchases that may come back stay where they are."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.command import (
    AdjustPoints,
    CancelTransfer,
    CaptureHold,
    CloseMember,
    CreditReferral,
    PlaceHold,
    ReturnReferral,
    SendTransfer,
)
from rules.outcome import Entry, Refused
from rules.program import Program, parse_program
from tests.rules_history import LAW, baskets, programs
from tests.rules_world import NOW, Member, later, line, moves, program

SETTLED = "[transfers]\nmin_account_days = 0\n"
LONG_AGO = NOW - timedelta(days=800)


def terms(text: str, **rest: Any) -> Program:
    return program(f"[transfers]\n{text}\n", **rest)


def send(member: Member, points: int, at: datetime = NOW, **facts: Any) -> Entry | Refused:
    return member.say(SendTransfer(8, points, at), **facts)


def told(outcome: Entry | Refused) -> str:
    return outcome.reason if isinstance(outcome, Refused) else "sent"


def give(member: Member, points: int) -> None:
    member.ok(AdjustPoints(points, "given", NOW))


def test_the_terms_of_a_program_that_says_nothing_are_safe() -> None:
    source = '[program]\ncode = "t"\nname = "T"\ncurrency = "EUR"\n'
    safe = parse_program(source).transfers
    assert (safe.enabled, safe.per_day, safe.min_account_days, safe.only_settled) == (True, 10_000, 7, True)


def test_a_program_may_have_no_transfers() -> None:
    member = Member(terms("enabled = false"))
    give(member, 100)
    assert told(send(member, 1, enrolled_at=LONG_AGO)) == "limit_exceeded"


@pytest.mark.parametrize(("days", "outcome"), [(0, "limit_exceeded"), (6, "limit_exceeded"), (7, "sent")])
def test_a_new_member_sends_nothing_yet(days: int, outcome: str) -> None:
    member = Member(terms("min_account_days = 7"))
    give(member, 100)
    assert told(send(member, 1, enrolled_at=NOW - timedelta(days=days))) == outcome


def test_points_sent_on_a_day_are_limited_whatever_becomes_of_them() -> None:
    member = Member(terms("min_account_days = 0\nper_day = 100"))
    give(member, 500)
    first = member.ok(SendTransfer(8, 60, NOW))
    member.ok(CancelTransfer(first.version, NOW, "member_closed"))
    assert [told(send(member, points)) for points in (41, 40, 1)] == ["limit_exceeded", "sent", "limit_exceeded"]
    assert [told(send(member, points, later(days=1))) for points in (101, 100)] == ["limit_exceeded", "sent"]


@pytest.mark.parametrize(("days", "outcome"), [(0, "insufficient_points"), (30, "insufficient_points"), (31, "sent")])
def test_points_of_a_purchase_are_sent_once_it_cannot_come_back(days: int, outcome: str) -> None:
    member = Member(program(SETTLED))
    member.buy(line(10_000))
    assert told(send(member, 1, later(days=days))) == outcome
    assert told(send(member, 101, later(days=days))) == "insufficient_points"


def test_a_late_basket_is_settled_by_its_own_day() -> None:
    member = Member(program(SETTLED))
    member.buy(line(10_000), at=later(days=-29), received_at=NOW)
    member.buy(line(10_000), at=later(days=-31), received_at=NOW)
    assert [told(send(member, points)) for points in (101, 100)] == ["insufficient_points", "sent"]
    assert told(send(member, 100, later(days=2))) == "sent"


def test_what_is_given_by_hand_is_settled_and_spending_takes_it_first() -> None:
    member = Member(program(SETTLED))
    member.buy(line(10_000))
    give(member, 50)
    assert [told(send(member, points)) for points in (51, 50)] == ["insufficient_points", "sent"]
    give(member, 30)
    hold = member.ok(PlaceHold(20, None, NOW)).version
    member.ok(CaptureHold(hold, None, NOW))
    assert [told(send(member, points)) for points in (11, 10)] == ["insufficient_points", "sent"]


def test_what_came_back_is_unsettled_no_more() -> None:
    member = Member(program(SETTLED))
    give(member, 100)
    version = member.buy(line(10_000, 4)).version
    member.bring_back(version, (1, 3))
    assert member.now.counters["unsettled"][1::2] == [25]
    assert [told(send(member, points)) for points in (101, 100)] == ["insufficient_points", "sent"]
    member.bring_all_back(version)
    assert "unsettled" not in member.now.counters


def test_points_still_pending_keep_no_others_back() -> None:
    member = Member(program(SETTLED, points="pending_days = 14"))
    give(member, 100)
    member.buy(line(10_000))
    assert told(send(member, 100)) == "sent"
    give(member, 5)
    assert [told(send(member, points, later(days=14))) for points in (6, 5)] == ["insufficient_points", "sent"]


def test_thanks_for_a_newcomer_are_settled_as_late_as_the_purchase_they_are_for() -> None:
    member = Member(program(SETTLED))
    member.ok(CreditReferral(9, 2, 200, NOW))
    assert [told(send(member, 1, later(days=days))) for days in (0, 30)] == ["insufficient_points"] * 2
    member.ok(CreditReferral(10, 2, 50, later(days=30)))
    assert [told(send(member, points, later(days=31))) for points in (201, 200)] == ["insufficient_points", "sent"]
    member.ok(ReturnReferral(10, 2, 50, later(days=31)))
    give(member, 7)
    assert told(send(member, 7, later(days=31))) == "sent"


def test_where_nothing_is_taken_back_after_a_while_all_is_settled() -> None:
    member = Member(program(SETTLED, "[tier_policy]\nreturn_days = 0\n"))
    member.buy(line(10_000))
    assert told(send(member, 100)) == "sent"
    assert "unsettled" not in member.now.counters


def test_points_of_nothing_are_not_to_be_had_by_sending_returning_and_leaving() -> None:
    member = Member(program(SETTLED))
    version = member.buy(line(100_000)).version
    assert told(send(member, 1_000)) == "insufficient_points"
    member.bring_all_back(version)
    assert (member.now.available, member.now.debt) == (0, 0)


def test_what_a_member_owes_is_written_off_when_the_membership_ends() -> None:
    member = Member(program())
    version = member.buy(line(10_000)).version
    member.ok(SendTransfer(8, 100, NOW))
    member.bring_all_back(version)
    assert member.now.debt == 100
    entry = member.ok(CloseMember(NOW))
    assert moves(entry) == [(100, "program", "debt")]
    assert (entry.points, entry.detail) == (0, {"forfeited": 0, "written_off": 100})
    assert (member.now.debt, member.now.held) == (0, 100)


def test_who_owes_nothing_has_nothing_written_off() -> None:
    member = Member(program())
    give(member, 5)
    assert member.ok(CloseMember(NOW)).detail == {"forfeited": 5}


@LAW
@given(st.data(), programs(policy="debt"), st.lists(st.tuples(baskets, st.integers(0, 9)), min_size=1, max_size=5))
def test_whoever_sends_only_settled_points_owes_nothing_when_all_comes_back(
    data: st.DataObject, rules: Program, bought: list[tuple[Any, int]]
) -> None:
    if not rules.transfers.only_settled:
        return
    member, now = Member(rules), NOW
    give(member, data.draw(st.integers(1, 50)))
    versions: list[tuple[int, datetime]] = []
    for lines, days in bought:
        versions.append((member.buy(*lines, at=now).version, now))
        now += timedelta(days=days)
        send(member, data.draw(st.integers(1, 60)), now)
    for version, at in data.draw(st.permutations(versions)):
        if (now - at).days <= rules.tier_policy.return_days:
            member.bring_all_back(version, at=now)
    assert rules.points.expiry.kind != "none" or member.now.debt == 0
