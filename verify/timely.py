"""Holds each entry to its time: nothing happens before it is due, and what is due has happened before anything else."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from rules.codec import instant, instant_text
from rules.state import Account
from verify.books import ReadEntry

_BY_TIME: Final = frozenset(
    {"hold_lapsed", "points_activated", "points_expired", "redemption_expired", "tier_changed", "tier_renewed"}
)
_USES: Final = frozenset({"spent", "held", "debt", "program"})
_TAKES_FIRST_TO_EXPIRE: Final = frozenset(
    {"hold_placed", "reward_redeemed", "transfer_sent", "points_adjusted", "transfer_revoked"}
)


def wrong_time(entry: ReadEntry, due: datetime | None, after: Account, due_after: datetime | None) -> Iterator[str]:
    """What time alone changes does so at its instant, in order; everything else finds nothing that is due.

    `due` and `due_after`: when time alone changes the account as it is before the entry, and after it.
    """
    if entry.kind in _BY_TIME:
        at = entry.row["occurred_at"]
        if due != at:
            yield f"happened at {instant_text(at)} by time alone, which was due at {instant_text(due)}"
    else:
        at = entry.row["recorded_at"]
        for one in (due, due_after):
            if one is not None and one <= at:
                yield f"passes over what was due at {instant_text(one)}"
    held = {one["expires_at"] for one in entry.postings if one["from"] == "held"}
    for posting in entry.postings:
        if not (posting["to"] == "debt" and posting["expires_at"] in held):  # a hold kept them from it
            yield from _wrong_posting(posting, at)
    if entry.kind in _TAKES_FIRST_TO_EXPIRE:
        yield from _kept_sooner(entry, after)


def _wrong_posting(posting: dict[str, Any], at: datetime) -> Iterator[str]:
    ends = instant(posting["expires_at"])
    match posting["from"], posting["to"]:
        case _, "expired" if posting["reason"] == "expired" and (ends is None or ends > at):
            yield f"{posting['points']} points expire before their time, {posting['expires_at']}"
        case "available", target if target in _USES and ends is not None and ends <= at:
            yield f"{posting['points']} points are used that expired at {posting['expires_at']}"
        case "pending", "available" if instant(posting.get("available_at")) != at:
            yield f"{posting['points']} points become available that should at {posting.get('available_at')}"
        case _:
            pass


def _kept_sooner(entry: ReadEntry, after: Account) -> Iterator[str]:
    """What expires first is taken first: nothing that is left ends before what was taken."""
    taken = [instant(one["expires_at"]) for one in entry.postings if one["from"] == "available" and one["to"] in _USES]
    left = next(iter(after.available_lots), None)
    if not taken or left is None or left.expires_at is None:
        return
    if any(ends is None or ends > left.expires_at for ends in taken):
        yield f"leaves points that expire at {instant_text(left.expires_at)} and takes others"
