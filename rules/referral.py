"""Points for bringing a member: given for their first purchase, taken back when it came back whole.

Which of a newcomer's purchases one was thanked for stays in the counters until it is undone. So whatever
comes twice or late changes nothing, and nobody gives back what they never had.
"""

from typing import Final

from rules import counters
from rules.codec import instant_text
from rules.command import CreditReferral, ReturnReferral
from rules.detail import ReferralDetail
from rules.draft import Draft
from rules.facts import Facts
from rules.outcome import Accepted, NothingToDo, Outcome
from rules.program import Program
from rules.state import Account, Bucket, Lot, Posting

_REASON: Final = "referral"


def credit_referral(account: Account, command: CreditReferral, program: Program, _facts: Facts) -> Outcome:
    """Thank a member for one they brought; nothing to do where they are thanked for them."""
    if counters.thanked_for(account.counters, command.referee) is not None:
        return NothingToDo()
    draft = Draft(account)
    expires_at = draft.expires_at(program, command.received_at)
    draft.earn(Lot(command.points, expires_at), _REASON, command.received_at)
    today = program.business_date(command.received_at)
    ends = instant_text(expires_at)
    draft.counters = counters.with_thanks(
        draft.counters, command.referee, command.purchase, today, command.points, ends
    )
    draft.keep_alive(program, command.received_at)
    entry = draft.entry(
        "referral_credited",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=command.points,
        detail={"referee": command.referee, "purchase": command.purchase, "day": today.isoformat(), "expires_at": ends},
    )
    return Accepted(entry)


def return_referral(account: Account, command: ReturnReferral, program: Program, _facts: Facts) -> Outcome:
    """Take the thanks for a purchase back; nothing to do where none were given, or no more.

    They come back as points of a purchase do (see Draft.take_back). What is missing is owed, or forgiven where no
    return makes debt: the goods are back already, so nothing can be refused. Who was forgiven has been thanked, and is
    not again.
    """
    if counters.thanked_for(account.counters, command.referee) not in {command.purchase, counters.ANY_PURCHASE}:
        return NothingToDo()
    draft = Draft(account)
    ends = counters.thanks_end(account.counters, command.referee)
    if ends is None:
        missing = command.points - draft.take(command.points, Bucket.PROGRAM, _REASON)
    else:
        missing = draft.take_back(command.points, ends[0], _REASON)
    lapsed = sum(posting.points for posting in draft.postings if posting.source is Bucket.EXPIRED)
    detail: ReferralDetail = {"referee": command.referee, "purchase": command.purchase}
    if (command.on_return or program.points.on_return) == "debt":
        draft.post(Posting(missing, Bucket.DEBT, Bucket.PROGRAM, _REASON))
        missing = 0
    draft.counters = counters.without_thanks(draft.counters, command.referee)
    if missing:
        draft.counters = counters.with_thanks(draft.counters, command.referee, counters.NO_PURCHASE)
        detail["points_forgiven"] = missing
    if lapsed:
        detail["points_lapsed"] = lapsed
    entry = draft.entry(
        "referral_returned",
        occurred_at=command.received_at,
        recorded_at=command.received_at,
        points=missing + lapsed - command.points,
        detail=detail,
    )
    return Accepted(entry)
