"""A basket that came back whole costs its buyer nothing: whatever they did meanwhile without needing its points.

Two members do the same, one of them buys a basket besides and brings it back. In the end both were given and have
spent the same, and the buyer has no less: what expires soonest goes first, so a basket may have saved other points.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rules.command import (
    AdjustPoints,
    CancelRedemption,
    CaptureHold,
    Command,
    PlaceHold,
    RedeemReward,
    SettleAccount,
    VoidHold,
)
from rules.counters import DAYS_KEPT
from rules.outcome import Entry
from tests.rules_history import LAW
from tests.rules_world import NOW, Member, line, program, purchase

EXPIRIES = (
    'kind = "none"', 'kind = "rolling", months = 1, round = "none"', 'kind = "rolling", months = 2',
    'kind = "fixed_dates", dates = ["12-31", "02-29"]', 'kind = "inactivity", months = 1',
)  # fmt: skip
DAY = 86_400
KINDS = ("gift", "gift for a while", "hold", "void", "capture", "redeem", "cancel", "buy", "pay", "return")
LAST = 30 + DAYS_KEPT - 1
"""Days until when whatever expired is still known."""

Step = tuple[str, int, int, int]
"""What is done, how many days after the step before, with how many points, and for how long a hold holds them."""
steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.sampled_from([0, 1, 3, 10, 20, 25]), st.integers(1, 8), st.sampled_from([2, 15, 40])
    ),
    max_size=8,
)


@dataclass
class Side:
    """One of the two members, and what they have open."""

    member: Member
    opened: dict[str, list[int]] = field(default_factory=lambda: {"hold": [], "redemption": []})

    def do(self, step: Step, now: datetime) -> bool:
        """Whether a step can be done."""
        kind, _, points, days = step
        match kind:
            case "gift":
                return self.say(AdjustPoints(points, "gift", now))
            case "gift for a while":
                return self.say(AdjustPoints(points, "gift", now, expires_at=now + timedelta(days=5 + points)))
            case "hold":
                return self.say(PlaceHold(points, days * DAY, now), "hold")
            case "void":
                return self.end("hold", points, lambda version: VoidHold(version, now))
            case "capture":
                return self.end("hold", points, lambda version: CaptureHold(version, None, now))
            case "redeem":
                return self.say(RedeemReward("r", 1 + points // 4, "code", now), "redemption")
            case "cancel":
                return self.end("redemption", points, lambda version: CancelRedemption(version, now))
            case "buy":
                return self.say(purchase(line(points * 100), at=now))
            case _:
                return self.say(purchase(line(points), at=now, pay_with_points=points))

    def say(self, command: Command, opens: str = "") -> bool:
        said = self.member.say(command)
        if opens and isinstance(said, Entry):
            self.opened[opens].append(said.version)
        return isinstance(said, Entry)

    def end(self, kind: str, number: int, command: Callable[[int], Any]) -> bool:
        opened = self.opened[kind]
        return bool(opened) and self.say(command(opened[number % len(opened)]))

    def left(self) -> int:
        account = self.member.now
        return account.available + account.pending + account.held - account.debt


def two(expiry: str, pending_days: int, gift: int, days: int | None) -> tuple[Side, Side]:
    points = (
        f"pending_days = {pending_days}\nexpiry = {{ {expiry} }}\nhold_max_s = 30000000\n"
        "worth = { points = 1, amount = 1 }"
    )
    reward = '[[rewards]]\ncode = "r"\nname = "R"\npoints = 3\n'
    sides = [Side(Member(program(reward, points=points))) for _ in range(2)]
    for side in sides:
        side.do(("gift", 0, gift, 0), NOW)
        ends = NOW + timedelta(days=days) if days else None
        side.say(AdjustPoints(gift, "gift", NOW, expires_at=ends))
    return sides[0], sides[1]


@LAW
@given(
    st.sampled_from(EXPIRIES),
    st.sampled_from([0, 3]),
    st.integers(1, 9),
    st.sampled_from([None, 5, 33, 40]),
    steps,
)
def test_a_basket_that_came_back_whole_costs_nothing(
    expiry: str, pending_days: int, gift: int, days: int | None, between: list[Step]
) -> None:
    buyer, other = two(expiry, pending_days, gift, days)
    bought: int | None = buyer.member.buy(line(1000)).version
    now = NOW
    for step in [*between, ("return", 0, 0, 0)]:
        now = min(now + timedelta(days=step[1]), NOW + timedelta(days=LAST))
        if step[0] == "return":
            if bought:
                buyer.member.bring_all_back(bought, at=now)
            bought = None
        elif other.do(step, now):
            assert buyer.do(step, now)
    for side in (buyer, other):
        for hold in side.opened["hold"]:
            side.member.say(VoidHold(hold, now))
        side.member.say(SettleAccount(now))
    assert buyer.left() >= other.left()
    issued, spent = other.member.now.issued, other.member.now.spent
    assert (buyer.member.now.issued, buyer.member.now.spent) == (issued, spent)
