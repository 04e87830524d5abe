"""From the body of a purchase to the rules' command: one translation for what is bought and what is only evaluated."""

from collections.abc import Sequence
from datetime import datetime

from rules.command import Line, Receipt, RecordPurchase
from service.body import PurchaseBody
from shard_router.errors import ProblemError, parse_or
from shard_router.member_id import Reference, parse_reference


def named_holds(body: PurchaseBody, member_id: int | None) -> list[Reference]:
    """The holds a basket names, all of one member: of the buyer, if that is known. `hold_not_found` for any other."""
    holds = [parse_or("hold_not_found", parse_reference, "hld", hold_id) for hold_id in body.capture_holds]
    if not holds:
        return holds
    owners = {hold.member_id for hold in holds} | ({member_id} if member_id is not None else set())
    if len(owners) > 1:
        raise ProblemError("hold_not_found")
    return holds


def basket_command(
    body: PurchaseBody, holds: Sequence[Reference], *, occurred_at: datetime, received_at: datetime
) -> RecordPurchase:
    """The command of a basket."""
    return RecordPurchase(
        Receipt(body.store, body.till, body.receipt),
        body.currency,
        tuple([Line(line.sku, line.quantity, line.amount, line.category) for line in body.lines]),
        occurred_at,
        received_at,
        capture_holds=tuple([hold.version for hold in holds]),
        coupons=tuple(body.coupons),
        pay_with_points=body.pay_with_points,
    )
