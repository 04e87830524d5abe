"""What bodies are made of on both sides: texts, instants, quantities, who a member is, a basket.

Whatever a till may send (numbers beyond 64 bits, NUL, lone surrogates, unknown fields) ends as one
`malformed` with JSON pointers. Bounds keep every sum of points and money within 64-bit integers.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from rules.codec import quantity_text
from shard_router.member_id import canonical_id

LINES_MAX: Final = 1_000
POINTS_MAX: Final = 10**12
AMOUNT_MAX: Final = 10**12
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)


def printable(text: str) -> str:
    """Pass a text without control characters and lone surrogates; ValueError for any other."""
    if not text.isprintable():
        raise ValueError("control characters and lone surrogates are not allowed")
    return text


def _text_only(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("send an RFC 3339 text")  # noqa: TRY004 - pydantic wants ValueError
    return value


def _in_range(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("out of range")
    return moment.astimezone(UTC)


def _number_or_text(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("send a number or a decimal text")  # noqa: TRY004
    return value


Text = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(printable)]
Instant = Annotated[AwareDatetime, BeforeValidator(_text_only), AfterValidator(_in_range)]
Quantity = Annotated[
    Decimal,
    BeforeValidator(_number_or_text),
    Field(gt=0, max_digits=12, decimal_places=3, allow_inf_nan=False),
    PlainSerializer(quantity_text, when_used="json"),
]
EntityId = PlainSerializer(canonical_id, return_type=str, when_used="json")
"""Of an id or a reference: in JSON it has its one form, so that equal content is equal text."""
Phone = Annotated[str, Field(pattern=r"^\+[1-9][0-9]{6,14}$")]
Email = Annotated[
    str,
    Field(max_length=254, pattern=r"^[^@\s]{1,64}@[^@\s]+\.[^@\s]+$"),
    AfterValidator(printable),
    AfterValidator(str.lower),
]
CardNumber = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{4,64}$")]


class StrictModel(BaseModel):
    """A body or a part of one: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MemberReference(StrictModel):
    """How a till names a member: exactly one of these."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"card": "0100000000000000008"}]})
    member_id: Annotated[str, Field(max_length=32), AfterValidator(printable), EntityId] | None = None
    card: CardNumber | None = None
    phone: Phone | None = None
    email: Email | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "MemberReference":
        if len([value for _, value in self if value is not None]) != 1:
            raise ValueError("name the member by exactly one of member_id, card, phone, email")
        return self

    @property
    def names(self) -> tuple[str, str]:
        """Kind and value of what names the member."""
        return next((kind, value) for kind, value in self if value is not None)


class LineBody(StrictModel):
    """One line of a basket."""

    sku: Text
    quantity: Quantity = Field(description="Pieces, or a weight with up to three places; a number or a text.")
    amount: Annotated[int, Field(strict=True, ge=0, le=AMOUNT_MAX)] = Field(
        description="The line's total in minor units of the currency."
    )
    category: Annotated[str, Field(max_length=128), AfterValidator(printable)] | None = None


class PurchaseBody(StrictModel):
    """A paid basket. (store, till, receipt) names it for ever within its business date."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "member": {"card": "0100000000000000008"},
                    "store": "330",
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
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    lines: Annotated[list[LineBody], Field(min_length=1, max_length=LINES_MAX)]
    capture_holds: Annotated[list[Annotated[Text, EntityId]], Field(max_length=20)] = Field(
        default=[],
        description="Holds of this member that pay this basket, in this order. They are spent as far as the amount due "
        "takes them, and the rest is released; in a program without a worth of points they are spent whole.",
    )
    coupons: Annotated[list[Text], Field(max_length=20)] = Field(default=[], description="Codes of coupons.")
    pay_with_points: Annotated[int, Field(strict=True, ge=0, le=POINTS_MAX)] = Field(
        default=0,
        description="Points that pay part of the basket, at the program's worth, on top of the holds. No more than "
        "the fewest that pay the same money: else `limit_exceeded`, which names the number that would do.",
    )

    @model_validator(mode="after")
    def _nothing_twice(self) -> "PurchaseBody":
        for name in ("capture_holds", "coupons"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: each only once")
        return self
