"""The calls of the write side: what they take, answer and refuse. Routes and OpenAPI come from this one list."""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from command.body import (
    AdjustmentBody,
    CancelBody,
    CaptureBody,
    EnrolBody,
    EraseBody,
    HoldBody,
    IdentifiersBody,
    RedemptionBody,
    ReturnBody,
    TransferBody,
    UseBody,
    VoidBody,
)
from service.admission import Rank
from service.body import PurchaseBody
from service.openapi import COMMAND_HEADERS, STAFF, About, Operation, Parameter
from service.shape import (
    ACCOUNT_EXAMPLE,
    CAPTURED,
    MEMBER_EXAMPLE,
    POSTING_EXAMPLE,
    RELEASED,
    Account,
    NotApplied,
    Posting,
)

ABOUT: Final = About(
    "Loyalty commands",
    "What tills and services post. Any node of any region takes any member's command. Every command needs an "
    "`Idempotency-Key`: after a time-out or a 503 send the same key and body again, anywhere, until there is an answer "
    "other than 409 `in_progress` and 503; the command takes effect once. (An enrolment that names no phone, e-mail or "
    "card: send it to a node of the same region again.) A purchase also has a permanent natural key (store, till, "
    "business date, receipt): the same receipt under a new key gets the first answer again. The business date is the "
    "day of `occurred_at` at the store. A return's natural key has its purchase too: one slip may take back from two."
    "\n\n"
    "**To try:** send the example of `POST /v1/members` first, then that of `POST /v1/adjustments`. The other examples "
    "name that member by phone, have points to spend, and a store of the default program; ids and codes come from the "
    "answers. A transfer needs a second member: the same enrolment with `+4930123457` and another key. What reads is "
    "described at `/docs` of a query node; the front door's `/docs` has both, to choose from in its menu.",
)

_ANY: Final = (
    "in_progress",
    "idempotency_key_missing",
    "idempotency_key_reused",
    "too_large",
    "unsupported_media_type",
)
_BUSY: Final = ("overloaded", "shard_unavailable", "unknown_outcome")
_MEMBER: Final = ("member_not_found", "member_closed")


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class EnrolAnswer(BaseModel):
    """The new member."""

    model_config = _example(member_id=MEMBER_EXAMPLE, card="0100000000000000008", account=ACCOUNT_EXAMPLE)
    member_id: str
    card: str
    account: Account


class IdentifiersAnswer(BaseModel):
    """What was added, a drawn card number among it."""

    member_id: str
    entry_id: str
    added: list[dict[str, str]]
    account: Account


class PurchaseAnswer(BaseModel):
    """What a basket earned, and what became of the holds it named."""

    model_config = _example(
        purchase_id=f"pur_{MEMBER_EXAMPLE}-7",
        entry_id=f"ent_{MEMBER_EXAMPLE}-7",
        points_earned=100,
        postings=[POSTING_EXAMPLE],
        not_applied=[{"code": "HELLO50", "why": "min_amount: 1299 of 2000 minor units in money"}],
        account=ACCOUNT_EXAMPLE,
    )
    purchase_id: str
    entry_id: str
    points_earned: int
    postings: list[Posting]
    not_applied: list[NotApplied] = Field(
        default=[], description="Campaigns and coupons that run and gave nothing, and why."
    )
    captured: int | None = Field(default=None, description=CAPTURED)
    released: int | None = Field(default=None, description=RELEASED)
    account: Account


class ReturnAnswer(BaseModel):
    """What a return took back."""

    return_id: str
    entry_id: str
    points_reversed: int
    postings: list[Posting]
    account: Account


class AdjustmentAnswer(BaseModel):
    """The entry an adjustment made."""

    entry_id: str
    postings: list[Posting]
    account: Account


class HoldAnswer(BaseModel):
    """An open hold."""

    model_config = _example(
        hold_id=f"hld_{MEMBER_EXAMPLE}-8", points=100, expires_at="2026-11-22T10:10:00Z", account=ACCOUNT_EXAMPLE
    )
    hold_id: str
    points: int
    expires_at: datetime
    account: Account


class CaptureAnswer(BaseModel):
    """What of a hold was spent and what came back."""

    hold_id: str
    captured: int
    released: int
    account: Account


