"""The whole small state of one member, and the one way it changes: by postings.

Every change is a posting from one bucket to another, so an entry sums to zero by construction and
the balance is the fold of the journal: `apply` serves deciding and folding alike. Points in
`pending`, `available` and `held` sit in lots; a lot is all points with the same times.
"""

from collections.abc import Iterable
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Any

from rules.document import CountersDocument
from rules.value import changed, value


class Bucket(StrEnum):
    """Where points can be. `program` is the issuer; `debt` is what the member owes."""

    PROGRAM = "program"
    PENDING = "pending"
    AVAILABLE = "available"
    HELD = "held"
    SPENT = "spent"
    EXPIRED = "expired"
    DEBT = "debt"


@value
class Posting:
    """`points` (> 0) from one bucket to another. `expires_at`, `available_at` and `hold` say which lot they touch.

    From a bucket to itself: the points get another expiry, `expires_before` is the one they had.
    """

    points: int
    source: Bucket
    target: Bucket
    reason: str
    expires_at: datetime | None = None
    available_at: datetime | None = None
    hold: int | None = None
    expires_before: datetime | None = None


@value
class Lot:
    """Points with one expiry. `available_at` is set while they are pending; they may expire before it."""

    points: int
    expires_at: datetime | None = None
    available_at: datetime | None = None


@value
class Hold:
    """Points set aside by the entry `version`, with the lots they came from.

    A `hold` lapses at `expires_at`; a `transfer` is on its way and waits for word from the receiver (None).
    """

    version: int
    expires_at: datetime | None
    lots: tuple[Lot, ...]
    kind: str = "hold"

    @property
    def points(self) -> int:
        """What is held."""
        return sum([lot.points for lot in self.lots])


@value
class Redemption:
    """A reward redeemed by the entry `version` and not used yet, with the lots that paid it; ends at `expires_at`."""

    version: int
    reward: str
    quantity: int
    expires_at: datetime | None
    lots: tuple[Lot, ...]


@value
class TierStanding:
    """The tier a member has, since when, and until when it is kept (None: no end)."""

    code: str
    since: datetime
    until: datetime | None = None


@value
class Account:
    """One member's account. `lots` are ordered: available before pending, first to expire first.

    `incarnation` is that of the shard now: the next entry is written in it.
    """

    member_id: int
    changed_at: datetime
    tier: TierStanding
    version: int = 0
    status: str = "open"
    lots: tuple[Lot, ...] = ()
    holds: tuple[Hold, ...] = ()
    redemptions: tuple[Redemption, ...] = ()
    spent: int = 0
    expired: int = 0
    debt: int = 0
    issued: int = 0
    incarnation: int = field(default=0, compare=False)
    counters: CountersDocument = field(default_factory=CountersDocument)

    @property
    def available(self) -> int:
        """Points that can be spent now."""
        return sum([lot.points for lot in self.lots if lot.available_at is None])

    @property
    def pending(self) -> int:
        """Points earned that become available later."""
        return sum([lot.points for lot in self.lots if lot.available_at is not None])

    @property
    def held(self) -> int:
        """Points set aside by open holds."""
        return sum([hold.points for hold in self.holds])

    @property
    def available_lots(self) -> tuple[Lot, ...]:
        """Lots that can be spent, first to expire first."""
        return tuple([lot for lot in self.lots if lot.available_at is None])

    def hold(self, version: int) -> Hold | None:
        """The open hold or transfer that entry `version` placed."""
        return next((hold for hold in self.holds if hold.version == version), None)

    def redemption(self, version: int) -> Redemption | None:
        """The open redemption that entry `version` made."""
        return next((one for one in self.redemptions if one.version == version), None)

    @property
    def due_at(self) -> datetime | None:
        """When time alone next changes this account; None: never."""
        moments = [moment for lot in self.lots for moment in (lot.available_at, lot.expires_at) if moment]
        if self.holds or self.redemptions:
            moments += [one.expires_at for one in (*self.holds, *self.redemptions) if one.expires_at]
        if self.tier.until:
            moments.append(self.tier.until)
        return min(moments) if moments else None


def apply(account: Account, posting: Posting) -> Account:
    """The account after one posting. ValueError when it would take points that are not there."""
    if posting.points <= 0:
        raise ValueError(f"a posting moves a positive number of points: {posting}")
    taken = _taken(account, posting)
    return changed(account, **(taken | _given(account, posting, taken)))


