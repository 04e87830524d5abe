"""The account as API.md shows it: rendered once, when it changes; answers and views are this text."""

from typing import Any

from rules.codec import instant_text
from rules.program import Program
from rules.state import Account


def describe_account(account: Account, program: Program, member: str) -> dict[str, Any]:
    """`account` of API.md; `member` is the text form of the id."""
    return {
        "member_id": member,
        "version": account.version,
        "balance": _balance(account),
        "tier": _tier(account, program),
        "as_of": instant_text(account.changed_at),
    }


def _balance(account: Account) -> dict[str, Any]:
    return {
        "available": account.available,
        "pending": account.pending,
        "held": account.held,
        "debt": account.debt,
        "lifetime": account.issued,
        "expiring": [
            {"points": lot.points, "at": instant_text(lot.expires_at)}
            for lot in account.available_lots
            if lot.expires_at
        ],
        "next_change_at": instant_text(account.due_at),
    }


def _tier(account: Account, program: Program) -> dict[str, Any]:
    codes = [tier.code for tier in program.tiers]
    index = codes.index(account.tier.code) if account.tier.code in codes else 0
    tier = program.tiers[index]
    following = program.tiers[index + 1] if index + 1 < len(program.tiers) else None
    return {
        "code": account.tier.code,
        "name": tier.name or tier.code,
        "qualifying_points": max(account.issued, 0),
        "since": instant_text(account.tier.since),
        "until": instant_text(account.tier.until),
        "next": following and {"code": following.code, "points_needed": max(following.threshold - account.issued, 0)},
    }
