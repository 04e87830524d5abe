"""The account as API.md shows it: rendered once, when it changes; answers and views are this text."""

from rules.codec import instant_text
from rules.document import AccountDocument, BalanceDocument, TierDocument
from rules.program import Program
from rules.state import Account
from rules.tier import latest_day, qualifying


def describe_account(account: Account, program: Program, member: str) -> AccountDocument:
    """`account` of API.md; `member` is the text form of the id."""
    return {
        "member_id": member,
        "version": account.version,
        "balance": _balance(account),
        "tier": describe_tier(account, program),
        "as_of": instant_text(account.changed_at),
    }


def _balance(account: Account) -> BalanceDocument:
    return {
        "available": account.available,
        "pending": account.pending,
        "held": account.held,
        "debt": account.debt,
        "lifetime": account.issued,
        "expiring": [
            {"points": lot.points, "at": instant_text(lot.expires_at)}
            for lot in account.lots
            if lot.expires_at and lot.available_at is None
        ],
        "next_change_at": instant_text(account.due_at),
    }


def describe_tier(account: Account, program: Program) -> TierDocument:
    """`tier` of API.md, with the metric of the window as of the account's last change."""
    rank = program.rank(account.tier.code)
    tier = program.tiers[rank]
    following = program.tiers[rank + 1] if rank + 1 < len(program.tiers) else None
    points = 0
    if len(program.tiers) > 1:
        points = qualifying(account.counters, program, latest_day(account.counters, program, account.changed_at))
    return {
        "code": tier.code,
        "name": tier.name or tier.code,
        "qualifying_points": points,
        "since": instant_text(account.tier.since),
        "until": instant_text(account.tier.until),
        "next": {"code": following.code, "points_needed": max(following.threshold - points, 0)} if following else None,
    }
