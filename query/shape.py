"""Shapes of what queries answer, for the OpenAPI document; the account's stand in service/shape.py."""

from datetime import date, datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from service.shape import (
    ACCOUNT_EXAMPLE,
    CAPTURED,
    MEMBER_EXAMPLE,
    POSTING_EXAMPLE,
    RELEASED,
    Account,
    Balance,
    MemberTier,
    NotApplied,
    Posting,
    with_example,
)

_BALANCE: Final = ACCOUNT_EXAMPLE["balance"]
_PROFILE: Final = {
    "card": "0100770000123456786",
    "phone": "+493012345678",
    "email": "ada@example.com",
    "name": "Ada",
    "locale": "de-DE",
}
_ENTRY: Final = {
    "entry_id": f"ent_{MEMBER_EXAMPLE}-7",
    "kind": "purchase_recorded",
    "occurred_at": "2026-11-22T10:00:00Z",
    "store": "berlin-1",
    "points": 100,
    "postings": [POSTING_EXAMPLE],
    "balance_after": _BALANCE,
    "version": 7,
}


_EXPLANATION: Final = {"campaign": "base", "applied": True, "points": 12, "why": "applied"}


EntryKind = Literal[
    "member_enrolled", "identifiers_changed", "member_closed",
    "purchase_recorded", "purchase_returned",
    "points_adjusted", "points_activated", "points_expired", "referral_credited", "referral_returned",
    "hold_placed", "hold_captured", "hold_voided", "hold_lapsed",
    "reward_redeemed", "redemption_used", "redemption_cancelled", "redemption_expired",
    "transfer_sent", "transfer_received", "transfer_settled", "transfer_cancelled",
    "transfer_returned", "transfer_revoked",
    "tier_changed", "tier_renewed",
]  # fmt: skip
"""What entries say happened; a test holds it to what the rules write."""


class Profile(BaseModel):
    """Personal data; what was never given is absent, and all of it after an erasure."""

    model_config = with_example(_PROFILE)
    card: str | None = None
    phone: str | None = None
    email: str | None = None
    name: str | None = None
    birth_date: date | None = None
    locale: str | None = None


class Member(BaseModel):
    """A member with the account."""

    model_config = with_example({"profile": _PROFILE, "account": ACCOUNT_EXAMPLE})
    profile: Profile
    account: Account


class Entry(BaseModel):
    """One accepted command in the member's journal."""

    model_config = with_example(_ENTRY)
    entry_id: str
    kind: EntryKind = Field(description="What happened.")
    occurred_at: datetime
    store: str | None
    points: int = Field(description="What the entry gave (positive) or took (negative).")
    postings: list[Posting]
    balance_after: Balance
    purchase_id: str | None = Field(default=None, description="The purchase recorded or returned.")
    return_id: str | None = Field(default=None, description="The return.")
    why: Literal["receipt_conflict"] | None = Field(
        default=None, description="Of a return without goods: the receipt is that of another member, who had it first."
    )
    hold_id: str | None = Field(default=None, description="The hold placed, captured, voided or lapsed.")
    redemption_id: str | None = Field(default=None, description="The redemption made, used, cancelled or expired.")
    reward: str | None = Field(default=None, description="The redeemed reward's code: see `/v1/rewards` for its name.")
    transfer_id: str | None = Field(default=None, description="The transfer, the same for sender and receiver.")
    direction: Literal["sent", "received"] | None = Field(default=None, description="Which side of it the member is.")
    version: int


class Activity(BaseModel):
    """A page of entries, newest first."""

    model_config = with_example({"items": [_ENTRY], "next_page_token": "WzEsImFjdGl2aXR5IiwgNl0"})
    items: list[Entry]
    next_page_token: str | None = Field(default=None, description="Absent on the last page.")


class StreamTicket(BaseModel):
    """A ticket that opens one event stream."""

    model_config = with_example(
        {
            "ticket": f"{MEMBER_EXAMPLE}.eu.1795651230.1795654800.9f86d081884c7d65.60303ae2",
            "expires_at": "2026-11-22T10:00:30Z",
        }
    )
    ticket: str = Field(description="Opaque; goes into the query parameter `ticket`.")
    expires_at: datetime = Field(description="Until when it opens a stream.")


class Found(BaseModel):
    """The member behind an identifier."""

    model_config = with_example({"member_id": MEMBER_EXAMPLE, "account": ACCOUNT_EXAMPLE})
    member_id: str
    account: Account


class PurchaseLine(BaseModel):
    """A line of a basket: what it earned by reason, and what of it came back."""

    line: int = Field(description="Counts from 1; returns name lines by it.")
    sku: str
    quantity: str
    amount: int = Field(description="The line's total in minor units of the purchase's currency.")
    category: str | None = None
    paid_amount: int | None = Field(default=None, description="How much of the amount was paid with points.")
    points: int
    earned: dict[str, int]
    returned: str
    reversed: dict[str, int]


class Explanation(BaseModel):
    """What became of one thing that may give points."""

    campaign: str = Field(description="A campaign's code, `base`, `tier:<code>`, `coupon:<code>` or `referral`.")
    applied: bool
    points: int
    why: str = Field(
        description="Begins with a stable word: `applied`, `weekday`, `min_amount` (of money, after points), "
        "`no_money`, `member_limit`, ..."
    )


class CapturedHold(BaseModel):
    """A hold that paid."""

    hold_id: str
    points: int


