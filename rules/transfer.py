"""Transfers: the two halves of a saga between members, each half exact on its own shard.

The sender's points wait in an open hold of kind `transfer` until the receiver's journal has them
(then they are spent) or never can (then they come back). The receiver gets the very lots. So
points are conserved whenever both halves are looked at, and in doubt only while the hold is open.
Where a restore has taken one half back, the other is brought to what the journals say (see command.reconcile).
"""

from rules.codec import lots_document
from rules.command import (
    CancelTransfer,
    ReceiveTransfer,
    ReturnTransfer,
    RevokeTransfer,
    SendTransfer,
    SettleTransfer,
)
from rules.counters import sent_on, with_sent
from rules.draft import Draft
from rules.facts import Facts
from rules.guess import STRANGERS_MAX, too_many
from rules.hold import insufficient, too_many_open
from rules.outcome import Accepted, NothingToDo, Outcome, Reason, Refused
from rules.program import Program
from rules.state import Account, Bucket, Hold, Posting
from rules.unsettled import unsettled


def send_transfer(account: Account, command: SendTransfer, program: Program, facts: Facts) -> Outcome:
    """Set available points aside for another member, first to expire first."""
    if command.to == account.member_id:
        return Refused(Reason.MALFORMED, "sender and receiver are the same member", "/to")
    refused = _limited(command, facts) or _not_allowed(account, command, program, facts)
    refused = refused or too_many_open(account.holds, "holds and transfers")
    if refused:
        return refused
    draft = Draft(account)
    version = draft.open_hold(None, kind="transfer")
    if draft.take(command.points, Bucket.HELD, "transfer", hold=version) < command.points:
        return insufficient(account, command.points)
    if command.to is None:  # last: whoever may not send learns nothing about the receiver
        detail = "no member that may receive points is named so"
        return Refused(Reason.MEMBER_NOT_FOUND, detail, "/to", wrong_guess=command.by_member)
    draft.counters = with_sent(draft.counters, program.business_date(command.received_at), command.points)
    draft.keep_alive(program, command.received_at)
    hold = draft.account.hold(version)
    entry = draft.entry(
        "transfer_sent",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=-command.points,
        detail={
            "transfer": version,
            "receiver": command.to,
            "sent": command.points,
            "lots": lots_document(hold.lots if hold else ()),
        },
    )
    return Accepted(entry)


def _not_allowed(account: Account, command: SendTransfer, program: Program, facts: Facts) -> Refused | None:
    """Why the program lets this member send so many points not now; too few in all is another matter."""
    terms, today = program.transfers, program.business_date(command.received_at)
    if not terms.enabled:
        return Refused(Reason.LIMIT_EXCEEDED, "in this program points are not sent to other members")
    since = program.business_date(facts.enrolled_at or command.received_at)
    if (today - since).days < terms.min_account_days:
        return Refused(Reason.LIMIT_EXCEEDED, f"points are sent after {terms.min_account_days} days of membership")
    sent = sent_on(account.counters, today)
    if terms.per_day and sent + command.points > terms.per_day:
        told = f"at most {terms.per_day} points are sent on a day, {sent} have been today"
        return Refused(Reason.LIMIT_EXCEEDED, told, "/points")
    settled = max(account.available - unsettled(account.counters, program, today), 0)
    if terms.only_settled and settled < command.points <= account.available:
        told = f"{settled} points can be sent, the others are from purchases that may still be returned"
        return Refused(Reason.INSUFFICIENT_POINTS, told, "/points")
    return None


def receive_transfer(account: Account, command: ReceiveTransfer, program: Program, _facts: Facts) -> Outcome:
    """Take the sender's lots in, once for each receipt; what has expired on the way expires at once."""
    draft = Draft(account)
    for lot in command.lots:
        draft.earn(lot, "transfer", command.received_at)
    draft.keep_alive(program, command.received_at)
    entry = draft.entry(
        "transfer_received",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=sum(lot.points for lot in command.lots),
        detail={"sender": command.sender, "transfer": command.transfer},
    )
    return Accepted(entry)


def settle_transfer(account: Account, command: SettleTransfer, _program: Program, facts: Facts) -> Outcome:
    """The receiver has them: the points are spent."""
    hold = _under_way(account, command.transfer)
    if hold is None:
        return _none_open(facts)
    draft = Draft(account)
    draft.spend_held(hold, hold.points, "transfer_settled")
    entry = draft.entry(
        "transfer_settled",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        detail={"transfer": hold.version, "settled": hold.points},
    )
    return Accepted(entry)


def cancel_transfer(account: Account, command: CancelTransfer, _program: Program, facts: Facts) -> Outcome:
    """The receiver can never have them: the points come back, to a closed account only to be forfeited."""
    hold = _under_way(account, command.transfer)
    if hold is None:
        return _none_open(facts)
    draft = Draft(account)
    released = draft.release(hold, "transfer_cancelled", command.received_at)
    if account.status != "open":
        draft.take(draft.account.available, Bucket.EXPIRED, "forfeited")
    entry = draft.entry(
        "transfer_cancelled",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=released,
        detail={"transfer": hold.version, "released": released, "why": command.reason},
    )
    return Accepted(entry)


def _limited(command: SendTransfer, facts: Facts) -> Refused | None:
    if not command.by_member:
        return None
    what = "no such receiver"
    return too_many(facts.wrong_guesses, command.received_at, guesses_max=STRANGERS_MAX, what=what)


def return_transfer(account: Account, command: ReturnTransfer, program: Program, _facts: Facts) -> Outcome:
    """The spent lots come back, as those of a cancelled transfer do."""
    draft = Draft(account)
    returned = draft.give_back(command.lots, "transfer_returned", command.received_at, program)
    if account.status != "open":
        draft.take(draft.account.available, Bucket.EXPIRED, "forfeited")
    entry = draft.entry(
        "transfer_returned",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=returned,
        detail={"transfer": command.transfer, "returned": returned},
    )
    return Accepted(entry)


def revoke_transfer(account: Account, command: RevokeTransfer, _program: Program, _facts: Facts) -> Outcome:
    """What the member still has goes first, the rest is owed; who is closed owes nothing any more, and that is told."""
    draft = Draft(account)
    revoked = draft.take(command.points, Bucket.PROGRAM, "transfer_revoked")
    if account.status == "open":
        draft.post(Posting(command.points - revoked, Bucket.DEBT, Bucket.PROGRAM, "transfer_revoked"))
        revoked = command.points
    entry = draft.entry(
        "transfer_revoked",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=-revoked,
        detail={
            "sender": command.sender,
            "transfer": command.transfer,
            "revokes": command.received,
            "revoked": revoked,
            "forgiven": command.points - revoked,
        },
    )
    return Accepted(entry)


def _under_way(account: Account, version: int) -> Hold | None:
    hold = account.hold(version)
    return hold if hold and hold.kind == "transfer" else None


def _none_open(facts: Facts) -> Refused | NothingToDo:
    """A transfer that was settled or cancelled before, or there never was one."""
    if facts.transfer_existed:
        return NothingToDo()
    return Refused(Reason.NOT_FOUND, "no such transfer")
