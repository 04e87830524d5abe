"""`decide(account, command) -> Decision`: pure, total, and the only place where commands meet rules.

Time is let pass first (see settle), then the command is decided on what is left. What a command
refers to beyond the account (a purchase, a closed hold) comes along as `Facts`.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from rules.codec import instant_text
from rules.command import (
    AdjustPoints,
    CaptureHold,
    Command,
    EnrolMember,
    PlaceHold,
    RecordPurchase,
    ReturnPurchase,
    SettleAccount,
    VoidHold,
)
from rules.draft import Draft
from rules.outcome import Accepted, Decision, Outcome, Purchase, Refused
from rules.program import Program
from rules.purchase import record_purchase, return_purchase
from rules.settle import settle
from rules.state import Account, Bucket, Hold, Posting, TierStanding

POINTS_MAX: Final = 2**62
"""No bucket of one member grows beyond this: the columns are 64-bit integers."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a command refers to. `hold_existed`: the entry it names did place a hold, whatever became of it."""

    purchase: Purchase | None = None
    hold_existed: bool = False


NO_FACTS: Final = Facts()


def decide(account: Account | None, command: Command, program: Program, facts: Facts = NO_FACTS) -> Decision:
    """The outcome of one command on one member's account (None: there is no such member)."""
    if account is None:
        if isinstance(command, EnrolMember):
            return _decided(_enrol(command, program), (), None)
        return Decision(Refused("member_not_found", "no such member"), (), None)
    if account.status != "open":
        return Decision(Refused("member_closed", "the membership is closed"), (), account)
    account, settled = settle(account, command.received_at)
    return _decided(_outcome(account, command, program, facts), settled, account)


def _decided(outcome: Outcome, settled: tuple[object, ...], account: Account | None) -> Decision:
    if isinstance(outcome, Accepted):
        after = outcome.entry.account
        if max(after.available, after.pending, after.held, after.spent, after.expired, after.debt) > POINTS_MAX:
            outcome = Refused("limit_exceeded", "the account would hold more points than there can be")
        else:
            account = after
    return Decision(outcome, settled, account)  # pyright: ignore[reportArgumentType]


def _outcome(account: Account, command: Command, program: Program, facts: Facts) -> Outcome:
    match command:
        case RecordPurchase():
            return record_purchase(account, command, program)
        case ReturnPurchase():
            if facts.purchase is None:
                return Refused("purchase_not_found", "no such purchase")
            return return_purchase(account, command, facts.purchase, program)
        case AdjustPoints():
            return _adjust(account, command, program)
        case PlaceHold():
            return _place_hold(account, command, program)
        case CaptureHold():
            return _capture_hold(account, command, facts)
        case VoidHold():
            return _void_hold(account, command, facts)
        case EnrolMember():
            return Refused("member_exists", "this member exists")
        case SettleAccount():
            return Refused("in_progress", "there is nothing else to do")


def _enrol(command: EnrolMember, program: Program) -> Outcome:
    if command.store is not None and command.store not in program.stores:
        return Refused("unknown_store", f"the program has no store {command.store!r}", "/store")
    tier = TierStanding(program.tiers[0].code, command.received_at)
    draft = Draft(Account(command.member_id, command.received_at, tier))
    entry = draft.entry(
        "member_enrolled", occurred_at=command.received_at, recorded_at=command.received_at, store=command.store
    )
    return Accepted(entry)


def _adjust(account: Account, command: AdjustPoints, program: Program) -> Outcome:
    draft = Draft(account)
    if command.points > 0:
        refused = _wrong_times(command)
        if refused:
            return refused
        expires_at = command.expires_at or program.expires_at(command.received_at)
        draft.earn(command.points, command.reason, expires_at=expires_at, available_at=command.pending_until)
    elif draft.take(-command.points, Bucket.PROGRAM, command.reason) < -command.points:
        return _insufficient(account, -command.points)
    entry = draft.entry(
        "points_adjusted", occurred_at=command.received_at, recorded_at=command.received_at, points=command.points
    )
    return Accepted(entry)


def _wrong_times(command: AdjustPoints) -> Refused | None:
    if command.pending_until and command.pending_until <= command.received_at:
        return Refused("malformed", "pending_until must lie in the future", "/pending_until")
    if command.expires_at and command.expires_at <= (command.pending_until or command.received_at):
        return Refused("malformed", "expires_at must lie after the points are available", "/expires_at")
    return None


def _place_hold(account: Account, command: PlaceHold, program: Program) -> Outcome:
    if command.store is not None and command.store not in program.stores:
        return Refused("unknown_store", f"the program has no store {command.store!r}", "/store")
    seconds_max = program.points.hold_max_s
    seconds = seconds_max if command.expires_in_s is None else command.expires_in_s
    if seconds > seconds_max:
        return Refused("limit_exceeded", f"a hold lasts at most {seconds_max} s", "/expires_in_s")
    draft = Draft(account)
    expires_at = command.received_at + timedelta(seconds=seconds)
    version = draft.open_hold(expires_at)
    if draft.take(command.points, Bucket.HELD, "held", hold=version) < command.points:
        return _insufficient(account, command.points)
    entry = draft.entry(
        "hold_placed",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=-command.points,
        store=command.store,
        detail={"hold": version, "held": command.points, "expires_at": instant_text(expires_at)},
    )
    return Accepted(entry)


def _capture_hold(account: Account, command: CaptureHold, facts: Facts) -> Outcome:
    hold = account.hold(command.hold)
    if hold is None:
        return _no_hold(facts)
    points = hold.points if command.points is None else command.points
    if points > hold.points:
        return Refused("insufficient_points", f"the hold has {hold.points} points, not {points}", "/points")
    draft = Draft(account)
    captured = _spend_held(draft, hold, points)
    released = draft.release(hold, "hold_released")
    entry = draft.entry(
        "hold_captured",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=released,
        detail={"hold": hold.version, "captured": captured, "released": released},
    )
    return Accepted(entry)


def _spend_held(draft: Draft, hold: Hold, points: int) -> int:
    left = points
    for lot in hold.lots:
        moved = min(left, lot.points)
        draft.post(Posting(moved, Bucket.HELD, Bucket.SPENT, "captured", lot.expires_at, hold=hold.version))
        left -= moved
    return points - left


def _void_hold(account: Account, command: VoidHold, facts: Facts) -> Outcome:
    hold = account.hold(command.hold)
    if hold is None:
        return _no_hold(facts)
    draft = Draft(account)
    released = draft.release(hold, "hold_voided")
    entry = draft.entry(
        "hold_voided",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=released,
        detail={"hold": hold.version, "released": released},
    )
    return Accepted(entry)


def _no_hold(facts: Facts) -> Refused:
    if facts.hold_existed:
        return Refused("hold_closed", "the hold was captured, voided or has lapsed")
    return Refused("hold_not_found", "no such hold")


def _insufficient(account: Account, points: int) -> Refused:
    return Refused("insufficient_points", f"{points} points asked for, {account.available} available", "/points")