class Payment(BaseModel):
    """What was paid with points: how many, and how much money they stood for."""

    points: int
    amount: int
    holds: list[CapturedHold]


class ReturnedLine(BaseModel):
    """So much of a line came back."""

    line: int
    quantity: str


class PurchaseReturn(BaseModel):
    """One return of goods of the purchase."""

    return_id: str
    version: int
    store: str
    till: str
    receipt: str
    occurred_at: datetime
    points_reversed: int
    points_returned: int | None = Field(default=None, description="Of those that had paid, how many came back.")
    points_forgiven: int | None = Field(default=None, description="What the member no longer had and does not owe.")
    why: Literal["receipt_conflict"] | None = Field(
        default=None, description="No goods came back: the receipt is that of another member, who had it first."
    )
    lines: list[ReturnedLine]


class HomeMoney(BaseModel):
    """What the money of a purchase counts as, for conditions and tiers, where it is not in the home currency."""

    currency: str
    amount: int


class Purchase(BaseModel):
    """A purchase, what each line earned and why, and its returns."""

    model_config = with_example(
        {
            "purchase_id": f"pur_{MEMBER_EXAMPLE}-7",
            "member_id": MEMBER_EXAMPLE,
            "version": 7,
            "store": "berlin-1",
            "till": "3",
            "receipt": "000431",
            "business_date": "2026-11-22",
            "occurred_at": "2026-11-22T10:00:00Z",
            "currency": "EUR",
            "amount": 1299,
            "money": 1299,
            "points_earned": 12,
            "lines": [
                {
                    "line": 1,
                    "sku": "4006381333931",
                    "quantity": "1",
                    "amount": 1299,
                    "category": "stationery",
                    "points": 12,
                    "earned": {"base": 12},
                    "returned": "0",
                    "reversed": {},
                }
            ],
            "explanation": [_EXPLANATION],
            "returns": [],
        }
    )
    purchase_id: str
    member_id: str
    version: int = Field(description="The member's version that last changed this purchase.")
    store: str
    till: str
    receipt: str
    business_date: date
    occurred_at: datetime
    currency: str
    home: HomeMoney | None = None
    amount: int
    money: int | None = Field(default=None, description="What of the amount was paid with money: only that earns.")
    points_earned: int
    lines: list[PurchaseLine]
    expires_at: datetime | None = Field(default=None, description="When its points expire; null: never.")
    available_at: datetime | None = Field(default=None, description="When its points become available, if not at once.")
    explanation: list[Explanation]
    coupons: list[str] | None = None
    payment: Payment | None = None
    returns: list[PurchaseReturn]


class Evaluation(BaseModel):
    """What a basket would bring."""

    model_config = with_example(
        {
            "points": 12,
            "postings": [POSTING_EXAMPLE | {"points": 12}],
            "tier_after": ACCOUNT_EXAMPLE["tier"],
            "explanation": [_EXPLANATION],
            "not_applied": [],
        }
    )
    points: int = Field(description="What would be earned.")
    postings: list[Posting]
    captured: int | None = Field(default=None, description=CAPTURED)
    released: int | None = Field(default=None, description=RELEASED)
    tier_after: MemberTier
    explanation: list[Explanation]
    not_applied: list[NotApplied] = Field(description="What the purchase's answer would tell as not applied.")


class RewardItem(BaseModel):
    """Something to redeem points for."""

    reward: str
    name: str
    points: int
    stock: int | None = None
    per_member: int | None = None
    valid_days: int | None = None


class RewardList(BaseModel):
    """Rewards, cheapest first."""

    model_config = with_example({"items": [{"reward": "coffee", "name": "A coffee", "points": 100}]})
    items: list[RewardItem]


class MemberReward(BaseModel):
    """A reward as one member sees it."""

    reward: str
    name: str
    points: int
    affordable: bool
    points_missing: int


class MemberRewardList(BaseModel):
    """Rewards, cheapest first."""

    model_config = with_example(
        {"items": [{"reward": "coffee", "name": "A coffee", "points": 100, "affordable": True, "points_missing": 0}]}
    )
    items: list[MemberReward]


class TierItem(BaseModel):
    """A tier and what reaching it takes."""

    code: str
    name: str
    threshold: int
    multiplier: float


class TierList(BaseModel):
    """Tiers, lowest first."""

    model_config = with_example({"items": [{"code": "silver", "name": "Silver", "threshold": 500, "multiplier": 1.25}]})
    items: list[TierItem]


class StoreItem(BaseModel):
    """A store; `distance_m` when the question said where one is."""

    store: str
    name: str
    region: str
    lat: float | None = None
    lon: float | None = None
    distance_m: int | None = None


class StoreList(BaseModel):
    """A page of stores: by distance, else by code."""

    model_config = with_example(
        {
            "items": [
                {
                    "store": "berlin-1",
                    "name": "Berlin Mitte",
                    "region": "eu",
                    "lat": 52.52,
                    "lon": 13.405,
                    "distance_m": 420,
                }
            ]
        }
    )
    items: list[StoreItem]
    next_page_token: str | None = Field(default=None, description="Absent on the last page.")


class CommandState(BaseModel):
    """What became of a command."""

    model_config = with_example({"status": "done", "answer_status": 201, "answer": {"hold_id": "..."}})
    status: Literal["done", "unknown"]
    answer_status: int | None = Field(default=None, description="The HTTP status of the first answer.")
    answer: dict[str, Any] | None = Field(default=None, description="The first answer; a problem if it was refused.")