def _taken(account: Account, posting: Posting) -> dict[str, Any]:
    """The fields that change where the points leave."""
    points, expires_at = posting.points, posting.expires_at
    if posting.source is posting.target:
        expires_at = posting.expires_before
    match posting.source:
        case Bucket.PROGRAM:
            return {"issued": account.issued + points}
        case Bucket.AVAILABLE:
            return {"lots": _less(account.lots, Lot(points, expires_at))}
        case Bucket.PENDING:
            return {"lots": _less(account.lots, Lot(points, expires_at, posting.available_at))}
        case Bucket.HELD:
            keeps = posting.target is Bucket.HELD
            return {"holds": tuple(_release(account.holds, posting.hold, Lot(points, expires_at), keeps=keeps))}
        case Bucket.SPENT:
            return {"spent": _not_negative(account.spent - points)}
        case Bucket.EXPIRED:
            return {"expired": _not_negative(account.expired - points)}
        case Bucket.DEBT:
            return {"debt": account.debt + points}


def _given(account: Account, posting: Posting, taken: dict[str, Any]) -> dict[str, Any]:
    """The fields that change where the points arrive, on top of what `taken` has changed."""
    points = posting.points
    match posting.target:
        case Bucket.PROGRAM:
            return {"issued": account.issued - points}
        case Bucket.AVAILABLE:
            return {"lots": _more(taken.get("lots", account.lots), Lot(points, posting.expires_at))}
        case Bucket.PENDING:
            lot = Lot(points, posting.expires_at, posting.available_at)
            return {"lots": _more(taken.get("lots", account.lots), lot)}
        case Bucket.HELD:
            holds = taken.get("holds", account.holds)
            return {"holds": tuple(_hold(holds, posting.hold, Lot(points, posting.expires_at)))}
        case Bucket.SPENT:
            return {"spent": account.spent + points}
        case Bucket.EXPIRED:
            return {"expired": account.expired + points}
        case Bucket.DEBT:
            return {"debt": _not_negative(account.debt - points)}


def _hold(holds: Iterable[Hold], version: int | None, added: Lot) -> Iterable[Hold]:
    found = False
    for hold in holds:
        if hold.version == version:
            found = True
            yield changed(hold, lots=_more(hold.lots, added))
        else:
            yield hold
    if not found:
        raise ValueError(f"no open hold {version}")


def _release(holds: Iterable[Hold], version: int | None, taken: Lot, *, keeps: bool) -> Iterable[Hold]:
    """A hold goes with its last points, unless it `keeps` them under another expiry."""
    found = False
    for hold in holds:
        if hold.version != version:
            yield hold
            continue
        found = True
        lots = _less(hold.lots, taken)
        if lots or keeps:
            yield changed(hold, lots=lots)
    if not found:
        raise ValueError(f"no open hold {version}")


def _less(lots: tuple[Lot, ...], taken: Lot) -> tuple[Lot, ...]:
    for index, lot in enumerate(lots):
        if lot.expires_at == taken.expires_at and lot.available_at == taken.available_at:
            left = _not_negative(lot.points - taken.points)
            kept = (Lot(left, lot.expires_at, lot.available_at),) if left else ()
            return lots[:index] + kept + lots[index + 1 :]
    raise ValueError(f"no such lot: {taken}")


def _more(lots: tuple[Lot, ...], added: Lot) -> tuple[Lot, ...]:
    expires_at, available_at = added.expires_at, added.available_at
    for index, lot in enumerate(lots):
        if lot.expires_at == expires_at and lot.available_at == available_at:
            return (*lots[:index], Lot(lot.points + added.points, expires_at, available_at), *lots[index + 1 :])
    return tuple(sorted((*lots, added), key=_order))


def _order(lot: Lot) -> tuple[bool, bool, float, float]:
    """Available before pending; first to expire first, never-expiring last; then earliest activated."""
    expires = lot.expires_at.timestamp() if lot.expires_at else 0.0
    activates = lot.available_at.timestamp() if lot.available_at else 0.0
    return lot.available_at is not None, lot.expires_at is None, expires, activates


def _not_negative(points: int) -> int:
    if points < 0:
        raise ValueError(f"a bucket would fall to {points}")
    return points