class TransferAnswer(BaseModel):
    """A transfer on its way: the points are the receiver's within moments; `account` is the sender's."""

    transfer_id: str
    entry_id: str
    account: Account


class RedemptionAnswer(BaseModel):
    """A reward to be handed out against `code`."""

    model_config = _example(
        redemption_id=f"red_{MEMBER_EXAMPLE}-9", code="K7Q2M4XW9R", points=150, account=ACCOUNT_EXAMPLE
    )
    redemption_id: str
    code: str
    points: int
    account: Account


class RedemptionClosedAnswer(BaseModel):
    """What became of a redemption: `used` or `cancelled`."""

    redemption_id: str
    status: Literal["used", "cancelled"]
    account: Account


class ErasureAnswer(BaseModel):
    """The member is closed and nothing personal is left."""

    member_id: str
    erased_at: datetime


class VoidAnswer(BaseModel):
    """What came back."""

    hold_id: str
    released: int
    account: Account


def _id(what: str, example: str, name: str = "") -> Parameter:
    return Parameter(
        name or f"{what}_id",
        "path",
        f"The {what}'s id, from the answer that made it.",
        {"type": "string", "examples": [example]},
        required=True,
    )


def _command(path: str, operation_id: str, summary: str, *, body: Any, answer: Any, **rest: Any) -> Operation:
    problems = (*_ANY, *_BUSY, *rest.pop("problems", ()))
    return Operation(
        rest.pop("method", "POST"),
        path,
        operation_id,
        summary,
        request_model=body,
        answer_model=answer,
        status=rest.pop("status", 201),
        roles=rest.pop("roles", STAFF),
        rank=rest.pop("rank", Rank.EARN),
        problems=problems,
        answer_headers=COMMAND_HEADERS,
        idempotent=True,
        **rest,
    )


_HOLD: Final = (_id("hold", f"hld_{MEMBER_EXAMPLE}-8"),)
_REDEMPTION: Final = (_id("redemption", f"red_{MEMBER_EXAMPLE}-9", "id"),)
_PURCHASE: Final = (_id("purchase", f"pur_{MEMBER_EXAMPLE}-7"),)

