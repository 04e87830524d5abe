"""The resources of the contract and their methods, whichever side answers them.

Each side has routes for its own, and tells their methods. Whom a door has sent to the other side by a method that
nobody has is told those of this table; so is a browser that asks before it sends, for its question reads.
"""

import re
from typing import Final

METHODS: Final = {
    "/v1/adjustments": "POST",
    "/v1/commands/{idempotency_key}": "GET,HEAD",
    "/v1/evaluations": "POST",
    "/v1/holds": "POST",
    "/v1/holds/{hold_id}/capture": "POST",
    "/v1/holds/{hold_id}/void": "POST",
    "/v1/lookup": "GET,HEAD",
    "/v1/members": "POST",
    "/v1/members/{member_id}": "DELETE,GET,HEAD",
    "/v1/members/{member_id}/account": "GET,HEAD",
    "/v1/members/{member_id}/activity": "GET,HEAD",
    "/v1/members/{member_id}/events": "GET,HEAD",
    "/v1/members/{member_id}/identifiers": "POST",
    "/v1/members/{member_id}/rewards": "GET,HEAD",
    "/v1/purchases": "POST",
    "/v1/purchases/{purchase_id}": "GET,HEAD",
    "/v1/purchases/{purchase_id}/returns": "POST",
    "/v1/redemptions": "POST",
    "/v1/redemptions/{id}/cancel": "POST",
    "/v1/redemptions/{id}/use": "POST",
    "/v1/rewards": "GET,HEAD",
    "/v1/stores": "GET,HEAD",
    "/v1/stream-tickets": "POST",
    "/v1/system": "GET,HEAD",
    "/v1/tiers": "GET,HEAD",
    "/v1/transfers": "POST",
}
"""Methods by path, as `Allow` has them."""

_PATTERNS: Final = {re.compile(re.sub(r"\{\w+\}", "[^/]+", path)): allow for path, allow in METHODS.items()}


def methods_of(path: str) -> str | None:
    """The methods of a resource on whichever side; None where nobody knows it."""
    return next((allow for pattern, allow in _PATTERNS.items() if pattern.fullmatch(path)), None)


def methods_instead(method: str, path: str) -> str | None:
    """The `Allow` of a resource that has no such method on either side; None where one has, or nobody knows it."""
    allow = methods_of(path)
    return None if allow is None or method in allow.split(",") else allow
