"""What tills, operators and the settler ask. Frozen values, stamped at the edge: `decide` asks no clock.

Points and money are integers of the smallest unit, quantities exact decimals with up to three
places, times aware UTC.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from rules.state import Lot
from rules.value import value


@value
class Line:
    """One line of a basket: `amount` is the line's total in minor units."""

    sku: str
    quantity: Decimal
    amount: int
    category: str | None = None


@value
class Receipt:
    """How a till names what it did, unique for ever within its business date."""

    store: str
    till: str
    receipt: str


@value
class EnrolMember:
    """A new member under an id and card the edge has drawn. `referrer`: the member whose word brought them."""

    member_id: int
    card: str
    received_at: datetime
    profile: dict[str, Any]
    store: str | None = None
    referrer: int | None = None


@value
class RecordPurchase:
    """A basket was paid: with money, with holds (their versions, in order), with points; all happens or nothing."""

    receipt: Receipt
    currency: str
    lines: tuple[Line, ...]
    occurred_at: datetime
    received_at: datetime
    capture_holds: tuple[int, ...] = ()
    coupons: tuple[str, ...] = ()
    pay_with_points: int = 0


@value
class ReturnedLine:
    """So much of line `line` (counted from 1) came back."""

    line: int
    quantity: Decimal


@value
class ReturnPurchase:
    """Part of an earlier purchase came back; `purchase` is the version of the entry that recorded it."""

    purchase: int
    receipt: Receipt
    lines: tuple[ReturnedLine, ...]
    occurred_at: datetime
    received_at: datetime


@value
class ReversePurchase:
    """Another shard's member had the same receipt first: `purchase` (a version) is taken back whole."""

    purchase: int
    received_at: datetime


@value
class AdjustPoints:
    """An operator gives (points > 0) or takes (points < 0)."""

    points: int
    reason: str
    received_at: datetime
    pending_until: datetime | None = None
    expires_at: datetime | None = None


@value
class PlaceHold:
    """Set points aside until captured, voided or lapsed."""

    points: int
    expires_in_s: int | None
    received_at: datetime
    store: str | None = None
    till: str | None = None


@value
class CaptureHold:
    """Spend a hold: `points` of it (None: all); the rest is released."""

    hold: int
    points: int | None
    received_at: datetime


@value
class VoidHold:
    """Give a hold's points back."""

    hold: int
    received_at: datetime


@value
class RedeemReward:
    """Points for a reward; `code` is what the member shows for it, drawn by the edge."""

    reward: str
    quantity: int
    code: str
    received_at: datetime
    store: str | None = None


@value
class UseRedemption:
    """The reward was handed out for the `code` shown; `redemption` is the version of the entry that made it."""

    redemption: int
    store: str
    received_at: datetime
    till: str | None = None
    code: str | None = None


@value
class CancelRedemption:
    """The reward is not wanted: its points come back."""

    redemption: int
    received_at: datetime
    store: str | None = None
    till: str | None = None
    code: str | None = None


@value
class SendTransfer:
    """Points for another member: they leave the available points and wait for word from the receiver's shard.

    `to` None: nobody who may receive them was found. `by_member`: a member's own token asks, who must not learn by
    guessing who else is one.
    """

    to: int | None
    points: int
    received_at: datetime
    by_member: bool = False


@value
class ReceiveTransfer:
    """Points from another member: `transfer` is the version of the sender's entry, `lots` what it set aside."""

    sender: int
    transfer: int
    lots: tuple[Lot, ...]
    received_at: datetime


@value
class SettleTransfer:
    """The receiver has the points of one's own transfer: they are spent."""

    transfer: int
    received_at: datetime


@value
class CancelTransfer:
    """The receiver can never have the points of one's own transfer: they come back."""

    transfer: int
    received_at: datetime
    reason: str = ""


@value
class ReturnTransfer:
    """A restore took one's settled transfer from its receiver, who can never have it now: its lots come back."""

    transfer: int
    lots: tuple[Lot, ...]
    received_at: datetime


@value
class RevokeTransfer:
    """A restore took back what its sender sent: the points of the entry `received` go as they came."""

    received: int
    sender: int
    transfer: int
    points: int
    received_at: datetime


@value
class CreditReferral:
    """The member that one's word brought has made a first purchase, `purchase` of theirs, which is worth `points`."""

    referee: int
    purchase: int
    points: int
    received_at: datetime


@value
class ReturnReferral:
    """That purchase came back whole: the points for it are due back, by its own `on_return` (None: that of now)."""

    referee: int
    purchase: int
    points: int
    received_at: datetime
    on_return: str | None = None


@value
class ChangeIdentifiers:
    """Another card, phone or e-mail (each (kind, value)) by which the member is found, and those that go.

    `respells`: what comes is what goes, written otherwise, so it is no newer than what else the member has.
    """

    add: tuple[tuple[str, str], ...]
    remove: tuple[tuple[str, str], ...]
    received_at: datetime
    respells: bool = False


@value
class CloseMember:
    """The membership ends: holds are released and what is left is forfeited."""

    received_at: datetime


@value
class SettleAccount:
    """Let time pass: activate, expire and lapse what is due. Issued by the settler."""

    received_at: datetime


Command = (
    EnrolMember
    | RecordPurchase
    | ReturnPurchase
    | ReversePurchase
    | AdjustPoints
    | PlaceHold
    | CaptureHold
    | VoidHold
    | RedeemReward
    | UseRedemption
    | CancelRedemption
    | SendTransfer
    | ReceiveTransfer
    | SettleTransfer
    | CancelTransfer
    | ReturnTransfer
    | RevokeTransfer
    | CreditReferral
    | ReturnReferral
    | ChangeIdentifiers
    | CloseMember
    | SettleAccount
)
