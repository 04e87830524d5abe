"""Whatever the rules write, `verify` finds nothing wrong with it: no false alarm under any program and history."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.codec import instant_text
from rules.command import AdjustPoints, CloseMember
from rules.program import Program
from tests.member_rows import ADA, TOPOLOGY, rows_of
from tests.project import PROJECT
from tests.rules_history import LAW, History, programs
from tests.rules_world import NOW, Member, later
from tests.rules_world import program as program_with
from verify.books import COUNTED, Books
from verify.entry import _POINTS
from verify.ledger import check_member


def live(data: st.DataObject, first: Program, second: Program) -> tuple[Member, list[Program]]:
    """A history under one program and then another, perhaps to the end; and which one each entry was decided by."""
    member = Member(first, member_id=ADA, referrer=99)
    history = History(member, data)
    deciding = [first] * len(member.journal)
    for program in (first, second):
        second.version = 2
        known = ((NOW - timedelta(days=999), first), (history.now, second))
        member.program = program if program is first else program.with_history(known)
        for _ in range(data.draw(st.integers(0, 8))):
            history.step()
            deciding += [program] * (len(member.journal) - len(deciding))
    if data.draw(st.booleans()):
        member.say(CloseMember(history.now))
        deciding += [second] * (len(member.journal) - len(deciding))
    return member, deciding


@LAW
@given(st.data(), programs(), programs())
def test_what_the_rules_write_is_never_found_wrong(data: st.DataObject, first: Program, second: Program) -> None:
    member, deciding = live(data, first, second)
    books = Books("eu-1", TOPOLOGY, {1: first, 2: second})
    check_member(books, rows_of(member, deciding))
    assert [(one.check, one.examples) for one in books.findings.values() if not one.ok] == []


def test_an_activity_that_is_forgotten_is_found() -> None:
    """A basket that comes late would expire sooner."""
    rules = program_with(points='expiry = { kind = "inactivity", months = 1 }')
    member = Member(rules, member_id=ADA)
    member.ok(AdjustPoints(10, "gift", later(days=1)))
    for counters in ({}, {"active_at": instant_text(NOW)}):
        member.account = replace(member.now, counters=counters)
        books = Books("eu-1", TOPOLOGY, {1: rules})
        check_member(books, rows_of(member, [rules] * len(member.journal)))
        assert [one.check for one in books.findings.values() if not one.ok] == [COUNTED]


@pytest.mark.parametrize(
    "alive", [["2026-11-22T10:00:00Z", "2026-12-23T23:59:59Z"], ["2026-11-23T10:00:00Z", "2027-12-23T23:59:59Z"]]
)
def test_a_run_of_activities_that_never_was_is_found(alive: list[str]) -> None:
    """What comes back would live longer than it should."""
    rules = program_with(points='expiry = { kind = "inactivity", months = 1 }')
    member = Member(rules, member_id=ADA)
    member.ok(AdjustPoints(10, "gift", later(days=1)))
    assert member.now.counters["alive"] == ["2026-11-23T10:00:00Z", "2026-12-23T23:59:59Z"]
    member.account = replace(member.now, counters={**member.now.counters, "alive": alive})
    books = Books("eu-1", TOPOLOGY, {1: rules})
    check_member(books, rows_of(member, [rules] * len(member.journal)))
    assert [one.check for one in books.findings.values() if not one.ok] == [COUNTED]


def test_every_kind_of_entry_that_the_rules_write_is_known() -> None:
    sources = "\n".join(path.read_text() for path in (PROJECT / "rules").glob("*.py"))
    written = set(re.findall(r'\.entry\(\s*"(\w+)"', sources)) | {"tier_changed", "tier_renewed"}
    assert written == set(_POINTS)
