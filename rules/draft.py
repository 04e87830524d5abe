"""One entry being written: every change goes through a posting, so nothing can be forgotten in the journal."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from rules.outcome import Entry
from rules.state import Account, Bucket, Hold, Posting, apply


class Draft:
    """Starts the member's next version; `entry` closes it."""

    def __init__(self, account: Account) -> None:
        self.account = replace(account, version=account.version + 1)
        self.postings: list[Posting] = []

    def post(self, posting: Posting) -> None:
        """Apply one posting and keep it; one of no points is left out."""
        if posting.points == 0:
            return
        self.account = apply(self.account, posting)
        self.postings.append(posting)

    def open_hold(self, expires_at: datetime) -> int:
        """Open an empty hold named by this entry's version."""
        hold = Hold(self.account.version, expires_at, lots=())
        self.account = replace(self.account, holds=(*self.account.holds, hold))
        return hold.version

    def earn(self, points: int, reason: str, *, expires_at: datetime | None, available_at: datetime | None) -> None:
        """Points from the program; what is at once available pays debt first."""
        target = Bucket.PENDING if available_at else Bucket.AVAILABLE
        self.post(Posting(points, Bucket.PROGRAM, target, reason, expires_at, available_at))
        if target is Bucket.AVAILABLE:
            self.pay_debt(min(points, self.account.debt), expires_at)

    def pay_debt(self, points: int, expires_at: datetime | None) -> None:
        """Points of one available lot that clear debt."""
        self.post(Posting(points, Bucket.AVAILABLE, Bucket.DEBT, "debt_paid", expires_at))

    def take(self, points: int, target: Bucket, reason: str, hold: int | None = None) -> int:
        """Move up to `points` from available lots, first to expire first; tells how many were there."""
        left = points
        for lot in self.account.available_lots:
            moved = min(left, lot.points)
            self.post(Posting(moved, Bucket.AVAILABLE, target, reason, lot.expires_at, hold=hold))
            left -= moved
            if not left:
                break
        return points - left

    def release(self, hold: Hold, reason: str) -> int:
        """Give what is still held back to its lots, each with its own expiry; what falls free pays debt first."""
        current = self.account.hold(hold.version)
        lots = current.lots if current else ()
        for lot in lots:
            self.post(Posting(lot.points, Bucket.HELD, Bucket.AVAILABLE, reason, lot.expires_at, hold=hold.version))
            self.pay_debt(min(lot.points, self.account.debt), lot.expires_at)
        return sum(lot.points for lot in lots)

    def entry(self, kind: str, *, occurred_at: datetime, recorded_at: datetime, points: int = 0, **rest: Any) -> Entry:
        """Close the entry. `points` is its effect as a person reads it; `rest` is `store` and `detail`."""
        account = replace(self.account, changed_at=recorded_at)
        return Entry(kind, occurred_at, tuple(self.postings), account, points, **rest)
