"""What tills, operators and the settler ask. Frozen values, stamped at the edge: `decide` asks no clock.

Points and money are integers of the smallest unit, quantities exact decimals with up to three
places, times aware UTC.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a basket: `amount` is the line's total in minor units."""

    sku: str
    quantity: Decimal
    amount: int
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """How a till names what it did, unique for ever within its business date."""

    store: str
    till: str
    receipt: str


@dataclass(frozen=True, slots=True)
class EnrolMember:
    """A new member under an id and card the edge has drawn."""

    member_id: int
    card: str
    received_at: datetime
    profile: dict[str, Any]
    store: str | None = None


@dataclass(frozen=True, slots=True)
class RecordPurchase:
    """A basket was paid."""

    receipt: Receipt
    currency: str
    lines: tuple[Line, ...]
    occurred_at: datetime
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ReturnedLine:
    """So much of line `line` (counted from 1) came back."""

    line: int
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class ReturnPurchase:
    """Part of an earlier purchase came back; `purchase` is the version of the entry that recorded it."""

    purchase: int
    receipt: Receipt
    lines: tuple[ReturnedLine, ...]
    occurred_at: datetime
    received_at: datetime


@dataclass(frozen=True, slots=True)
class AdjustPoints:
    """An operator gives (points > 0) or takes (points < 0)."""

    points: int
    reason: str
    received_at: datetime
    pending_until: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Set points aside until captured, voided or lapsed."""

    points: int
    expires_in_s: int | None
    received_at: datetime
    store: str | None = None
    till: str | None = None


@dataclass(frozen=True, slots=True)
class CaptureHold:
    """Spend a hold: `points` of it (None: all); the rest is released."""

    hold: int
    points: int | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class VoidHold:
    """Give a hold's points back."""

    hold: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class SettleAccount:
    """Let time pass: activate, expire and lapse what is due. Issued by the settler."""

    received_at: datetime


Command = (
    EnrolMember | RecordPurchase | ReturnPurchase | AdjustPoints | PlaceHold | CaptureHold | VoidHold | SettleAccount
)
