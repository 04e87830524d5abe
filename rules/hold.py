"""Holds: points set aside for a basket that is being paid, then captured, voided or left to lapse."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from rules.codec import instant_text
from rules.command import CaptureHold, PlaceHold, VoidHold
from rules.draft import Draft
from rules.facts import Facts
from rules.outcome import Accepted, Outcome, Reason, Refused
from rules.program import Program
from rules.state import Account, Bucket, Hold

OPEN_MAX: Final = 100
"""Holds and transfers of one member that are open at once, and unused redemptions: the account keeps all their lots."""


def place_hold(account: Account, command: PlaceHold, program: Program, _facts: Facts) -> Outcome:
    """Move available points aside, first to expire first."""
    if command.store is not None and command.store not in program.stores:
        return Refused(Reason.UNKNOWN_STORE, f"the program has no store {command.store!r}", "/store")
    seconds_max = program.points.hold_max_s
    seconds = seconds_max if command.expires_in_s is None else command.expires_in_s
    if seconds > seconds_max:
        return Refused(Reason.LIMIT_EXCEEDED, f"a hold lasts at most {seconds_max} s", "/expires_in_s")
    refused = too_many_open(account.holds, "holds and transfers")
    if refused:
        return refused
    draft = Draft(account)
    expires_at = command.received_at + timedelta(seconds=seconds)
    version = draft.open_hold(expires_at)
    if draft.take(command.points, Bucket.HELD, "held", hold=version) < command.points:
        return insufficient(account, command.points)
    entry = draft.entry(
        "hold_placed",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=-command.points,
        store=command.store,
        detail={"hold": version, "held": command.points, "expires_at": instant_text(expires_at)},
    )
    return Accepted(entry)


def capture_hold(account: Account, command: CaptureHold, program: Program, facts: Facts) -> Outcome:
    """Spend a hold, wholly or in part; the rest falls back, and expires if its time has passed."""
    hold = _open(account, command.hold)
    if hold is None:
        return _no_hold(facts)
    points = hold.points if command.points is None else command.points
    if points > hold.points:
        return Refused(Reason.INSUFFICIENT_POINTS, f"the hold has {hold.points} points, not {points}", "/points")
    draft = Draft(account)
    draft.spend_held(hold, points, "captured")
    released = draft.release(hold, "hold_released", command.received_at)
    draft.keep_alive(program, command.received_at)
    entry = draft.entry(
        "hold_captured",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=released,
        detail={"hold": hold.version, "captured": points, "released": released},
    )
    return Accepted(entry)


def void_hold(account: Account, command: VoidHold, _program: Program, facts: Facts) -> Outcome:
    """Give all of a hold back."""
    hold = _open(account, command.hold)
    if hold is None:
        return _no_hold(facts)
    draft = Draft(account)
    released = draft.release(hold, "hold_voided", command.received_at)
    entry = draft.entry(
        "hold_voided",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=released,
        detail={"hold": hold.version, "released": released},
    )
    return Accepted(entry)


def _open(account: Account, version: int) -> Hold | None:
    hold = account.hold(version)
    return hold if hold and hold.kind == "hold" else None


def _no_hold(facts: Facts) -> Refused:
    if facts.hold_existed:
        return Refused(Reason.HOLD_CLOSED, "the hold was captured, voided or has lapsed")
    return Refused(Reason.HOLD_NOT_FOUND, "no such hold")


def insufficient(account: Account, points: int) -> Refused:
    """The refusal of more points than there are."""
    return Refused(Reason.INSUFFICIENT_POINTS, f"{points} points asked for, {account.available} available", "/points")


def too_many_open(opened: Sequence[object], what: str) -> Refused | None:
    """The refusal of one more of what a member has open."""
    return Refused(Reason.LIMIT_EXCEEDED, f"{OPEN_MAX} {what} are open") if len(opened) >= OPEN_MAX else None
