"""Paying a basket with points: captured holds and points on top, all or nothing.

What points pay earns nothing: it is taken off the lines in proportion to their amounts.
"""

from dataclasses import dataclass
from typing import Final

from rules.command import RecordPurchase
from rules.draft import Draft
from rules.earn import share
from rules.facts import Facts
from rules.outcome import Refused
from rules.program import Program
from rules.state import Bucket, Lot


@dataclass(frozen=True, slots=True)
class Payment:
    """What points paid: how many, how much money they stand for, from which lots and holds."""

    points: int
    amount: int
    lots: tuple[Lot, ...]
    holds: dict[int, int]


NO_PAYMENT: Final = Payment(0, 0, (), {})


def pay(draft: Draft, command: RecordPurchase, program: Program, facts: Facts) -> Payment | Refused:
    """Spend a purchase's holds and points. Holds are spent whole, even if worth more than is due; points never are."""
    if not command.capture_holds and not command.pay_with_points:
        return NO_PAYMENT
    refused = _capture(draft, command, facts) or _spend(draft, command, program)
    if refused:
        return refused
    due = sum(line.amount for line in command.lines)
    points = sum(posting.points for posting in draft.postings)
    lots = dict.fromkeys((posting.expires_at for posting in draft.postings), 0)
    holds: dict[int, int] = {}
    for posting in draft.postings:
        lots[posting.expires_at] += posting.points
        if posting.hold is not None:
            holds[posting.hold] = holds.get(posting.hold, 0) + posting.points
    amount = min(program.amount_of(points), due)
    return Payment(points, amount, tuple(Lot(count, expires_at) for expires_at, count in lots.items()), holds)


def _capture(draft: Draft, command: RecordPurchase, facts: Facts) -> Refused | None:
    for index, version in enumerate(command.capture_holds):
        hold = draft.account.hold(version)
        if hold is None or hold.kind != "hold":
            known = version in facts.holds_existed or version in command.capture_holds[:index]
            reason, words = ("hold_closed", "was captured, voided or has lapsed") if known else ("hold_not_found", "")
            return Refused(reason, f"the hold {words}" if words else "no such hold", f"/capture_holds/{index}")
        draft.spend_held(hold, hold.points, "captured")
    return None


def _spend(draft: Draft, command: RecordPurchase, program: Program) -> Refused | None:
    points = command.pay_with_points
    if not points:
        return None
    if program.points.worth is None:
        return Refused("limit_exceeded", "this program takes no points for money", "/pay_with_points")
    due, held = sum(line.amount for line in command.lines), sum(posting.points for posting in draft.postings)
    if program.amount_of(held + points) > due:
        told = f"{held} held and {points} points pay" if held else f"{points} points pay"
        return Refused("limit_exceeded", f"{told} more than the {due} due", "/pay_with_points")
    available = draft.account.available
    if draft.take(points, Bucket.SPENT, "paid") < points:
        return Refused("insufficient_points", f"{points} points asked for, {available} available", "/pay_with_points")
    return None


def paid_amounts(command: RecordPurchase, payment: Payment) -> tuple[int, ...]:
    """How much of each line was paid with points."""
    return share(payment.amount, [line.amount for line in command.lines])
