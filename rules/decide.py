"""`decide(account, command) -> Decision`: pure, total, and the only place where commands meet rules.

Time is let pass first (see settle), then the command is decided on what is left. It never goes back
for a member, whatever a clock says, so a failover undoes no expiry and no lapse. What a command refers
to beyond the account (a purchase, a closed hold, stock) comes along as `Facts`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from rules.command import (
    AdjustPoints,
    CancelRedemption,
    CancelTransfer,
    CaptureHold,
    ChangeIdentifiers,
    CloseMember,
    Command,
    CreditReferral,
    EnrolMember,
    PlaceHold,
    ReceiveTransfer,
    RecordPurchase,
    RedeemReward,
    ReturnPurchase,
    ReturnReferral,
    ReturnTransfer,
    ReversePurchase,
    RevokeTransfer,
    SendTransfer,
    SettleAccount,
    SettleTransfer,
    UseRedemption,
    VoidHold,
)
from rules.facts import NO_FACTS, Facts
from rules.hold import capture_hold, place_hold, void_hold
from rules.membership import adjust_points, change_identifiers, close_member, enrol_member
from rules.outcome import Accepted, Decision, Entry, NothingToDo, Outcome, Reason, Refused
from rules.program import Program
from rules.purchase import record_purchase
from rules.redemption import cancel_redemption, redeem_reward, use_redemption
from rules.referral import credit_referral, return_referral
from rules.returning import return_purchase, reverse_purchase
from rules.settle import settle
from rules.state import Account
from rules.transfer import (
    cancel_transfer,
    receive_transfer,
    return_transfer,
    revoke_transfer,
    send_transfer,
    settle_transfer,
)

__all__ = ["NO_FACTS", "Facts", "decide"]

ALSO_WHEN_CLOSED: Final = (SettleTransfer, CancelTransfer, ReturnTransfer, RevokeTransfer)
"""What still comes to its end after the membership has."""

POINTS_MAX: Final = 2**62
"""All points of one member together stay below this: the columns are 64-bit integers."""


def decide(account: Account | None, command: Command, program: Program, facts: Facts = NO_FACTS) -> Decision:
    """The outcome of one command on one member's account (None: there is no such member)."""
    if account is None:
        if isinstance(command, EnrolMember):
            return _decided(enrol_member(command, program, facts), (), None)
        return Decision(Refused(Reason.MEMBER_NOT_FOUND, "no such member"), (), None)
    if account.status != "open" and not isinstance(command, ALSO_WHEN_CLOSED):
        return Decision(Refused(Reason.MEMBER_CLOSED, "the membership is closed"), (), account)
    if command.received_at < account.changed_at:  # by a clock that is behind the one that dated what was decided last
        command = replace(command, received_at=account.changed_at)
    account, settled = settle(account, command.received_at, program)
    outcome = _RULES[type(command)](account, command, program, facts)
    return _decided(outcome, settled, account)


def _decided(outcome: Outcome, settled: tuple[Entry, ...], account: Account | None) -> Decision:
    if isinstance(outcome, Accepted):
        after = outcome.entry.account
        if after.issued + after.debt > POINTS_MAX:  # what all other buckets sum to
            outcome = Refused(Reason.LIMIT_EXCEEDED, "the account would hold more points than there can be")
        else:
            account = after
    return Decision(outcome, settled, account)


def _exists(_account: Account, _command: EnrolMember, _program: Program, _facts: Facts) -> Outcome:
    return Refused(Reason.MEMBER_EXISTS, "this member exists")


def _settled(_account: Account, _command: SettleAccount, _program: Program, _facts: Facts) -> Outcome:
    return NothingToDo()


_RULES: Final[dict[type, Callable[[Account, Any, Program, Facts], Outcome]]] = {
    EnrolMember: _exists,
    RecordPurchase: record_purchase,
    ReturnPurchase: return_purchase,
    ReversePurchase: reverse_purchase,
    AdjustPoints: adjust_points,
    PlaceHold: place_hold,
    CaptureHold: capture_hold,
    VoidHold: void_hold,
    RedeemReward: redeem_reward,
    UseRedemption: use_redemption,
    CancelRedemption: cancel_redemption,
    SendTransfer: send_transfer,
    ReceiveTransfer: receive_transfer,
    SettleTransfer: settle_transfer,
    CancelTransfer: cancel_transfer,
    ReturnTransfer: return_transfer,
    RevokeTransfer: revoke_transfer,
    CreditReferral: credit_referral,
    ReturnReferral: return_referral,
    ChangeIdentifiers: change_identifiers,
    CloseMember: close_member,
    SettleAccount: _settled,
}
