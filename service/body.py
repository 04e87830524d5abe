"""What bodies are made of on both sides: who a member is, a basket.

Whatever a till may send (numbers beyond 64 bits, NUL, lone surrogates, unknown fields) ends as one
`malformed` with JSON pointers. Bounds keep every sum of points and money within 64-bit integers.
"""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from service.field import (
    EACH_ONCE,
    CardNumber,
    Category,
    CouponCode,
    Currency,
    Email,
    EntityId,
    Instant,
    NullIs,
    Phone,
    Quantity,
    Text,
    WholeNumber,
)
from service.schema import exactly_one

LINES_MAX: Final = 1_000
POINTS_MAX: Final = 10**12
AMOUNT_MAX: Final = 10**12


class StrictModel(BaseModel):
    """A body or a part of one: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MemberReference(StrictModel):
    """How a till names a member: exactly one of these."""

    model_config = exactly_one({"phone": "+4930123456"})
    member_id: Annotated[Text, EntityId] | None = None
    card: CardNumber | None = None
    phone: Phone | None = None
    email: Email | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "MemberReference":
        if list(self.__dict__.values()).count(None) != len(self.__dict__) - 1:
            raise ValueError("name the member by exactly one of member_id, card, phone, email")
        return self

    @property
    def names(self) -> tuple[str, str]:
        """Kind and value of what names the member, as it was sent (see forms_of)."""
        return next((kind, value) for kind, value in self.__dict__.items() if value is not None)


class LineBody(StrictModel):
    """One line of a basket."""

    sku: Text
    quantity: Quantity = Field(description="Pieces, or a weight with up to three places; a number or a text.")
    amount: Annotated[int, WholeNumber(0, AMOUNT_MAX)] = Field(
        description="The line's total in minor units of the currency."
    )
    category: Category | None = None


class PurchaseBody(StrictModel):
    """A paid basket. (store, till, receipt) names it for ever within its business date, the day at the store."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "member": {"phone": "+4930123456"},
                    "store": "berlin-mitte",
                    "till": "1",
                    "receipt": "000431",
                    "occurred_at": "2026-11-22T10:00:00Z",
                    "currency": "EUR",
                    "lines": [{"sku": "1095275", "quantity": 1, "amount": 1299, "category": "GROCERY"}],
                }
            ]
        }
    )
    member: MemberReference
    store: Text
    till: Text
    receipt: Text
    occurred_at: Instant
    currency: Currency
    lines: Annotated[list[LineBody], FailFast(), Field(min_length=1, max_length=LINES_MAX)]
    capture_holds: Annotated[list[Annotated[Text, EntityId]], Field(max_length=20), EACH_ONCE, NullIs([])] = Field(
        default_factory=list,  # a list given as the default is copied deeply for each body
        json_schema_extra={"default": []},
        description="Holds of this member that pay this basket, in this order. They are spent as far as the amount due "
        "takes them, and the rest is released; in a program without a worth of points they are spent whole.",
    )
    coupons: Annotated[list[CouponCode], Field(max_length=20), EACH_ONCE, NullIs([])] = Field(
        default_factory=list,
        json_schema_extra={"default": []},
        description="Codes of coupons, in capitals or small letters.",
    )
    pay_with_points: Annotated[int, WholeNumber(0, POINTS_MAX), NullIs(0)] = Field(
        default=0,
        description="Points that pay part of the basket, at the program's worth, on top of the holds. No more than "
        "the fewest that pay the same money: else `limit_exceeded`, which names the number that would do.",
    )

    @model_validator(mode="after")
    def _nothing_twice(self) -> "PurchaseBody":
        for name in ("capture_holds", "coupons"):
            given: list[str] = getattr(self, name)
            if given and len({one.upper() for one in given}) < len(given):
                raise ValueError(f"{name}: each only once")
        return self
