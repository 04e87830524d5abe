"""Values to JSON and back: instants, postings, and the part of an account that is kept as one document."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final, overload

from rules.document import LotRow, PostingDocument, StateDocument
from rules.state import Account, Bucket, Hold, Lot, Posting, Redemption, TierStanding

_TEXTS_KEPT: Final = 4096
"""One entry writes each of its few instants several times, and all members' points expire at the same ones."""


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
        Bucket(document["from"]),
        Bucket(document["to"]),
        document["reason"],
        instant(document["expires_at"]),
        instant(document.get("available_at")),
        document.get("hold"),
        instant(document.get("expires_before")),
    )


def state_document(account: Account) -> StateDocument:
    """What the bucket columns do not say: lots, holds, redemptions, tier, counters. Empty parts are left out."""
    document: StateDocument = {
        "tier": [account.tier.code, instant_text(account.tier.since), instant_text(account.tier.until)],
        "changed_at": instant_text(account.changed_at),
    }
    if account.lots:
        document["lots"] = lots_document(account.lots)
    if account.holds:
        document["holds"] = [
            [hold.version, instant_text(hold.expires_at), lots_document(hold.lots), hold.kind] for hold in account.holds
        ]
    if account.redemptions:
        document["redemptions"] = [
            [one.version, one.reward, one.quantity, instant_text(one.expires_at), lots_document(one.lots)]
            for one in account.redemptions
        ]
    if account.counters:
        document["counters"] = account.counters
    return document


def parse_state(
    member_id: int, document: StateDocument, *, version: int, status: str, totals: Mapping[str, int]
) -> Account:
    """The account of its document; `totals` are the columns `spent`, `expired`, `debt`, `issued`, and `incarnation`."""
    code, since, until = document["tier"]
    return Account(
        member_id=member_id,
        changed_at=_known(document["changed_at"]),
        tier=TierStanding(code, _known(since), instant(until)),
        version=version,
        status=status,
        lots=parse_lots(document.get("lots", ())),
        holds=tuple(
            Hold(version, instant(expires_at), parse_lots(lots), kind)
            for version, expires_at, lots, kind in document.get("holds", ())
        ),
        redemptions=tuple(
            Redemption(version, reward, quantity, instant(expires_at), parse_lots(lots))
            for version, reward, quantity, expires_at, lots in document.get("redemptions", ())
        ),
        counters=document.get("counters", {}),
        **totals,
    )


def lots_document(lots: Iterable[Lot]) -> list[LotRow]:
    """Lots as short rows: points, expiry, and the activation of those still pending."""
    return [
        [lot.points, instant_text(lot.expires_at), *([instant_text(lot.available_at)] if lot.available_at else [])]
        for lot in lots
    ]


def parse_lots(rows: Iterable[LotRow]) -> tuple[Lot, ...]:
    """The lots of their rows."""
    return tuple(Lot(points, instant(expires_at), *map(instant, rest)) for points, expires_at, *rest in rows)


def _known(text: str) -> datetime:
    return datetime.fromisoformat(text)
