"""Shapes that the answers of both sides are made of, for the OpenAPI document.

Answers are rendered from stored JSON, never through these models; a test holds what is answered to them.
"""

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from rules.state import Bucket

MEMBER_EXAMPLE: Final = "042D00BFXR71NV"
ACCOUNT_EXAMPLE: Final[dict[str, Any]] = {
    "member_id": MEMBER_EXAMPLE,
    "version": 7,
    "balance": {
        "available": 120,
        "pending": 30,
        "held": 0,
        "debt": 0,
        "lifetime": 540,
        "expiring": [{"points": 100, "at": "2027-12-31T23:59:59Z"}],
        "next_change_at": None,
    },
    "tier": {
        "code": "silver",
        "name": "Silver",
        "qualifying_points": 540,
        "since": "2026-03-01T09:30:00Z",
        "until": None,
        "next": {"code": "gold", "points_needed": 460},
    },
    "as_of": "2026-11-22T10:00:00Z",
}
POSTING_EXAMPLE: Final[dict[str, Any]] = {
    "points": 100,
    "from": "program",
    "to": "available",
    "expires_at": "2027-12-31T23:59:59Z",
    "reason": "base",
}
CAPTURED: Final = "Points of the holds named that were spent: no more than pay what is due. Absent without holds."
RELEASED: Final = "The rest of the holds named: back among the available points. Absent without holds."


def with_example(example: dict[str, Any]) -> ConfigDict:
    """Make a model's configuration that shows `example` in the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class NotApplied(BaseModel):
    """A campaign or coupon that runs and gave nothing."""

    model_config = with_example({"code": "HELLO50", "why": "min_amount: 1299 of 2000 minor units in money"})
    code: str = Field(description="As in the program: of a coupon without `coupon:`.")
    why: str = Field(description="Begins with a stable word, as in an explanation.")


class Expiring(BaseModel):
    """Points that go at an instant unless they are spent before."""

    points: int
    at: datetime


class Balance(BaseModel):
    """Points by bucket; only `available` can be spent."""

    available: int = Field(description="Can be spent now.", ge=0)
    pending: int = Field(description="Earned, but not available yet.", ge=0)
    held: int = Field(description="Set aside by open holds.", ge=0)
    debt: int = Field(description="Owed after a return of goods whose points were spent.", ge=0)
    lifetime: int = Field(description="All points ever issued, less those reversed.")
    expiring: list[Expiring] = Field(description="What expires when, soonest first.")
    next_change_at: datetime | None = Field(description="When time alone next changes this balance.")


class NextTier(BaseModel):
    """What is missing for the next tier."""

    code: str
    points_needed: int


class MemberTier(BaseModel):
    """The member's tier."""

    code: str
    name: str
    qualifying_points: int
    since: datetime | None
    until: datetime | None
    next: NextTier | None = Field(description="Null in the highest tier.")


class Account(BaseModel):
    """A member's points and tier at a version."""

    model_config = with_example(ACCOUNT_EXAMPLE)
    member_id: str
    version: int = Field(description="Grows by one with every accepted command of this member.")
    balance: Balance
    tier: MemberTier
    as_of: datetime


class Posting(BaseModel):
    """Points moved from one bucket to another."""

    model_config = with_example(POSTING_EXAMPLE)
    points: int = Field(ge=0)
    from_: Bucket = Field(alias="from")
    to: Bucket
    expires_at: datetime | None = None
    reason: str
    available_at: datetime | None = None
    hold: int | None = None
    expires_before: datetime | None = None
