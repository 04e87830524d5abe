"""The bodies of commands: everything is checked here, once, so that behind the edge there is only sense."""

from typing import Annotated, Final

from pydantic import ConfigDict, FailFast, Field, field_validator, model_validator

from rules.command import ReturnedLine
from service.body import LINES_MAX, POINTS_MAX, MemberReference, StrictModel
from service.field import (
    EACH_ONCE,
    BirthDate,
    CardNumber,
    Email,
    EntityId,
    Flag,
    Instant,
    Locale,
    LongText,
    NullIs,
    Phone,
    Quantity,
    Text,
    WholeNumber,
)
from service.identifier import canonical_identifier
from service.schema import at_least_one, exactly_one

_OF_POINTS_GIVEN: Final = ("pending_until", "expires_at")


class EnrolBody(StrictModel):
    """A new member; everything is optional. The answer carries the id and a card number."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"store": "berlin-mitte", "phone": "+4930123456", "name": "Ada Lovelace"}]}
    )
    store: Text | None = None
    card: CardNumber | None = None
    phone: Phone | None = None
    email: Email | None = None
    name: LongText | None = None
    birth_date: BirthDate | None = None
    locale: Locale | None = None
    referred_by: Annotated[Text, EntityId] | None = None

    @property
    def as_sent(self) -> list[tuple[str, str]]:
        """Kind and value of what the member is to be found by, as it was sent (see forms_of)."""
        return [(kind, value) for kind, value in (("phone", self.phone), ("email", self.email)) if value is not None]


class ReturnedLineBody(StrictModel):
    """So much of a line came back; lines count from 1."""

    line: Annotated[int, WholeNumber(1, LINES_MAX)]
    quantity: Quantity

    def line_returned(self) -> ReturnedLine:
        """The command's line."""
        return ReturnedLine(self.line, self.quantity)


class ReturnBody(StrictModel):
    """Goods that came back, with the receipt of the return."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "store": "berlin-mitte",
                    "till": "1",
                    "receipt": "000502",
                    "occurred_at": "2026-11-23T09:00:00Z",
                    "lines": [{"line": 1, "quantity": 1}],
                }
            ]
        }
    )
    store: Text
    till: Text
    receipt: Text
    occurred_at: Instant
    lines: Annotated[list[ReturnedLineBody], FailFast(), Field(min_length=1, max_length=LINES_MAX)]


class AdjustmentBody(StrictModel):
    """Points an operator gives (positive) or takes (negative)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"member": {"phone": "+4930123456"}, "points": 500, "reason": "goodwill"}],
            "dependentSchemas": {name: {"properties": {"points": {"minimum": 1}}} for name in _OF_POINTS_GIVEN},
        }
    )
    member: MemberReference
    points: Annotated[int, WholeNumber(-POINTS_MAX, POINTS_MAX)] = Field(json_schema_extra={"not": {"const": 0}})
    reason: LongText
    pending_until: Instant | None = None
    expires_at: Instant | None = None

    @field_validator("points")
    @classmethod
    def _moves_something(cls, points: int) -> int:
        if points == 0:
            raise ValueError("must not be 0")
        return points

    @model_validator(mode="after")
    def _dates_what_is_given(self) -> "AdjustmentBody":
        if self.points < 0 and (self.pending_until or self.expires_at):
            raise ValueError("pending_until and expires_at belong to points that are given")
        return self


class HoldBody(StrictModel):
    """Points to set aside."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"member": {"phone": "+4930123456"}, "points": 100, "expires_in_s": 600}]}
    )
    member: MemberReference
    points: Annotated[int, WholeNumber(1, POINTS_MAX)]
    store: Text | None = None
    till: Text | None = None
    expires_in_s: Annotated[int, WholeNumber(1, 366 * 86_400)] | None = None


class CaptureBody(StrictModel):
    """How much of a hold to spend; absent: all of it. The rest is released."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"points": 80}]})
    points: Annotated[int, WholeNumber(1, POINTS_MAX)] | None = None


class VoidBody(StrictModel):
    """Nothing; the body may be absent."""


class TransferBody(StrictModel):
    """Points from one member to another."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"from": {"phone": "+4930123456"}, "to": {"phone": "+4930123457"}, "points": 50}]
        }
    )
    from_: MemberReference = Field(alias="from")
    to: MemberReference
    points: Annotated[int, WholeNumber(1, POINTS_MAX)]


class RedemptionBody(StrictModel):
    """A reward of the program for points."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"member": {"phone": "+4930123456"}, "reward": "coffee"}]}
    )
    member: MemberReference
    reward: Text
    store: Text | None = None
    quantity: Annotated[int, WholeNumber(1, 1_000), NullIs(1)] = 1


class UseBody(StrictModel):
    """Where a reward was handed out, and the code that was shown for it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"store": "berlin-mitte", "till": "1", "code": "K7Q2M4XW9R"}]}
    )
    store: Text
    till: Text | None = None
    code: Text | None = Field(default=None, description="The redemption's code; a till must send it.")


class CancelBody(StrictModel):
    """Where a redemption was given up."""

    store: Text | None = None
    till: Text | None = None
    code: Text | None = Field(
        default=None,
        description="The redemption's code: with it any store may cancel, without it the one that made it.",
    )


class IdentifierBody(StrictModel):
    """A card, a phone or an e-mail: exactly one."""

    model_config = exactly_one({"phone": "+4930123456"})
    card: CardNumber | None = None
    phone: Phone | None = None
    email: Email | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "IdentifierBody":
        if len([value for _, value in self if value is not None]) != 1:
            raise ValueError("give exactly one of card, phone, email")
        return self

    @property
    def names(self) -> tuple[str, str]:
        """Kind and value, as it was sent (see forms_of)."""
        return next((kind, value) for kind, value in self if value is not None)

    @property
    def canonical(self) -> tuple[str, str]:
        """Kind and value, as it is stored."""
        kind, value = self.names
        return kind, canonical_identifier(kind, value)


class IdentifiersBody(StrictModel):
    """What a member is found by from now on: a lost card is replaced by `new_card` and its number under `remove`."""

    model_config = at_least_one(
        {"new_card": True, "add": [{"email": "ada@example.com"}]},
        add={"minItems": 1},
        remove={"minItems": 1},
        new_card={"const": True},
    )
    add: Annotated[list[IdentifierBody], Field(max_length=5), EACH_ONCE, NullIs([])] = Field(default=[])
    remove: Annotated[list[IdentifierBody], Field(max_length=20), EACH_ONCE, NullIs([])] = Field(default=[])
    new_card: Annotated[Flag, NullIs(default=False)] = Field(
        default=False, description="Draw a new card number; the answer shows it under `added`."
    )

    @property
    def as_sent(self) -> list[tuple[str, str]]:
        """Kind and value of what is added, as it was sent (see forms_of)."""
        return [one.names for one in self.add]

    @model_validator(mode="after")
    def _changes_something(self) -> "IdentifiersBody":
        names = [one.canonical for one in (*self.add, *self.remove)]
        if not names and not self.new_card:
            raise ValueError("add or remove something")
        if len(set(names)) < len(names):
            raise ValueError("name each identifier once")
        return self


class EraseBody(StrictModel):
    """Nothing; the body may be absent."""
