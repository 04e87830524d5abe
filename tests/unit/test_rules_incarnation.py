"""After a restore: no version is given again, and what lost its other half goes back or comes back."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.codec import parse_lots
from rules.command import (
    AdjustPoints,
    CaptureHold,
    CloseMember,
    PlaceHold,
    ReceiveTransfer,
    ReturnTransfer,
    RevokeTransfer,
    SendTransfer,
    SettleTransfer,
)
from rules.version import SPAN, VERSION_MAX, follows, incarnation_of, includes, next_version, place_of
from tests.rules_world import NOW, Member, later, line, program

FIRST = 28_432_090  # seconds since 2026


@pytest.mark.parametrize(
    ("version", "incarnation", "following"),
    [
        (0, 0, 1),
        (7, 0, 8),
        (0, FIRST, FIRST * SPAN + 1),
        (7, FIRST, FIRST * SPAN + 8),
        (FIRST * SPAN + 8, FIRST, FIRST * SPAN + 9),
        (FIRST * SPAN + 8, FIRST + 9, (FIRST + 9) * SPAN + 9),
    ],
)
def test_the_next_version_keeps_the_place_and_takes_the_incarnation(
    version: int, incarnation: int, following: int
) -> None:
    assert next_version(version, incarnation) == following
    assert follows(following, version)
    assert (place_of(following), incarnation_of(following)) == (place_of(version) + 1, incarnation)


@given(
    st.lists(st.integers(0, 3), max_size=30).map(sorted), st.integers(0, 30), st.lists(st.integers(4, 6), min_size=1)
)
def test_no_version_of_a_lost_future_is_given_again(before: list[int], kept: int, after: list[int]) -> None:
    lost = [0]
    for incarnation in before:
        lost.append(next_version(lost[-1], incarnation))
    lived = lost[: kept + 1]
    for incarnation in sorted(after):
        lived.append(next_version(lived[-1], incarnation))
    assert not set(lost[kept + 1 :]) & set(lived)
    assert lived == sorted(lived)
    assert [place_of(version) for version in lived] == list(range(len(lived)))
    assert all(follows(later, earlier) for earlier, later in pairwise(lived))


@pytest.mark.parametrize(
    ("seen", "demanded", "certain"),
    [
        (5, 0, True),
        (5, 5, True),
        (6, 5, True),
        (4, 5, False),
        (FIRST * SPAN + 6, 0, True),
        (FIRST * SPAN + 6, 5, False),  # it may be of the lost future: the journal tells
        (5, FIRST * SPAN + 5, False),
        (FIRST * SPAN + 6, FIRST * SPAN + 6, True),
    ],
)
def test_a_version_includes_another_for_certain_only_within_an_incarnation(
    seen: int, demanded: int, *, certain: bool
) -> None:
    assert includes(seen, demanded) is certain


@pytest.mark.parametrize(("version", "before"), [(1, 1), (3, 1), (FIRST * SPAN + 3, 1), (2, FIRST * SPAN + 1)])
def test_a_gap_or_an_earlier_incarnation_does_not_follow(version: int, before: int) -> None:
    assert not follows(version, before)


def test_versions_stay_exact_for_decades() -> None:
    assert next_version(SPAN - 2, 28 * 365 * 86_400) < VERSION_MAX


def test_a_member_goes_on_after_a_restore_with_holds_and_purchases_named_by_new_versions() -> None:
    """Folding the journal over the seam gives the account: `check_books` after each command proves it."""
    member = Member(program(points='per_unit = "1"'))
    bought = member.buy(line(1000))
    member.account = replace(member.now, incarnation=FIRST)
    again = member.buy(line(1000))
    assert (bought.version, again.version) == (2, FIRST * SPAN + 3)
    assert member.bring_all_back(again.version).version == FIRST * SPAN + 4
    assert member.bring_all_back(bought.version).version == FIRST * SPAN + 5
    assert member.ok(AdjustPoints(5, "gift", NOW)).version == FIRST * SPAN + 6


def sent_and_received(points: int = 600) -> tuple[Member, Member, int, int]:
    """A sender and a receiver who have a settled transfer behind them, and the versions of its halves."""
    sender, receiver = Member(program()), Member(program(), member_id=8)
    sender.ok(AdjustPoints(1000, "gift", NOW, expires_at=later(days=9)))
    sent = sender.ok(SendTransfer(8, points, NOW))
    received = receiver.ok(ReceiveTransfer(7, sent.version, parse_lots(sent.detail["lots"]), NOW))
    sender.ok(SettleTransfer(sent.version, NOW))
    return sender, receiver, sent.version, received.version


@pytest.mark.parametrize(("spent", "available", "debt"), [(0, 0, 0), (200, 0, 200), (600, 0, 600)])
def test_a_revoked_transfer_takes_what_is_there_and_makes_the_rest_a_debt(
    spent: int, available: int, debt: int
) -> None:
    _, receiver, transfer, received = sent_and_received()
    if spent:
        receiver.ok(CaptureHold(receiver.ok(PlaceHold(spent, None, NOW)).version, None, NOW))
    entry = receiver.ok(RevokeTransfer(received, 7, transfer, 600, NOW))
    assert (entry.points, entry.detail["revoked"], entry.detail["forgiven"]) == (-600, 600, 0)
    assert (receiver.now.available, receiver.now.debt, receiver.now.issued) == (available, debt, 0)


def test_a_closed_receiver_is_forgiven() -> None:
    _, receiver, transfer, received = sent_and_received()
    receiver.ok(CloseMember(NOW))
    entry = receiver.ok(RevokeTransfer(received, 7, transfer, 600, NOW))
    assert (entry.points, entry.detail["forgiven"], receiver.now.debt) == (0, 600, 0)


def test_a_returned_transfer_brings_its_lots_back() -> None:
    sender, _, transfer, _ = sent_and_received()
    lots = parse_lots([[600, "2026-12-01T10:00:00Z"]])
    assert sender.ok(ReturnTransfer(transfer, lots, NOW)).points == 600
    assert (sender.now.available, sender.now.spent, sender.now.held) == (1000, 0, 0)
    assert {lot.expires_at for lot in sender.now.lots} == {later(days=9)}


def test_to_a_sender_who_is_closed_a_transfer_is_returned_and_forfeited() -> None:
    sender, _, transfer, _ = sent_and_received()
    sender.ok(CloseMember(NOW))
    sender.ok(ReturnTransfer(transfer, parse_lots([[600, "2026-12-01T10:00:00Z"]]), NOW))
    assert (sender.now.available, sender.now.spent, sender.now.expired) == (0, 0, 1000)
