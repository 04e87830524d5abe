"""What time alone changes: activation, expiry, lapse, a tier's period. In order of their instants, one entry each.

Every decision settles first, so no command decided after an instant sees the state before it,
whether or not the settler has run; and settling late leaves the same entries as settling on time,
each under the version of the program that was in force at its instant.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from rules.detail import RedemptionEndDetail
from rules.draft import Draft
from rules.outcome import Entry
from rules.program import Program
from rules.state import Account, Bucket, Posting
from rules.tier import period_ended

_STEPS_MAX: Final = 100_000
"""No account has so many instants; a bug that makes no progress must not spin for ever."""


def settle(account: Account, now: datetime, program: Program) -> tuple[Account, tuple[Entry, ...]]:
    """The account at `now`, and the entries that brought it there, oldest first; `program` is the one in force then."""
    due_at = account.due_at
    if due_at is None or due_at > now:
        return account, ()
    entries: list[Entry] = []
    for entry in _steps(account, now, program):
        entries.append(entry)
        account = entry.account
    return account, tuple(entries)


def _steps(account: Account, now: datetime, program: Program) -> Iterator[Entry]:
    for _ in range(_STEPS_MAX):
        due_at = account.due_at
        if due_at is None or due_at > now:
            return
        ruling = program.at(due_at)
        entry = (
            _lapse(account, due_at, now)
            or _expire(account, due_at, now)
            or _activate(account, due_at, now)
            or _end_redemption(account, due_at, now)
            or _end_tier_period(account, due_at, now, program)
        )
        if entry is None:
            raise ValueError(f"account {account.member_id} is due at {due_at} for no reason")
        yield entry.decided_by(ruling.version, in_force=program.version)
        account = entry.account
    raise ValueError(f"account {account.member_id} does not settle")


def _lapse(account: Account, due_at: datetime, now: datetime) -> Entry | None:
    """Holds first: their points may expire at the same instant, or have expired meanwhile."""
    hold = next((hold for hold in account.holds if hold.expires_at == due_at), None)
    if hold is None:
        return None
    draft = Draft(account)
    released = draft.release(hold, "hold_lapsed", due_at)
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
        draft.pay_debt(lot)
    points = sum(lot.points for lot in lots)
    return draft.entry("points_activated", occurred_at=due_at, recorded_at=now, points=points)


def _expire(account: Account, due_at: datetime, now: datetime) -> Entry | None:
    draft = Draft(account)
    points = draft.expire(due_at)
    if not points:
        return None
    return draft.entry("points_expired", occurred_at=due_at, recorded_at=now, points=-points)


def _end_redemption(account: Account, due_at: datetime, now: datetime) -> Entry | None:
    """Its points stay spent."""
    redemption = next((one for one in account.redemptions if one.expires_at == due_at), None)
    if redemption is None:
        return None
    draft = Draft(account)
    draft.close_redemption(redemption.version)
    detail: RedemptionEndDetail = {"redemption": redemption.version, "status": "expired", "reward": redemption.reward}
    return draft.entry("redemption_expired", occurred_at=due_at, recorded_at=now, detail=detail)


def _end_tier_period(account: Account, due_at: datetime, now: datetime, program: Program) -> Entry | None:
    if account.tier.until != due_at:
        return None
    draft = Draft(account)
    draft.tier, draft.counters = period_ended(account, program, due_at)
    kind = "tier_renewed" if draft.tier.code == account.tier.code else "tier_changed"
    return draft.entry(kind, occurred_at=due_at, recorded_at=now)
