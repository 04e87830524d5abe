"""The beginning and the end of a membership, and points given by hand."""

from dataclasses import replace
from datetime import datetime

from rules import counters
from rules.codec import instant_text
from rules.command import AdjustPoints, ChangeIdentifiers, CloseMember, EnrolMember
from rules.detail import ClosedDetail, EnrolledDetail, IdentifiersDetail
from rules.draft import Draft
from rules.facts import Facts
from rules.hold import insufficient
from rules.outcome import Accepted, Outcome, Reason, Refused
from rules.program import Program
from rules.state import Account, Bucket, Lot, Posting, TierStanding


def enrol_member(command: EnrolMember, program: Program, facts: Facts) -> Outcome:
    """A blank account in the first tier; who brought the member is kept until the first purchase.

    Who comes back is no newcomer whom anybody brought.
    """
    if command.store is not None and command.store not in program.stores:
        return Refused(Reason.UNKNOWN_STORE, f"the program has no store {command.store!r}", "/store")
    tier = TierStanding(program.tiers[0].code, command.received_at)
    draft = Draft(Account(command.member_id, command.received_at, tier, incarnation=facts.incarnation))
    detail = EnrolledDetail()
    if facts.came_back:
        draft.counters = {"came_back": True}
        detail["came_back"] = True
    elif command.referrer is not None:
        draft.counters = {"referred_by": command.referrer}
        detail["referred_by"] = command.referrer
    entry = draft.entry(
        "member_enrolled",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        store=command.store,
        detail=detail,
    )
    return Accepted(entry)


def adjust_points(account: Account, command: AdjustPoints, program: Program, _facts: Facts) -> Outcome:
    """Give or take by hand; it counts for no tier."""
    draft = Draft(account)
    if command.points > 0:
        expires_at = command.expires_at or draft.expires_at(program, command.received_at)
        refused = _wrong_times(command, expires_at)
        if refused:
            return refused
        draft.earn(Lot(command.points, expires_at, command.pending_until), command.reason, command.received_at)
    elif draft.take(-command.points, Bucket.PROGRAM, command.reason) < -command.points:
        return insufficient(account, -command.points)
    draft.keep_alive(program, command.received_at)
    entry = draft.entry(
        "points_adjusted", occurred_at=command.received_at, recorded_at=command.received_at, points=command.points
    )
    return Accepted(entry)


def _wrong_times(command: AdjustPoints, expires_at: datetime | None) -> Refused | None:
    """The refusal of points that would be available never; `expires_at` is the command's own or the program's."""
    if command.pending_until and command.pending_until <= command.received_at:
        return Refused(Reason.MALFORMED, "pending_until must lie in the future", "/pending_until")
    if expires_at and expires_at <= (command.pending_until or command.received_at):
        if command.expires_at:
            return Refused(Reason.MALFORMED, "expires_at must lie after the points are available", "/expires_at")
        return Refused(
            Reason.MALFORMED, f"the points would expire before, at {instant_text(expires_at)}", "/pending_until"
        )
    return None


def change_identifiers(account: Account, command: ChangeIdentifiers, _program: Program, facts: Facts) -> Outcome:
    """Add and remove what the member is found by; the last one stays, or nobody could find them.

    Who has bought nothing yet and gets what one had who left comes back, as if enrolled so.
    """
    for kind in sorted(facts.taken):
        return Refused(Reason.MEMBER_EXISTS, f"there is a member with this {kind}", "/add")
    for kind, value in command.remove:
        if (kind, value) not in facts.identifiers:
            return Refused(Reason.NOT_FOUND, f"the member has no such {kind}", "/remove")
    left = (facts.identifiers | set(command.add)) - set(command.remove)
    if not left:
        return Refused(Reason.LIMIT_EXCEEDED, "a member keeps at least one identifier", "/remove")
    draft = Draft(account)
    detail: IdentifiersDetail = {
        "added": [kind for kind, _ in command.add],
        "removed": [kind for kind, _ in command.remove],
    }
    if facts.came_back and not counters.purchase_count(account.counters):
        draft.counters = {**draft.counters, "came_back": True}
        detail["came_back"] = True
    entry = draft.entry(
        "identifiers_changed",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        detail=detail,
    )
    return Accepted(entry)


def close_member(account: Account, command: CloseMember, _program: Program, _facts: Facts) -> Outcome:
    """Release what is held, forfeit what is left and write off what is owed.

    A transfer under way still waits for its receiver.
    """
    draft = Draft(account)
    for hold in account.holds:
        if hold.kind == "hold":
            draft.release(hold, "hold_released", command.received_at)
    forfeited = draft.account.available + draft.account.pending
    draft.take(draft.account.available, Bucket.EXPIRED, "forfeited")
    for lot in draft.account.lots:
        draft.post(Posting(lot.points, Bucket.PENDING, Bucket.EXPIRED, "forfeited", lot.expires_at, lot.available_at))
    owed = draft.account.debt
    draft.post(Posting(owed, Bucket.PROGRAM, Bucket.DEBT, "debt_written_off"))
    draft.counters = {}
    detail: ClosedDetail = {"forfeited": forfeited}
    if owed:
        detail["written_off"] = owed
    entry = draft.entry(
        "member_closed",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=-forfeited,
        detail=detail,
    )
    return Accepted(replace(entry, account=closed(entry.account)))


def closed(account: Account) -> Account:
    """The account once its membership has ended: nothing is due any more."""
    return replace(account, status="closed", redemptions=(), tier=replace(account.tier, until=None))
