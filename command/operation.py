"""The calls of the write side: what they take, answer and refuse. Routes and OpenAPI come from this one list."""

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from command.body import AdjustmentBody, CaptureBody, EnrolBody, HoldBody, PurchaseBody, ReturnBody, VoidBody
from shard_router.openapi import COMMAND_HEADERS, STAFF, About, Operation, Parameter
from shard_router.shape import ACCOUNT_EXAMPLE, MEMBER_EXAMPLE, POSTING_EXAMPLE, Account, Posting

ABOUT: Final = About(
    "Loyalty commands",
    "What tills and services post. Any node of any region takes any member's command. Every command needs an "
    "`Idempotency-Key`: after a time-out or a 503 send the same key and body again, anywhere, until there is an answer "
    "other than 409 `in_progress` and 503; the command takes effect once. A purchase also has a permanent natural key "
    "(store, till, business date, receipt): the same receipt under a new key gets the first answer again.",
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


class PurchaseAnswer(BaseModel):
    """What a basket earned."""

    model_config = _example(
        purchase_id=f"pur_{MEMBER_EXAMPLE}-7",
        entry_id=f"ent_{MEMBER_EXAMPLE}-7",
        points_earned=100,
        postings=[POSTING_EXAMPLE],
        account=ACCOUNT_EXAMPLE,
    )
    purchase_id: str
    entry_id: str
    points_earned: int
    postings: list[Posting]
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


class VoidAnswer(BaseModel):
    """What came back."""

    hold_id: str
    released: int
    account: Account


def _id(what: str, example: str) -> Parameter:
    return Parameter(
        "id",
        "path",
        f"The {what}'s id, from the answer that made it.",
        {"type": "string", "examples": [example]},
        required=True,
    )


def _command(path: str, operation_id: str, summary: str, *, body: Any, answer: Any, **rest: Any) -> Operation:
    problems = (*_ANY, *_BUSY, *rest.pop("problems", ()))
    return Operation(
        "POST",
        path,
        operation_id,
        summary,
        request_model=body,
        answer_model=answer,
        status=rest.pop("status", 201),
        roles=rest.pop("roles", STAFF),
        problems=problems,
        answer_headers=COMMAND_HEADERS,
        idempotent=True,
        **rest,
    )


_HOLD: Final = (_id("hold", f"hld_{MEMBER_EXAMPLE}-8"),)
_PURCHASE: Final = (_id("purchase", f"pur_{MEMBER_EXAMPLE}-7"),)

OPERATIONS: Final = (
    _command(
        "/v1/members",
        "enrol_member",
        "Enrol a member",
        body=EnrolBody,
        answer=EnrolAnswer,
        problems=("member_exists", "unknown_store"),
        description="The member's home is the region of the node that takes the call.",
    ),
    _command(
        "/v1/purchases",
        "record_purchase",
        "Record a paid basket and earn on it",
        body=PurchaseBody,
        answer=PurchaseAnswer,
        problems=(*_MEMBER, "receipt_conflict", "unknown_store", "limit_exceeded"),
        tag="purchases",
    ),
    _command(
        "/v1/purchases/{id}/returns",
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
    ),
    _command(
        "/v1/holds/{id}/capture",
        "capture_hold",
        "Spend a hold, wholly or in part",
        body=CaptureBody,
        answer=CaptureAnswer,
        status=200,
        problems=("member_closed", "hold_not_found", "hold_closed", "insufficient_points"),
        parameters=_HOLD,
        tag="holds",
    ),
    _command(
        "/v1/holds/{id}/void",
        "void_hold",
        "Give a hold's points back",
        body=VoidBody,
        answer=VoidAnswer,
        status=200,
        problems=("member_closed", "hold_not_found", "hold_closed"),
        parameters=_HOLD,
        tag="holds",
    ),
)  # fmt: skip
