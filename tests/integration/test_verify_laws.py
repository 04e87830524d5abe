"""Whatever the rules write, `verify` finds nothing wrong with it: no false alarm under any program and history."""

import re
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.codec import instant_text, posting_document, state_row
from rules.command import AdjustPoints, CloseMember
from rules.describe import describe_account
from rules.outcome import Entry
from rules.program import Program
from rules.stored import short_postings
from shard_router.member_id import format_member_id
from shard_router.topology import Topology, TopologyDocument
from tests.project import PROJECT
from tests.query_world import member as member_id_of
from tests.rules_history import LAW, History, programs
from tests.rules_world import NOW, Member, later
from tests.rules_world import program as program_with
from verify.books import COUNTED, Books, MemberRows
from verify.entry import _POINTS
from verify.ledger import check_member

ADA = member_id_of(1)
SHARD = {"region": "eu", "slots": [(0, 4095)], "servers": [], "valkey": ""}
REGION = {"number": 1, "command": [], "query": []}
TOPOLOGY = Topology(TopologyDocument.model_validate({"epoch": 1, "regions": {"eu": REGION}, "shards": {"eu-1": SHARD}}))
NO_DATE = date(1970, 1, 1)


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


def rows_of(member: Member, deciding: list[Program]) -> MemberRows:
    """Everything as the command side would store it, but answers."""
    programs = {entry.version: program for entry, program in zip(member.journal, deciding, strict=True)}
    journal = [journal_row(entry, program) for entry, program in zip(member.journal, deciding, strict=True)]
    personal = [row["version"] for row in journal if row["kind"] in {"member_enrolled", "member_closed"}]
    profile = "{}" if member.now.status == "open" else '{"erased": true}'
    return MemberRows(
        ADA,
        account_row(member),
        {"member_id": ADA, "version": personal[-1], "profile": profile},
        journal,
        [purchase_row(member, version, programs) for version in sorted(member.purchases)],
        [row for entry in member.journal if (row := receipt_row(entry, programs[entry.version]))],
        [],
        [],
    )


def journal_row(entry: Entry, program: Program) -> dict[str, Any]:
    ruling = program.version if entry.program_version is None else entry.program_version
    shown = describe_account(entry.account, program, format_member_id(ADA))
    detail = entry.detail | ({"shown_by": program.version} if ruling != program.version else {})
    return {
        "member_id": ADA,
        "version": entry.version,
        "kind": entry.kind,
        "program_version": ruling,
        "occurred_at": entry.occurred_at,
        "recorded_at": entry.account.changed_at,
        "store": entry.store,
        "points": entry.points,
        "postings": orjson.dumps(short_postings([posting_document(posting) for posting in entry.postings])).decode(),
        "detail": orjson.dumps(detail),
        "account_after": orjson.dumps(shown),
    }


def account_row(member: Member) -> dict[str, Any]:
    account = member.now
    names = ("version", "status", "available", "pending", "held", "spent", "expired", "debt", "issued", "due_at")
    columns = {name: getattr(account, name) for name in names}
    return columns | {"member_id": ADA, "state": orjson.dumps(state_row(account))}


def purchase_row(member: Member, version: int, programs: dict[int, Program]) -> dict[str, Any]:
    purchase = member.purchases[version]
    returns = [entry for entry in member.journal if entry.kind == "purchase_returned"]
    returned = [entry.version for entry in returns if entry.detail["purchase"] == version]
    row = {"member_id": ADA, "version": version, "changed_version": max([version, *returned])}
    row |= {
        "occurred_at": purchase.occurred_at,
        "business_date": programs[version].business_date(purchase.occurred_at),
        "document": orjson.dumps(purchase.document),
    }
    return row | purchase.receipt


def receipt_row(entry: Entry, program: Program) -> dict[str, Any] | None:
    detail = entry.detail
    match entry.kind:
        case "purchase_recorded":
            name = ("purchase", "330", "1", "r")
        case "purchase_returned" if "why" not in detail:
            name = ("return", "330", "1", "back")
        case "transfer_received":
            name = ("transfer", format_member_id(detail["sender"]), "-", str(detail["transfer"]))
        case "referral_credited":
            name = ("referral", format_member_id(detail["referee"]), "-", str(detail["purchase"]))
        case "referral_returned":
            name = ("referral_return", format_member_id(detail["referee"]), "-", "3")
        case _:
            return None
    row = dict(zip(("kind", "store", "till", "receipt"), name, strict=True))
    day = program.business_date(entry.occurred_at) if "purchase" in entry.kind else NO_DATE
    subject = f"{ADA}-{detail['purchase']}" if entry.kind == "purchase_returned" else ""
    return row | {"member_id": ADA, "version": entry.version, "business_date": day, "subject": subject}


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
