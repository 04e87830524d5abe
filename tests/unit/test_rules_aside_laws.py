"""Laws of what comes back: points that were held or spent for a while are as if they had been there all along."""

from collections.abc import Callable
from datetime import datetime, timedelta

from hypothesis import assume, example, given
from hypothesis import strategies as st

from rules.command import AdjustPoints, CancelRedemption, PlaceHold, RedeemReward, SettleAccount, VoidHold
from rules.counters import DAYS_KEPT
from tests.rules_history import LAW
from tests.rules_world import NOW, Member, later, line, program

EXPIRIES = (
    'kind = "none"', 'kind = "rolling", months = 1, round = "none"', 'kind = "rolling", months = 2',
    'kind = "fixed_dates", dates = ["12-31", "02-29"]', 'kind = "inactivity", months = 1',
    'kind = "inactivity", months = 2, round = "month_end"',
)  # fmt: skip
LONG = 30_000_000
WAYS = ("hold", "redemption", "payment")

Activity = tuple[str, int, int]
"""What a member does, how many days after the one before, and how many days it is late or its points live."""
activities = st.lists(
    st.tuples(
        st.sampled_from(["basket", "late basket", "gift", "gift for a while"]),
        st.sampled_from([1, 9, 20, 27, 35, 40]),
        st.integers(1, 34),
    ),
    max_size=5,
)


@LAW
@given(st.sampled_from(EXPIRIES), st.sampled_from(WAYS), activities, st.integers(0, 40))
@example('kind = "inactivity", months = 1', "redemption", [("basket", 20, 1), ("basket", 20, 1)], 1)
@example('kind = "inactivity", months = 1', "payment", [("basket", 27, 1), ("gift", 27, 1), ("basket", 27, 1)], 1)
def test_what_comes_back_is_as_if_it_had_been_there_all_along(
    expiry: str, way: str, between: list[Activity], wait: int
) -> None:
    first, second = [_with_points(expiry) for _ in range(2)]
    come_back = _put_aside(second, way)
    now = NOW
    for kind, days, length in between:
        now += timedelta(days=days)
        for member in (first, second):
            _do(member, kind, now, length)
    now += timedelta(days=wait)
    first.say(SettleAccount(now))
    come_back(now)
    assert (second.now.lots, second.now.expired, second.now.debt) == (first.now.lots, first.now.expired, 0)


@LAW
@given(
    st.sampled_from([one for one in EXPIRIES if "inactivity" not in one]),
    st.sampled_from([0, 3]),
    activities,
    st.integers(0, 40),
)
@example('kind = "fixed_dates", dates = ["12-31", "02-29"]', 0, [("gift", 40, 1)], 2)
@example('kind = "rolling", months = 1, round = "none"', 3, [("gift", 35, 1)], 1)
def test_a_basket_that_came_back_whole_leaves_what_there_would_be_without_it(
    expiry: str, pending_days: int, between: list[Activity], wait: int
) -> None:
    """Also where its points have expired meanwhile, if not too long ago: nobody loses them a second time."""
    assume(sum(days for _, days, _ in between) + wait <= DAYS_KEPT + 20)
    first, second = [
        Member(program(points=f"pending_days = {pending_days}\nexpiry = {{ {expiry} }}")) for _ in range(2)
    ]
    bought = second.buy(line(1000)).version
    now = NOW
    for kind, days, length in between:
        now += timedelta(days=days)
        for member in (first, second):
            _do(member, kind, now, length)
    now += timedelta(days=wait)
    first.say(SettleAccount(now))
    second.bring_all_back(bought, at=now)
    after, without = second.now, first.now
    assert (after.lots, after.expired, after.issued, after.debt) == (without.lots, without.expired, without.issued, 0)


def _with_points(expiry: str) -> Member:
    points = f"expiry = {{ {expiry} }}\nhold_max_s = {LONG}\nworth = {{ points = 1, amount = 1 }}"
    member = Member(program('[[rewards]]\ncode = "r"\nname = "R"\npoints = 30\n', points=points))
    member.ok(AdjustPoints(20, "gift", NOW, expires_at=later(days=50)))
    member.ok(AdjustPoints(30, "gift", NOW))
    return member


def _put_aside(member: Member, way: str) -> Callable[[datetime], object]:
    """Take 30 points of a member's; how they come back."""
    if way == "hold":
        hold = member.ok(PlaceHold(30, LONG, NOW)).version
        return lambda at: member.ok(VoidHold(hold, at))
    if way == "redemption":
        redemption = member.ok(RedeemReward("r", 1, "code", NOW)).version
        return lambda at: member.ok(CancelRedemption(redemption, at))
    purchase = member.buy(line(30), pay_with_points=30).version
    return lambda at: member.bring_all_back(purchase, at)


def _do(member: Member, kind: str, at: datetime, days: int) -> None:
    match kind:
        case "basket":
            member.buy(line(1000), at=at)
        case "late basket" if (
            member.program.points.expiry.kind != "inactivity"
        ):  # it saves what is held, not what ended
            member.buy(line(700), at=at - timedelta(days=days), received_at=at)
        case "gift":
            member.ok(AdjustPoints(3, "gift", at))
        case _:
            member.ok(AdjustPoints(4, "gift", at, expires_at=at + timedelta(days=days)))
