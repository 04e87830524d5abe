"""The balance as the fold of the journal: what `loyalty verify` holds every account row against."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from rules.codec import instant, parse_posting
from rules.state import Account, Hold, apply


@dataclass(frozen=True, slots=True)
class FoldedEntry:
    """What of a journal row the fold needs."""

    version: int
    kind: str
    postings: list[dict[str, Any]]
    detail: dict[str, Any]


def fold(blank: Account, entries: Iterable[FoldedEntry]) -> Account:
    """Apply every posting of every entry, in order; ValueError when one cannot have happened."""
    account = blank
    for entry in entries:
        if entry.version != account.version + 1:
            raise ValueError(f"version {entry.version} follows {account.version}")
        account = _open_hold(replace(account, version=entry.version), entry)
        for document in entry.postings:
            account = apply(account, parse_posting(document))
    return account


def _open_hold(account: Account, entry: FoldedEntry) -> Account:
    expires_at = instant(entry.detail.get("expires_at"))
    if entry.kind != "hold_placed" or expires_at is None:
        return account
    return replace(account, holds=(*account.holds, Hold(entry.version, expires_at, lots=())))
