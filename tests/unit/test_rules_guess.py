"""What is bounded for one member: guesses at codes and receivers, and what may be open at once."""

from datetime import timedelta

import pytest

from rules.command import AdjustPoints, CancelRedemption, PlaceHold, RedeemReward, SendTransfer, UseRedemption
from rules.guess import CODES_MAX, STRANGERS_MAX
from rules.hold import OPEN_MAX
from rules.outcome import Refused
from tests.rules_world import NOW, Member, program

REWARDS = """
[[rewards]]
code = "coffee"
name = "A coffee"
points = 1
"""
CODE = "K7Q2M4XW9R"


@pytest.fixture
def member() -> Member:
    member = Member(program(REWARDS))
    member.ok(AdjustPoints(1_000, "gift", NOW))
    return member


def redemption(member: Member) -> int:
    return member.ok(RedeemReward("coffee", 1, CODE, NOW)).version


@pytest.mark.parametrize("command", [UseRedemption, CancelRedemption])
@pytest.mark.parametrize(
    ("code", "refused"),
    [
        pytest.param(CODE, None, id="the code"),
        pytest.param(CODE.lower(), None, id="in small letters"),
        pytest.param(None, None, id="none asked"),
        pytest.param("", "not_found", id="empty"),
        pytest.param(CODE[:-1], "not_found", id="a beginning"),
        pytest.param(CODE + "A", "not_found", id="too long"),
        pytest.param("ÄÖÜ", "not_found", id="other letters"),
    ],
)
def test_a_redemption_ends_for_its_code_only(
    member: Member, command: type, code: str | None, refused: str | None
) -> None:
    named = redemption(member)
    shown = {"store": "330", "code": code}
    outcome = member.say(command(redemption=named, received_at=NOW, **shown), redemption_code=CODE)
    assert (outcome.reason if isinstance(outcome, Refused) else None) == refused
    assert isinstance(outcome, Refused) is bool(refused and outcome.wrong_guess)


@pytest.mark.parametrize(
    ("ages_min", "retry_after_s"),
    [
        pytest.param([1] * (CODES_MAX - 1), None, id="one is left"),
        pytest.param([60, 50, 40, 30, 20], None, id="the oldest is an hour old"),
        pytest.param([59, 50, 40, 30, 20], 60, id="five within the hour"),
        pytest.param([59, 58, 50, 40, 30, 20], 120, id="more than five, from two nodes"),
    ],
)
def test_five_wrong_codes_are_those_of_any_hour(member: Member, ages_min: list[int], retry_after_s: int | None) -> None:
    wrong = tuple(NOW - timedelta(minutes=age) for age in ages_min)
    use = UseRedemption(redemption(member), "330", NOW, code=CODE)
    outcome = member.say(use, redemption_code=CODE, wrong_guesses=wrong)
    refused = (outcome.reason, outcome.retry_after_s) if isinstance(outcome, Refused) else (None, None)
    assert refused == ("rate_limited" if retry_after_s else None, retry_after_s)


@pytest.mark.parametrize("by_member", [True, False])
def test_a_receiver_is_missed_only_after_the_points_are(member: Member, by_member: bool) -> None:  # noqa: FBT001
    def send(points: int, *, guesses: int = 0) -> Refused:
        outcome = member.say(SendTransfer(None, points, NOW, by_member=by_member), wrong_guesses=(NOW,) * guesses)
        assert isinstance(outcome, Refused)
        return outcome

    assert (send(1_001).reason, send(1_001).wrong_guess) == ("insufficient_points", False)
    assert (send(1).reason, send(1).pointer, send(1).wrong_guess) == ("member_not_found", "/to", by_member)
    assert send(1, guesses=STRANGERS_MAX).reason == ("rate_limited" if by_member else "member_not_found")


@pytest.mark.parametrize(
    "command",
    [PlaceHold(1, None, NOW), SendTransfer(8, 1, NOW), RedeemReward("coffee", 1, CODE, NOW)],
    ids=["holds", "transfers", "redemptions"],
)
def test_a_member_has_so_many_things_open_and_no_more(
    member: Member, command: PlaceHold | SendTransfer | RedeemReward
) -> None:
    for _ in range(OPEN_MAX):
        member.ok(command)
    assert member.refused(command) == "limit_exceeded"
    others = {PlaceHold: SendTransfer(8, 1, NOW), SendTransfer: PlaceHold(1, None, NOW)}
    if type(command) in others:
        assert member.refused(others[type(command)]) == "limit_exceeded", "both are kept in one list"