OPERATIONS: Final = (
    _command(
        "/v1/members",
        "enrol_member",
        "Enrol a member",
        body=EnrolBody,
        answer=EnrolAnswer,
        problems=("member_exists", "member_not_found", "unknown_store"),
        description="The member's home is the region of the node that takes the call.",
    ),
    _command(
        "/v1/purchases",
        "record_purchase",
        "Record a paid basket and earn on it",
        body=PurchaseBody,
        answer=PurchaseAnswer,
        problems=(
            *_MEMBER, "receipt_conflict", "unknown_store", "unknown_coupon", "limit_exceeded", "hold_not_found",
            "hold_closed", "insufficient_points",
        ),
        description="Earns, captures holds, uses coupons and pays with points in one step: all of it or nothing. What "
        "was not paid with money earns nothing, under every campaign, coupon and referral: a line paid in part with "
        "points counts in proportion, a give-away not at all, and `min_amount` compares the money left after points.",
        tag="purchases",
    ),
    _command(
        "/v1/purchases/{purchase_id}/returns",
        "return_purchase",
        "Take goods back and reverse exactly what they earned",
        body=ReturnBody,
        answer=ReturnAnswer,
        problems=(
            "member_closed", "purchase_not_found", "receipt_conflict", "return_exceeds_purchase", "unknown_store",
            "insufficient_points",
        ),
        parameters=_PURCHASE,
        tag="purchases",
        rank=Rank.SPEND,
    ),
    _command(
        "/v1/adjustments",
        "adjust_points",
        "Give or take points by hand",
        body=AdjustmentBody,
        answer=AdjustmentAnswer,
        roles=("service", "admin"),
        problems=(*_MEMBER, "insufficient_points", "limit_exceeded"),
        tag="points",
    ),
    _command(
        "/v1/holds",
        "place_hold",
        "Set points aside for a basket that is being paid",
        body=HoldBody,
        answer=HoldAnswer,
        problems=(*_MEMBER, "insufficient_points", "limit_exceeded", "unknown_store"),
        tag="holds",
        rank=Rank.SPEND,
    ),
    _command(
        "/v1/holds/{hold_id}/capture",
        "capture_hold",
        "Spend a hold, wholly or in part",
        body=CaptureBody,
        answer=CaptureAnswer,
        status=200,
        problems=("member_closed", "hold_not_found", "hold_closed", "insufficient_points"),
        parameters=_HOLD,
        tag="holds",
        rank=Rank.SPEND,
    ),
    _command(
        "/v1/holds/{hold_id}/void",
        "void_hold",
        "Give a hold's points back",
        body=VoidBody,
        answer=VoidAnswer,
        status=200,
        problems=("member_closed", "hold_not_found", "hold_closed"),
        parameters=_HOLD,
        tag="holds",
        rank=Rank.SPEND,
    ),
    _command(
        "/v1/members/{member_id}",
        "erase_member",
        "Close a membership and erase everything personal",
        body=EraseBody,
        answer=ErasureAnswer,
        method="DELETE",
        status=200,
        roles=("service", "admin", "member"),
        problems=_MEMBER,
        parameters=(_id("member", MEMBER_EXAMPLE),),
        description="What is left of the points is forfeited, what is owed written off; the member's identifiers are "
        "free again. Keyed hashes of them stay for the program's `rejoin_days`: who comes back within those is a full "
        "member without the bonuses that each person has once.",
    ),
    _command(
        "/v1/members/{member_id}/identifiers",
        "change_identifiers",
        "Add and remove cards, phones and e-mails; replace a lost card",
        body=IdentifiersBody,
        answer=IdentifiersAnswer,
        desk=True,
        problems=(*_MEMBER, "member_exists", "not_found", "limit_exceeded"),
        parameters=(_id("member", MEMBER_EXAMPLE),),
        description="Each identifier has one member in the whole program.",
    ),
    _command(
        "/v1/transfers",
        "send_transfer",
        "Give points to another member",
        body=TransferBody,
        answer=TransferAnswer,
        roles=("pos", "service", "admin", "member"),
        desk=True,
        problems=(*_MEMBER, "insufficient_points", "limit_exceeded", "rate_limited"),
        description="The points keep their expiry. Should the receiver's membership end meanwhile they come back. "
        "`member_not_found` with the pointer `/to`: nobody who may receive points is named so. That is told only where "
        "nothing else is missing, and to a member's own token ten times an hour. With such a token `from` is that "
        "member; anything else is `member_not_found`. `limit_exceeded`: the program has no transfers, not of so many "
        "points on a day, or not by members so new. `insufficient_points` tells how many are settled: points of a "
        "purchase that may still be returned are not sent, unless the program says so.",
        tag="points",
        rank=Rank.SPEND,
    ),
    _command(
        "/v1/redemptions",
        "redeem_reward",
        "Redeem points for a reward",
        body=RedemptionBody,
        answer=RedemptionAnswer,
        problems=(
            *_MEMBER,
            "reward_not_found",
            "out_of_stock",
            "limit_exceeded",
            "insufficient_points",
            "unknown_store",
        ),
        tag="rewards",
        rank=Rank.SPEND,
    ),
    _command(
        "/v1/redemptions/{id}/use",
        "use_redemption",
        "Hand a redeemed reward out",
        body=UseBody,
        answer=RedemptionClosedAnswer,
        status=200,
        problems=("member_closed", "not_found", "redemption_closed", "unknown_store", "rate_limited"),
        parameters=_REDEMPTION,
        description="A till sends the `code` that the member shows. A wrong one is `not_found`; after five wrong ones "
        "of a redemption within an hour every code is `rate_limited`.",
        tag="rewards",
        rank=Rank.SPEND,
    ),
    _command(
        "/v1/redemptions/{id}/cancel",
        "cancel_redemption",
        "Give a redeemed reward up; its points come back",
        body=CancelBody,
        answer=RedemptionClosedAnswer,
        status=200,
        problems=("member_closed", "not_found", "redemption_closed", "rate_limited"),
        parameters=_REDEMPTION,
        tag="rewards",
        rank=Rank.SPEND,
    ),
)  # fmt: skip
