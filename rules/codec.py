"""Values to JSON and back: instants, postings, and the part of an account that is kept as one document."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, overload

from rules.document import LotRow, PostingDocument, StateDocument, StateRow
from rules.state import Account, Bucket, Hold, Lot, Posting, Redemption, TierStanding

COUNTED: Final = ("purchases", "days", "applied", "metric", "unsettled")
"""The counters that most members have."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TEXTS_KEPT: Final = 4096
"""One entry writes each of its few instants several times, and all members' points expire at the same ones."""

_BUCKETS: Final = {bucket.value: bucket for bucket in Bucket}


@overload
def instant_text(moment: datetime) -> str: ...
@overload
def instant_text(moment: datetime | None) -> str | None: ...
def instant_text(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with `Z`; None stays None."""
    return None if moment is None else _text(moment)


@lru_cache(_TEXTS_KEPT)
def _text(moment: datetime) -> str:
    # In UTC whatever zone it came in: instants that are equal share their text.
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant(text: str | None) -> datetime | None:
    """The aware UTC instant of an RFC 3339 text; None stays None."""
    return None if text is None else datetime.fromisoformat(text)


def quantity_text(quantity: Decimal) -> str:
    """A quantity without exponent or trailing zeros: `2`, `0.375`."""
    text = f"{quantity:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def posting_document(posting: Posting) -> PostingDocument:
    """A posting as API.md shows it; `available_at`, `hold` and `expires_before` only where they matter."""
    document: PostingDocument = {
        "points": posting.points,
        "from": posting.source,
        "to": posting.target,
        "expires_at": instant_text(posting.expires_at),
        "reason": posting.reason,
    }
    if posting.available_at:
        document["available_at"] = instant_text(posting.available_at)
    if posting.hold is not None:
        document["hold"] = posting.hold
    if posting.expires_before:
        document["expires_before"] = instant_text(posting.expires_before)
    return document


def parse_posting(document: PostingDocument) -> Posting:
    """The posting of its document."""
    return Posting(
        document["points"],
        _BUCKETS[document["from"]],
        _BUCKETS[document["to"]],
        document["reason"],
        instant(document["expires_at"]),
        instant(document.get("available_at")),
        document.get("hold"),
        instant(document.get("expires_before")),
    )


def state_row(account: Account) -> StateRow:
    """What the bucket columns do not say: lots, holds, redemptions, tier, counters.

    In this order: code, begin and end of the tier, the last change, lots, COUNTED, and by name whatever few members
    have; what is empty at the end is left out. Instants are microseconds since 1970, but for those of points.
    """
    tier, counters = account.tier, account.counters
    rest: dict[str, Any] = {}
    if account.holds:
        rest["holds"] = [
            [hold.version, instant_text(hold.expires_at), lots_document(hold.lots), hold.kind] for hold in account.holds
        ]
    if account.redemptions:
        rest["redemptions"] = [
            [one.version, one.reward, one.quantity, instant_text(one.expires_at), lots_document(one.lots)]
            for one in account.redemptions
        ]
    if seldom := {name: value for name, value in counters.items() if name not in COUNTED}:
        rest["counters"] = seldom
    row = [
        *(tier.code, _micros(tier.since), tier.until and _micros(tier.until), _micros(account.changed_at)),
        lots_document(account.lots),
        *map(counters.get, COUNTED),
        rest or None,
    ]
    while row[-1] is None:
        row.pop()
    return row


def parse_state(
    member_id: int, stored: StateRow | StateDocument, *, version: int, status: str, totals: Mapping[str, int]
) -> Account:
    """The account of its row; `totals` are the columns `spent`, `expired`, `debt`, `issued`, and `incarnation`."""
    row = stored if isinstance(stored, list) else _row(stored)
    code, since, until, changed_at, lots, *more = row
    rest: Mapping[str, Any] = more.pop() if len(more) > len(COUNTED) else {}
    counters: Any = {name: value for name, value in zip(COUNTED, more, strict=False) if value is not None}
    if seldom := rest.get("counters"):
        counters |= seldom
    return Account(
        member_id=member_id,
        changed_at=_moment(changed_at),
        tier=TierStanding(code, _moment(since), until if until is None else _moment(until)),
        version=version,
        status=status,
        lots=parse_lots(lots),
        holds=_parse_holds(rest["holds"]) if "holds" in rest else (),
        redemptions=_parse_redemptions(rest["redemptions"]) if "redemptions" in rest else (),
        counters=counters,
        **totals,
    )


def _parse_holds(rows: Iterable[Sequence[Any]]) -> tuple[Hold, ...]:
    return tuple(Hold(version, instant(expires_at), parse_lots(lots), kind) for version, expires_at, lots, kind in rows)


def _parse_redemptions(rows: Iterable[Sequence[Any]]) -> tuple[Redemption, ...]:
    return tuple(
        Redemption(version, reward, quantity, instant(expires_at), parse_lots(lots))
        for version, reward, quantity, expires_at, lots in rows
    )


def _row(document: StateDocument) -> StateRow:
    """The row of an object that an earlier version has stored."""
    code, since, until = document["tier"]
    times = (_micros(_known(since)), until and _micros(_known(until)), _micros(_known(document["changed_at"])))
    return [code, *times, document.get("lots", []), *(None for _ in COUNTED), document]


def lots_document(lots: Iterable[Lot]) -> list[LotRow]:
    """Lots as short rows: points, expiry, and the activation of those still pending."""
    return [
        [lot.points, instant_text(lot.expires_at), *([instant_text(lot.available_at)] if lot.available_at else [])]
        for lot in lots
    ]


def parse_lots(rows: Iterable[LotRow]) -> tuple[Lot, ...]:
    """The lots of their rows."""
    return tuple([Lot(points, *map(instant, times)) for points, *times in rows])


def _known(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND
