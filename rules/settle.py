"""What time alone changes: activation, expiry, lapse. In order of their instants, one journal entry each.

Every decision settles first, so no command decided after an instant sees the state before it,
whether or not the settler has run; and settling late leaves the same entries as settling on time.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from rules.draft import Draft
from rules.outcome import Entry
from rules.state import Account, Bucket, Posting

_STEPS_MAX: Final = 100_000
"""No account has so many instants; a bug that makes no progress must not spin for ever."""


def settle(account: Account, now: datetime) -> tuple[Account, tuple[Entry, ...]]:
    """The account at `now`, and the entries that brought it there, oldest first."""
    entries: list[Entry] = []
    for entry in _steps(account, now):
        entries.append(entry)
        account = entry.account
    return account, tuple(entries)


def _steps(account: Account, now: datetime) -> Iterator[Entry]:
    for _ in range(_STEPS_MAX):
        due_at = account.due_at
        if due_at is None or due_at > now:
            return
        entry = _lapse(account, due_at, now) or _activate(account, due_at, now) or _expire(account, due_at, now)
        if entry is None:
            raise ValueError(f"account {account.member_id} is due at {due_at} for no reason")
        yield entry
        account = entry.account
    raise ValueError(f"account {account.member_id} does not settle")


def _lapse(account: Account, due_at: datetime, now: datetime) -> Entry | None:
    """Holds first: their points may expire at the same instant."""
    hold = next((hold for hold in account.holds if hold.expires_at == due_at), None)
    if hold is None:
        return None
    draft = Draft(account)
    released = draft.release(hold, "hold_lapsed")
    return draft.entry(
        "hold_lapsed", occurred_at=due_at, recorded_at=now, points=released, detail={"hold": hold.version}
    )


def _activate(account: Account, due_at: datetime, now: datetime) -> Entry | None:
    lots = [lot for lot in account.lots if lot.available_at == due_at]
    if not lots:
        return None
    draft = Draft(account)
    for lot in lots:
        draft.post(Posting(lot.points, Bucket.PENDING, Bucket.AVAILABLE, "activated", lot.expires_at, lot.available_at))
        draft.pay_debt(min(lot.points, draft.account.debt), lot.expires_at)
    points = sum(lot.points for lot in lots)
    return draft.entry("points_activated", occurred_at=due_at, recorded_at=now, points=points)


def _expire(account: Account, due_at: datetime, now: datetime) -> Entry | None:
    lots = [lot for lot in account.available_lots if lot.expires_at and lot.expires_at <= due_at]
    if not lots:
        return None
    draft = Draft(account)
    for lot in lots:
        draft.post(Posting(lot.points, Bucket.AVAILABLE, Bucket.EXPIRED, "expired", lot.expires_at))
    points = sum(lot.points for lot in lots)
    return draft.entry("points_expired", occurred_at=due_at, recorded_at=now, points=-points)
