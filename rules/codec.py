"""Values to JSON and back: instants, postings, and the part of an account that is kept as one document."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from rules.state import Account, Bucket, Hold, Lot, Posting, TierStanding


def instant_text(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with `Z`; None stays None."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def instant(text: str | None) -> datetime | None:
    """The aware UTC instant of an RFC 3339 text; None stays None."""
    return None if text is None else datetime.fromisoformat(text)


def quantity_text(quantity: Decimal) -> str:
    """A quantity without exponent or trailing zeros: `2`, `0.375`."""
    text = f"{quantity:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def posting_document(posting: Posting) -> dict[str, Any]:
    """A posting as API.md shows it; `available_at` and `hold` only where they matter."""
    document: dict[str, Any] = {
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
    return document


def parse_posting(document: dict[str, Any]) -> Posting:
    """The posting of its document."""
    return Posting(
        document["points"],
        Bucket(document["from"]),
        Bucket(document["to"]),
        document["reason"],
        instant(document["expires_at"]),
        instant(document.get("available_at")),
        document.get("hold"),
    )


def state_document(account: Account) -> dict[str, Any]:
    """What the bucket columns do not say: lots, holds, tier, counters."""
    return {
        "lots": [_lot_document(lot) for lot in account.lots],
        "holds": [
            {
                "version": hold.version,
                "expires_at": instant_text(hold.expires_at),
                "lots": [_lot_document(lot) for lot in hold.lots],
            }
            for hold in account.holds
        ],
        "tier": [account.tier.code, instant_text(account.tier.since), instant_text(account.tier.until)],
        "counters": account.counters,
        "changed_at": instant_text(account.changed_at),
    }


def parse_state(
    member_id: int, document: dict[str, Any], *, version: int, status: str, totals: dict[str, int]
) -> Account:
    """The account of its document; `totals` are the columns `spent`, `expired`, `debt`, `issued`."""
    code, since, until = document["tier"]
    return Account(
        member_id=member_id,
        changed_at=_known(document["changed_at"]),
        tier=TierStanding(code, _known(since), instant(until)),
        version=version,
        status=status,
        lots=tuple(_parse_lot(lot) for lot in document["lots"]),
        holds=tuple(
            Hold(hold["version"], _known(hold["expires_at"]), tuple(_parse_lot(lot) for lot in hold["lots"]))
            for hold in document["holds"]
        ),
        counters=document["counters"],
        **totals,
    )


def _lot_document(lot: Lot) -> list[Any]:
    return [lot.points, instant_text(lot.expires_at), instant_text(lot.available_at)]


def _parse_lot(document: list[Any]) -> Lot:
    points, expires_at, available_at = document
    return Lot(points, instant(expires_at), instant(available_at))


def _known(text: str) -> datetime:
    return datetime.fromisoformat(text)
