"""Laws that hold over random programs and histories. The books are checked after every command (see rules_world)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from rules.codec import parse_lots, posting_document
from rules.command import (
    Line,
    PlaceHold,
    ReceiveTransfer,
    SendTransfer,
    SettleAccount,
    SettleTransfer,
    VoidHold,
)
from rules.decide import Facts, decide
from rules.evaluate import Evaluation, evaluate
from rules.outcome import Entry
from rules.program import Program
from tests.rules_history import LAW, baskets, exact, live, programs, story
from tests.rules_world import NOW, Member, program, purchase


@LAW
@given(st.data(), programs())
def test_the_books_are_right_after_every_command_of_any_history(data: st.DataObject, rules: Program) -> None:
    live(data, rules, steps=20, close=True)


@LAW
@given(exact, baskets, st.data())
def test_a_split_purchase_never_earns_more_than_the_whole_under_pure_per_unit_rules(
    per_unit: str, basket: tuple[Line, ...], data: st.DataObject
) -> None:
    rules = program(points=f'per_unit = "{per_unit}"')
    whole = Member(rules).buy(*basket).points
    cut = data.draw(st.integers(0, len(basket)))
    parts = [part for part in (basket[:cut], basket[cut:]) if part]
    assert sum(Member(rules).buy(*part).points for part in parts) <= whole


@LAW
@given(st.data(), programs())
def test_void_after_hold_is_as_if_nothing_had_happened(data: st.DataObject, rules: Program) -> None:
    member = live(data, rules, steps=6)
    at = member.now.changed_at
    before = member.now
    entry = member.say(PlaceHold(data.draw(st.integers(1, max(before.available, 1))), None, at))
    if isinstance(entry, Entry):
        before = replace(before, version=member.now.version + 1, changed_at=at)
        member.ok(VoidHold(entry.version, at))
        assert member.now == before


@LAW
@given(st.data(), programs())
def test_applying_an_evaluation_gives_what_it_said(data: st.DataObject, rules: Program) -> None:
    member = live(data, rules, steps=6)
    at = member.now.changed_at + timedelta(days=data.draw(st.integers(0, 60)))
    asked = purchase(*data.draw(baskets), at=NOW, coupons=data.draw(st.sampled_from([(), ("SAVE",)])))
    promised = evaluate(member.now, asked, rules, at)
    done = member.say(replace(asked, received_at=at))
    if isinstance(promised, Evaluation):
        assert isinstance(done, Entry)
        earned = sum(one["points"] for one in member.explanation)
        assert (promised.points, promised.postings) == (earned, done.postings)
        assert list(promised.not_applied) == done.detail.get("not_applied", [])
        assert promised.tier_after["code"] == member.now.tier.code
    else:
        assert promised == done


@LAW
@given(st.data(), programs())
def test_replaying_a_members_commands_under_their_programs_gives_the_same_entries(
    data: st.DataObject, rules: Program
) -> None:
    member = live(data, rules, close=True)
    account, entries = None, []
    for command, ruled_by, facts in member.said:
        decision = decide(account, command, ruled_by, facts)
        account = decision.account
        entries += decision.entries
    assert entries == member.journal


@LAW
@given(st.data(), programs())
def test_settling_late_leaves_the_same_entries_as_settling_on_time(data: st.DataObject, rules: Program) -> None:
    member = live(data, rules, steps=6)
    late, on_time = member.now, member.now
    end = late.changed_at + timedelta(days=800)
    journal: list[Entry] = []
    while on_time.due_at and on_time.due_at <= end:
        decision = decide(on_time, SettleAccount(max(on_time.due_at, on_time.changed_at)), rules)
        assert decision.account is not None
        on_time = decision.account
        journal += decision.entries
    settled = decide(late, SettleAccount(end), rules)
    assert story(list(settled.settled)) == story(journal)
    assert settled.account is not None
    assert replace(settled.account, changed_at=NOW) == replace(on_time, changed_at=NOW)


@LAW
@given(st.data(), programs())
def test_interleaving_two_members_never_matters(data: st.DataObject, rules: Program) -> None:
    first, second = live(data, rules, steps=5), live(data, rules, steps=5)
    queues = [list(first.said), list(second.said)]
    accounts: list[Any] = [None, None]
    journals: list[list[Entry]] = [[], []]
    while any(queues):
        who = data.draw(st.sampled_from([index for index in (0, 1) if queues[index]]))
        command, ruled_by, facts = queues[who].pop(0)
        decision = decide(accounts[who], command, ruled_by, facts)
        accounts[who] = decision.account
        journals[who] += decision.entries
    assert [story(journal) for journal in journals] == [story(first.journal), story(second.journal)]


@LAW
@given(st.data(), programs(), st.integers(1, 500))
def test_a_transfer_conserves_points_and_their_expiry_whatever_happens_between(
    data: st.DataObject, rules: Program, points: int
) -> None:
    sender, receiver = live(data, rules, steps=5), Member(rules, member_id=8)
    at = max(sender.now.changed_at, receiver.now.changed_at)
    before = sender.now.available
    sent = sender.say(SendTransfer(8, points, at))
    if not isinstance(sent, Entry):
        return
    lots = parse_lots(orjson.loads(orjson.dumps(sent.detail["lots"])))
    assert sum(lot.points for lot in lots) == points
    receiver.ok(ReceiveTransfer(7, sent.version, lots, at))
    sender.ok(SettleTransfer(sent.version, at), transfer_existed=True)
    got = receiver.now
    assert sender.now.available + got.available + got.expired == before
    assert decide(sender.now, SettleTransfer(sent.version, at), rules, Facts(transfer_existed=True)).entries == ()
    assert all(posting_document(posting)["points"] > 0 for posting in sent.postings)
