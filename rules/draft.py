"""One entry being written: every change goes through a posting, so nothing can be forgotten in the journal."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypedDict, Unpack

from rules.codec import instant, instant_text
from rules.counters import lapsed, with_lapsed
from rules.detail import Detail, EntryDetail, TierChangeDocument
from rules.document import CountersDocument
from rules.outcome import Entry
from rules.program import Program
from rules.state import Account, Bucket, Hold, Lot, Posting, Redemption, TierStanding, apply
from rules.value import changed
from rules.version import next_version

Run = tuple[datetime, datetime]
"""Of activities, each before the end by the one before: when the first was, and the end of all points by the last."""


class _Told(TypedDict, total=False):
    """What an entry tells beside its postings; `points` is its effect as a person reads it."""

    points: int
    store: str | None
    detail: Detail


class Draft:
    """Starts the member's next version; `entry` closes it. `counters` and `tier` may be set until then."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.version = next_version(account.version, account.incarnation)
        self.postings: list[Posting] = []
        self.counters: CountersDocument = account.counters
        self.tier = account.tier

    def post(self, posting: Posting) -> None:
        """Apply one posting and keep it; one of no points is left out."""
        if posting.points == 0:
            return
        self.account = apply(self.account, posting)
        self.postings.append(posting)

    def open_hold(self, expires_at: datetime | None, kind: str = "hold") -> int:
        """Open an empty hold named by this entry's version."""
        hold = Hold(self.version, expires_at, (), kind)
        self.account = changed(self.account, holds=(*self.account.holds, hold))
        return hold.version

    def open_redemption(self, reward: str, quantity: int, expires_at: datetime | None) -> int:
        """Keep what this entry's postings spent so far as a redemption named by its version."""
        lots = tuple(Lot(one.points, one.expires_at) for one in self.postings if one.target is Bucket.SPENT)
        redemption = Redemption(self.version, reward, quantity, expires_at, lots)
        self.account = changed(self.account, redemptions=(*self.account.redemptions, redemption))
        return redemption.version

    def close_redemption(self, version: int) -> None:
        """Forget an open redemption."""
        kept = tuple(one for one in self.account.redemptions if one.version != version)
        self.account = changed(self.account, redemptions=kept)

    def earn(self, lot: Lot, reason: str, now: datetime) -> None:
        """Points from the program; what is at once available pays debt first, what has expired by now expires."""
        self.earn_all([(lot.points, reason)], lot.expires_at, lot.available_at, now)

    def earn_all(
        self,
        parts: Iterable[tuple[int, str]],
        expires_at: datetime | None,
        available_at: datetime | None,
        now: datetime,
    ) -> None:
        """Points into one lot for several reasons, a posting each; the account changes once."""
        target = Bucket.PENDING if available_at else Bucket.AVAILABLE
        earned = [Posting(points, Bucket.PROGRAM, target, why, expires_at, available_at) for points, why in parts]
        points = sum([posting.points for posting in earned])
        if not points:
            return
        self.account = apply(self.account, Posting(points, Bucket.PROGRAM, target, "", expires_at, available_at))
        self.postings += [posting for posting in earned if posting.points]
        lot = Lot(points, expires_at, available_at)
        if _expired(lot, now):
            self._expire(lot)
        elif target is Bucket.AVAILABLE:
            self.pay_debt(lot)

    def pay_debt(self, lot: Lot) -> Lot:
        """What has just become available clears debt first; tells what is left of it."""
        points = min(lot.points, self.account.debt)
        self.post(Posting(points, Bucket.AVAILABLE, Bucket.DEBT, "debt_paid", lot.expires_at))
        return changed(lot, points=lot.points - points) if points else lot

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

    def release(self, hold: Hold, reason: str, now: datetime) -> int:
        """Give what is still held back to its lots, as `give_back` does; tells how many points those were."""
        current = self.account.hold(hold.version)
        return self._bring_back(current.lots if current else (), Bucket.HELD, reason, now, hold.version)

    def spend_held(self, hold: Hold, points: int, reason: str) -> None:
        """Spend so many points of a hold, first to expire first."""
        left = points
        for lot in hold.lots:
            moved = min(left, lot.points)
            self.post(Posting(moved, Bucket.HELD, Bucket.SPENT, reason, lot.expires_at, hold=hold.version))
            left -= moved

    def give_back(self, lots: Iterable[Lot], reason: str, now: datetime, program: Program) -> int:
        """Spent points come back into lots with their own expiry; what has expired meanwhile expires at once.

        By inactivity, activities that came in time, each before the end by the one before, have kept them alive like
        all others.
        """
        run = self._run(program) if _by_inactivity(program) else None
        return self._bring_back(tuple(_alive(lot, run) for lot in lots), Bucket.SPENT, reason, now)

    def _bring_back(
        self, lots: Sequence[Lot], source: Bucket, reason: str, now: datetime, hold: int | None = None
    ) -> int:
        """What falls free pays debt first: also what expired while a hold kept it from that."""
        left: list[Lot] = []
        for lot in lots:
            self.post(Posting(lot.points, source, Bucket.AVAILABLE, reason, lot.expires_at, hold=hold))
            left.append(lot if hold is None and _expired(lot, now) else self.pay_debt(lot))
        for lot in left:
            if _expired(lot, now):
                self._expire(lot)
        return sum(lot.points for lot in lots)

    def expire(self, now: datetime) -> int:
        """Expire the lots whose time has come, pending ones too; tells how many points those were."""
        due = [lot for lot in self.account.lots if _expired(lot, now)]
        for lot in due:
            self._expire(lot)
        return sum(lot.points for lot in due)

    def _expire(self, lot: Lot) -> None:
        source = Bucket.PENDING if lot.available_at else Bucket.AVAILABLE
        self.post(Posting(lot.points, source, Bucket.EXPIRED, "expired", lot.expires_at, lot.available_at))
        if lot.expires_at and lot.points:
            self.counters = with_lapsed(self.counters, lot.expires_at, lot.points)

    def take_back(self, points: int, expires_at: datetime | None, reason: str) -> int:
        """Take points back to the program that were given with an expiry; tells how many are missing.

        First those of its lot that are there. Then those that expired, of it or of what ended later: without it they
        would have been spent in its place. Then those in open holds, which get others for them, then first to expire.
        """
        left = points
        own = next((lot for lot in self.account.available_lots if lot.expires_at == expires_at), None)
        if own and left:
            moved = min(left, own.points)
            self.post(Posting(moved, Bucket.AVAILABLE, Bucket.PROGRAM, reason, expires_at))
            left -= moved
        left -= self._take_lapsed(left, expires_at, reason)
        left -= self._take_held(left, expires_at, reason)
        return left - self.take(left, Bucket.PROGRAM, reason)

    def _take_lapsed(self, points: int, expires_at: datetime | None, reason: str) -> int:
        """Take up to so many points of lots back that have expired at an instant or since; tells how many they had."""
        left = points
        for one, at in lapsed(self.counters) if expires_at else ():
            moved = min(left, one)
            if moved and expires_at and at >= expires_at:
                self.post(Posting(moved, Bucket.EXPIRED, Bucket.PROGRAM, reason, at))
                self.counters = with_lapsed(self.counters, at, -moved)
                left -= moved
        return points - left

    def _take_held(self, points: int, expires_at: datetime | None, reason: str) -> int:
        """Take up to so many points of a lot out of open holds, as far as there are others for them."""
        left = points
        for hold in self.account.holds:
            lot = next((lot for lot in hold.lots if lot.expires_at == expires_at), None)
            if lot is None or hold.kind != "hold":
                continue
            moved = self.take(min(left, lot.points), Bucket.HELD, "held", hold=hold.version)
            self.post(Posting(moved, Bucket.HELD, Bucket.PROGRAM, reason, expires_at, hold=hold.version))
            left -= moved
        return points - left

    def expires_at(self, program: Program, active_at: datetime, store: str | None = None) -> datetime | None:
        """When points of an activity expire: by inactivity that is counted from the latest activity known."""
        return program.expires_at(self._latest(active_at) if _by_inactivity(program) else active_at, store)

    def keep_alive(self, program: Program, active_at: datetime, store: str | None = None) -> None:
        """The member earned or spent: where points expire by inactivity, all that have not yet now expire later."""
        if not _by_inactivity(program):
            return
        latest = self._latest(active_at)
        expires_at = program.expires_at(latest, store) or latest
        alive = self._prolonged(program, active_at, expires_at, store)
        self.counters = {**self.counters, "active_at": instant_text(latest), "alive": [*map(instant_text, alive)]}
        for lot in self.account.lots:
            if lot.expires_at and lot.expires_at < expires_at:
                bucket = Bucket.PENDING if lot.available_at else Bucket.AVAILABLE
                self.post(_renewal(lot, bucket, expires_at))
        for hold in self.account.holds:
            for lot in hold.lots:
                if lot.expires_at and active_at < lot.expires_at < expires_at:
                    self.post(_renewal(lot, Bucket.HELD, expires_at, hold.version))

    def _run(self, program: Program) -> Run | None:
        """The latest unbroken run of activities; earlier versions noted its last one alone."""
        if alive := self.counters.get("alive"):
            since, until = map(datetime.fromisoformat, alive)
            return since, until
        latest = instant(self.counters.get("active_at"))
        return latest and (latest, program.expires_at(latest) or latest)

    def _prolonged(self, program: Program, active_at: datetime, expires_at: datetime, store: str | None) -> Run:
        """The latest run with one more activity: `expires_at` is the end by the latest one known, be it this or not."""
        run = self._run(program)
        if run is None or active_at >= run[1]:
            return active_at, expires_at
        since, until = run
        if active_at < since < (program.expires_at(active_at, store) or active_at):
            since = active_at
        return since, max(until, expires_at)

    def _latest(self, active_at: datetime) -> datetime:
        """The latest activity known, this one or another that came before it: baskets come in any order."""
        return max(active_at, instant(self.counters.get("active_at")) or active_at)

    def entry(self, kind: str, *, occurred_at: datetime, recorded_at: datetime, **rest: Unpack[_Told]) -> Entry:
        """Close the entry."""
        detail = rest.get("detail", EntryDetail())
        if self.tier is not self.account.tier:
            detail = detail.copy()
            detail["tier"] = _tier_document(self.account.tier, self.tier)
        account = changed(
            self.account, version=self.version, changed_at=recorded_at, counters=self.counters, tier=self.tier
        )
        postings, points = tuple(self.postings), rest.get("points", 0)
        return Entry(kind, occurred_at, postings, account, points, rest.get("store"), detail)


def _by_inactivity(program: Program) -> bool:
    return program.points.expiry.kind == "inactivity"


def _alive(lot: Lot, run: Run | None) -> Lot:
    """A lot as it would be had it been there all along: what ended before the run began had ended by then."""
    if run is None or lot.expires_at is None or not run[0] < lot.expires_at < run[1]:
        return lot
    return changed(lot, expires_at=run[1])


def _expired(lot: Lot, now: datetime) -> bool:
    return lot.expires_at is not None and lot.expires_at <= now


def _renewal(lot: Lot, bucket: Bucket, expires_at: datetime, hold: int | None = None) -> Posting:
    return Posting(lot.points, bucket, bucket, "renewed", expires_at, lot.available_at, hold, lot.expires_at)


def _tier_document(before: TierStanding, after: TierStanding) -> TierChangeDocument:
    return {
        "from": before.code,
        "to": after.code,
        "since": instant_text(after.since),
        "until": instant_text(after.until),
    }
