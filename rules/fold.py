"""The account as the fold of the journal: what `loyalty verify` holds every account row against.

Everything but the counters comes out: buckets, lots, holds, redemptions, tier and status.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from rules.codec import instant, parse_posting
from rules.detail import ClosedDetail, EntryDetail, RedeemedDetail, RedemptionEndDetail
from rules.membership import closed
from rules.state import Account, Hold, Lot, Posting, Redemption, TierStanding, apply
from rules.value import changed, value
from rules.version import follows


@value
class FoldedEntry:
    """What of a journal row the fold needs; the documents are as stored, so they may be broken."""

    version: int
    kind: str
    postings: Sequence[Any]
    detail: Any


def fold(blank: Account, entries: Iterable[FoldedEntry]) -> Account:
    """Apply every posting of every entry, in order; ValueError when one cannot have happened."""
    account = blank
    for entry in entries:
        if not follows(entry.version, account.version):
            raise ValueError(f"version {entry.version} follows {account.version}")
        account = changed(account, version=entry.version)
        if entry.kind in _OPENS_HOLD:
            hold = Hold(entry.version, instant(entry.detail.get("expires_at")), (), _OPENS_HOLD[entry.kind])
            account = changed(account, holds=(*account.holds, hold))
        postings = [parse_posting(document) for document in entry.postings]
        for posting in postings:
            account = apply(account, posting)
        account = _EFFECTS.get(entry.kind, _nothing)(account, entry.detail, postings)
        account = _with_tier(account, entry.detail)
    return account


def _with_tier(account: Account, detail: EntryDetail) -> Account:
    tier = detail.get("tier")
    if tier is None:
        return account
    since = instant(tier["since"]) or account.tier.since
    return changed(account, tier=TierStanding(tier["to"], since, instant(tier["until"])))


def _nothing(account: Account, _detail: EntryDetail, _postings: list[Posting]) -> Account:
    return account


def _open_redemption(account: Account, detail: RedeemedDetail, postings: list[Posting]) -> Account:
    lots = tuple(Lot(one.points, one.expires_at) for one in postings if one.reason == "redeemed")
    expires_at = instant(detail["expires_at"])
    redemption = Redemption(account.version, detail["reward"], detail["quantity"], expires_at, lots)
    return changed(account, redemptions=(*account.redemptions, redemption))


def _close_redemption(account: Account, detail: RedemptionEndDetail, _postings: list[Posting]) -> Account:
    kept = tuple(one for one in account.redemptions if one.version != detail["redemption"])
    return changed(account, redemptions=kept)


def _close(account: Account, _detail: ClosedDetail, _postings: list[Posting]) -> Account:
    return closed(account)


_OPENS_HOLD: Final = {"hold_placed": "hold", "transfer_sent": "transfer"}
_EFFECTS: Final[dict[str, Callable[[Account, Any, list[Posting]], Account]]] = {
    "reward_redeemed": _open_redemption,
    "redemption_used": _close_redemption,
    "redemption_cancelled": _close_redemption,
    "redemption_expired": _close_redemption,
    "member_closed": _close,
}
