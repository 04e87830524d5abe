"""Paying a basket with points: captured holds and points on top, all or nothing.

Where points have a worth, no point is spent for nothing: what is spent is the fewest points that pay the money
taken off. So holds spend what the due takes, in their order, and release the rest; points on top that would
change nothing are refused. What points pay is taken off the lines in proportion to their amounts, and earns nothing.
"""

from collections.abc import Sequence
from typing import Final

from rules.command import RecordPurchase
from rules.currency import Currency
from rules.draft import Draft
from rules.earn import share
from rules.facts import Facts
from rules.outcome import Reason, Refused
from rules.program import Program
from rules.state import Bucket, Hold, Lot, Posting
from rules.value import value


@value
class Payment:
    """What points paid: how many, how much money they stand for, from which lots and holds, and what holds released."""

    points: int
    amount: int
    lots: tuple[Lot, ...]
    holds: dict[int, int]
    released: int


NO_PAYMENT: Final = Payment(0, 0, (), {}, 0)


def pay(draft: Draft, command: RecordPurchase, currency: Currency, program: Program, facts: Facts) -> Payment | Refused:
    """Spend a purchase's holds, as far as the due takes them, and its points. Without a worth holds are spent whole.

    What is spent is kept alive first, like all points, by the program in force now: it may come back.
    """
    if not command.capture_holds and not command.pay_with_points:
        return NO_PAYMENT
    holds = _holds(draft, command, facts)
    if isinstance(holds, Refused):
        return holds
    held, due = sum(hold.points for hold in holds), sum(line.amount for line in command.lines)
    amount = min(currency.amount_of(held + command.pay_with_points), due)
    needed = currency.points_for(amount) if currency.worth else held
    captured = min(held, needed)
    if captured or command.pay_with_points:
        draft.keep_alive(program, command.occurred_at, command.receipt.store)
    _capture(draft, command.capture_holds, captured)
    refused = _spend(draft, command, currency, held=held, room=max(needed - held, 0))
    if refused:
        return refused
    spent = [posting for posting in draft.postings if posting.target is Bucket.SPENT]
    released = sum(draft.release(hold, "hold_released", command.received_at) for hold in holds)
    return _payment(spent, amount, released)


def _holds(draft: Draft, command: RecordPurchase, facts: Facts) -> list[Hold] | Refused:
    """The open holds a purchase names, in its order."""
    holds: list[Hold] = []
    for index, version in enumerate(command.capture_holds):
        hold, twice = draft.account.hold(version), version in command.capture_holds[:index]
        if hold is None or hold.kind != "hold" or twice:
            known = version in facts.holds_existed or twice
            pointer = f"/capture_holds/{index}"
            if known:
                return Refused(Reason.HOLD_CLOSED, "the hold was captured, voided or has lapsed", pointer)
            return Refused(Reason.HOLD_NOT_FOUND, "no such hold", pointer)
        holds.append(hold)
    return holds


def _capture(draft: Draft, versions: Sequence[int], points: int) -> None:
    """Spend so many points of open holds, in their order."""
    left = points
    for hold in filter(None, map(draft.account.hold, versions)):
        spent = min(left, hold.points)
        draft.spend_held(hold, spent, "captured")
        left -= spent


def _spend(draft: Draft, command: RecordPurchase, currency: Currency, *, held: int, room: int) -> Refused | None:
    """Spend points on top of what is held; `room` is how many of them pay anything."""
    points = command.pay_with_points
    if not points:
        return None
    if currency.worth is None:
        return Refused(Reason.LIMIT_EXCEEDED, "this program takes no points for money", "/pay_with_points")
    if points > room:
        due = sum(line.amount for line in command.lines)
        return Refused(Reason.LIMIT_EXCEEDED, _too_many(points, room, _least(currency, held, due)), "/pay_with_points")
    available = draft.account.available
    if draft.take(points, Bucket.SPENT, "paid") < points:
        return Refused(
            Reason.INSUFFICIENT_POINTS, f"{points} points asked for, {available} available", "/pay_with_points"
        )
    return None


def _least(currency: Currency, held: int, due: int) -> int:
    """The fewest points that pay anything on top of what is held; 0 when nothing is left to pay."""
    paid = currency.amount_of(held)
    return currency.points_for(paid + 1) - held if paid < due else 0


def _too_many(points: int, room: int, least: int) -> str:
    """Why so many points are refused, and how many would do."""
    if room:
        return f"{room} points pay as much as {points} do: send {room}"
    return f"{points} points pay nothing: " + (f"send at least {least}" if least else "nothing is left to pay, send 0")


def _payment(spent: Sequence[Posting], amount: int, released: int) -> Payment:
    lots = dict.fromkeys((posting.expires_at for posting in spent), 0)
    holds: dict[int, int] = {}
    for posting in spent:
        lots[posting.expires_at] += posting.points
        if posting.hold is not None:
            holds[posting.hold] = holds.get(posting.hold, 0) + posting.points
    paying = tuple(Lot(points, expires_at) for expires_at, points in lots.items())
    return Payment(sum(lot.points for lot in paying), amount, paying, holds, released)


def paid_amounts(command: RecordPurchase, payment: Payment) -> tuple[int, ...]:
    """How much of each line was paid with points."""
    return share(payment.amount, [line.amount for line in command.lines])
