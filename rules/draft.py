"""One entry being written: every change goes through a posting, so nothing can be forgotten in the journal."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from rules.codec import instant_text
from rules.outcome import Entry
from rules.program import Program
from rules.state import Account, Bucket, Hold, Lot, Posting, Redemption, TierStanding, apply


class Draft:
    """Starts the member's next version; `entry` closes it. `counters` and `tier` may be set until then."""

    def __init__(self, account: Account) -> None:
        self.account = replace(account, version=account.version + 1)
        self.postings: list[Posting] = []
        self.counters = account.counters
        self.tier = account.tier

    def post(self, posting: Posting) -> None:
        """Apply one posting and keep it; one of no points is left out."""
        if posting.points == 0:
            return
        self.account = apply(self.account, posting)
        self.postings.append(posting)

    def open_hold(self, expires_at: datetime | None, kind: str = "hold") -> int:
        """Open an empty hold named by this entry's version."""
        hold = Hold(self.account.version, expires_at, (), kind)
        self.account = replace(self.account, holds=(*self.account.holds, hold))
        return hold.version

    def open_redemption(self, reward: str, quantity: int, expires_at: datetime | None) -> int:
        """Keep what this entry's postings spent so far as a redemption named by its version."""
        lots = tuple(Lot(posting.points, posting.expires_at) for posting in self.postings)
        redemption = Redemption(self.account.version, reward, quantity, expires_at, lots)
        self.account = replace(self.account, redemptions=(*self.account.redemptions, redemption))
        return redemption.version

    def close_redemption(self, version: int) -> None:
        """Forget an open redemption."""
        kept = tuple(one for one in self.account.redemptions if one.version != version)
        self.account = replace(self.account, redemptions=kept)

    def earn(self, points: int, reason: str, *, expires_at: datetime | None, available_at: datetime | None) -> None:
        """Points from the program; what is at once available pays debt first."""
        self.earn_all([(points, reason)], expires_at=expires_at, available_at=available_at)

    def earn_all(
        self, parts: Iterable[tuple[int, str]], *, expires_at: datetime | None, available_at: datetime | None
    ) -> None:
        """Points into one lot for several reasons, a posting each; the account changes once."""
        target = Bucket.PENDING if available_at else Bucket.AVAILABLE
        earned = [Posting(points, Bucket.PROGRAM, target, why, expires_at, available_at) for points, why in parts]
        points = sum(posting.points for posting in earned)
        if not points:
            return
        self.account = apply(self.account, Posting(points, Bucket.PROGRAM, target, "", expires_at, available_at))
        self.postings += [posting for posting in earned if posting.points]
        if target is Bucket.AVAILABLE:
            self.pay_debt(min(points, self.account.debt), expires_at)

    def pay_debt(self, points: int, expires_at: datetime | None) -> None:
        """Points of one available lot that clear debt."""
        self.post(Posting(points, Bucket.AVAILABLE, Bucket.DEBT, "debt_paid", expires_at))

    def take(self, points: int, target: Bucket, reason: str, hold: int | None = None) -> int:
        """Move up to `points` from available lots, first to expire first; tells how many were there."""
        left = points
        for lot in self.account.available_lots:
            if not left:
                break
            moved = min(left, lot.points)
            self.post(Posting(moved, Bucket.AVAILABLE, target, reason, lot.expires_at, hold=hold))
            left -= moved
        return points - left

    def release(self, hold: Hold, reason: str) -> int:
        """Give what is still held back to its lots, each with its own expiry; what falls free pays debt first."""
        current = self.account.hold(hold.version)
        lots = current.lots if current else ()
        for lot in lots:
            self.post(Posting(lot.points, Bucket.HELD, Bucket.AVAILABLE, reason, lot.expires_at, hold=hold.version))
            self.pay_debt(min(lot.points, self.account.debt), lot.expires_at)
        return sum(lot.points for lot in lots)

    def spend_held(self, hold: Hold, points: int, reason: str) -> None:
        """Spend so many points of a hold, first to expire first."""
        left = points
        for lot in hold.lots:
            moved = min(left, lot.points)
            self.post(Posting(moved, Bucket.HELD, Bucket.SPENT, reason, lot.expires_at, hold=hold.version))
            left -= moved

    def give_back(self, lots: Iterable[Lot], reason: str, now: datetime) -> int:
        """Spent points come back into lots with their own expiry; what has expired meanwhile expires at once."""
        points = 0
        for lot in lots:
            points += lot.points
            self.post(Posting(lot.points, Bucket.SPENT, Bucket.AVAILABLE, reason, lot.expires_at))
            if lot.expires_at is None or lot.expires_at > now:
                self.pay_debt(min(lot.points, self.account.debt), lot.expires_at)
        self.expire(now)
        return points

    def expire(self, now: datetime) -> int:
        """Expire the available lots whose time has come; tells how many points those were."""
        due = [lot for lot in self.account.available_lots if lot.expires_at and lot.expires_at <= now]
        for lot in due:
            self.post(Posting(lot.points, Bucket.AVAILABLE, Bucket.EXPIRED, "expired", lot.expires_at))
        return sum(lot.points for lot in due)

    def keep_alive(self, program: Program, active_at: datetime) -> None:
        """The member earned or spent: where points expire by inactivity, all of them now expire later."""
        if program.points.expiry.kind == "inactivity":
            self._renew(program.expires_at(active_at) or active_at)

    def _renew(self, expires_at: datetime) -> None:
        for lot in self.account.lots:
            if lot.expires_at and lot.expires_at < expires_at:
                bucket = Bucket.PENDING if lot.available_at else Bucket.AVAILABLE
                self.post(_renewal(lot, bucket, expires_at))
        for hold in self.account.holds:
            for lot in hold.lots:
                if lot.expires_at and lot.expires_at < expires_at:
                    self.post(_renewal(lot, Bucket.HELD, expires_at, hold.version))

    def entry(self, kind: str, *, occurred_at: datetime, recorded_at: datetime, points: int = 0, **rest: Any) -> Entry:
        """Close the entry. `points` is its effect as a person reads it; `rest` is `store` and `detail`."""
        if self.tier is not self.account.tier:
            rest["detail"] = rest.get("detail", {}) | {"tier": _tier_document(self.account.tier, self.tier)}
        account = replace(self.account, changed_at=recorded_at, counters=self.counters, tier=self.tier)
        return Entry(kind, occurred_at, tuple(self.postings), account, points, **rest)


def _renewal(lot: Lot, bucket: Bucket, expires_at: datetime, hold: int | None = None) -> Posting:
    return Posting(lot.points, bucket, bucket, "renewed", expires_at, lot.available_at, hold, lot.expires_at)


def _tier_document(before: TierStanding, after: TierStanding) -> dict[str, str | None]:
    return {
        "from": before.code,
        "to": after.code,
        "since": instant_text(after.since),
        "until": instant_text(after.until),
    }
