"""The fields of bodies: each is checked here, and described by a JSON Schema that accepts what its check accepts.

Texts have the form in which they are stored and compared. Quantities, codes, phones and e-mails stay as they were
sent and get theirs in JSON, so that equal content is equal text there.
"""

import re
from copy import copy
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import core_schema

from rules.codec import quantity_text
from rules.text import BLANK, REFUSED, canonical_text
from service.identifier import DOTS, EMAIL_MAX, canonical_email, canonical_phone
from shard_router.member_id import canonical_id

_TEXT: Final = rf"^[^{REFUSED}]*[^{REFUSED}{BLANK}][^{REFUSED}]*$"
_LABEL: Final = rf"[^@{DOTS}{REFUSED}{BLANK}]+"
_QUANTITY: Final = r"^(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,3})?$"
_DATE: Final = r"^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
_INSTANT: Final = (
    r"^(19[7-9][0-9]|2[01][0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_EMAIL: Final = rf"^[^@{REFUSED}{BLANK}]{{1,64}}@{_LABEL}([{DOTS}]{_LABEL})+[{DOTS}]?$"
_IS_QUANTITY: Final = re.compile(_QUANTITY)
_IS_DATE: Final = re.compile(_DATE)
_IS_INSTANT: Final = re.compile(_INSTANT)

_EASTERNMOST: Final = timedelta(hours=14)
"""Where a day begins first."""
_CACHED: Final = 4_096
_BLANKS: Final = " \u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u202f\u205f\u3000"
_CANONICAL_PHONE: Final = PlainSerializer(canonical_phone, when_used="json")
_CANONICAL_EMAIL: Final = PlainSerializer(canonical_email, when_used="json")


def _instant(value: Any) -> datetime:
    if not isinstance(value, str) or not _IS_INSTANT.fullmatch(value):
        raise ValueError('send an RFC 3339 text with its offset, like "2026-11-22T10:00:00Z", of 1970 to 2199')
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except ValueError as error:
        raise ValueError("there is no such day") from error


def _date(value: Any) -> date:
    if not isinstance(value, str) or not _IS_DATE.fullmatch(value):
        raise ValueError('send a date like "1990-12-31"')
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ValueError("there is no such day") from error


def _day_past(day: date) -> date:
    if day > (datetime.now(UTC) + _EASTERNMOST).date():
        raise ValueError("lies in the future")
    return day


@lru_cache(_CACHED)
def _decimal(text: str) -> Decimal:
    if not _IS_QUANTITY.fullmatch(text):
        raise ValueError("send a number above 0 with up to nine digits and three places, as number or text")
    return Decimal(text)


def _quantity(value: Any) -> Decimal:
    """Numbers are read by the pattern of texts too."""
    if value.__class__ not in (int, float, str):
        raise ValueError("send a number or a decimal text")
    return _decimal(str(value))


def _whole(number: float) -> int:
    """28.999999999999996 is no 29, and still less a 28."""
    if not number.is_integer():
        raise ValueError("not a whole number")
    return int(number)


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """Of an int: a number without a fraction, from `least` to `most`; 1 and 1.0 are one number in JSON."""

    least: int
    most: int

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Check it without a call of Python, unless it is written with a fraction."""
        whole = core_schema.int_schema(strict=True, ge=self.least, le=self.most)
        written_so = core_schema.float_schema(strict=True, ge=self.least, le=self.most)  # multiple_of would be lenient
        return core_schema.union_schema(
            [whole, core_schema.no_info_after_validator_function(_whole, written_so)],
            mode="left_to_right",
            custom_error_type="whole_number",
            custom_error_message=f"send a whole number from {self.least} to {self.most}",
        )

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe it."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Said:
    """Words for whatever is wrong with what stands before it in an annotation: the form, and an example of it."""

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Check likewise, and say so."""
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="form", custom_error_message=self.words
        )


def _trimmed(value: Any) -> Any:
    return value.strip(_BLANKS) if isinstance(value, str) and len(value) <= EMAIL_MAX else value


class Trimmed:
    """Of a short text with a pattern, `^…$`: blanks around it are no part of it, as around any text."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Leave them away before anything is checked."""
        return core_schema.no_info_before_validator_function(_trimmed, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe it with them."""
        described = handler(schema)
        inner = described["pattern"].removeprefix("^").removesuffix("$")
        return {"maxLength": EMAIL_MAX, **described, "pattern": f"^[{BLANK}]*{inner}[{BLANK}]*$"}


def _possible(text: str) -> str:
    canonical_phone(text)
    return text


def _category(text: str) -> str | None:
    """Tills without categories send an empty one."""
    return canonical_text(text) if text.strip(" ") else None


def _described_text(length_max: int) -> WithJsonSchema:
    """A text of so many characters as it is sent; what composing adds is not counted."""
    return WithJsonSchema({"type": "string", "minLength": 1, "maxLength": length_max, "pattern": _TEXT})


Text = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(canonical_text), _described_text(64)]
Category = Annotated[
    str,
    Field(max_length=128),
    AfterValidator(_category),
    WithJsonSchema({"type": "string", "maxLength": 128, "pattern": rf"^[^{REFUSED}]*$"}),
]
LongText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(canonical_text), _described_text(200)]
EntityId: Final = PlainSerializer(canonical_id, return_type=str, when_used="json")
"""Of an id or a reference: its member may be written in small letters as well."""
CouponCode = Annotated[Text, PlainSerializer(str.upper, when_used="json")]
"""The same code in capitals and small letters."""

Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _INSTANT}),
]
BirthDate = Annotated[
    date,
    BeforeValidator(_date),
    AfterValidator(_day_past),
    WithJsonSchema({"type": "string", "format": "date", "pattern": _DATE}),
]
Quantity = Annotated[
    Decimal,
    PlainValidator(_quantity),
    PlainSerializer(quantity_text, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1_000_000_000, "multipleOf": 0.001},
                {"type": "string", "pattern": _QUANTITY},
            ]
        }
    ),
]


@dataclass(frozen=True, slots=True)
class NullIs:
    """Of an optional field whose default is not None: null says the same as leaving it out."""

    default: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Take null for the default."""
        default = self.default
        return core_schema.no_info_before_validator_function(
            lambda given: copy(default) if given is None else given, handler(source)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe it: whoever reads the schema is to know."""
        return {"anyOf": [handler(schema), {"type": "null"}]}


class EachOnce:
    """Of a list whose items are checked to differ, by its model."""

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe it."""
        return {**handler(schema), "uniqueItems": True}


EACH_ONCE: Final = EachOnce()
Flag = Annotated[bool, Field(strict=True)]
Phone = Annotated[
    str,
    Field(pattern=r"^\+[1-9][0-9]{6,14}$"),
    Said('send it with + and the country code, without blanks, like "+4930123456"'),
    AfterValidator(_possible),
    _CANONICAL_PHONE,
    Trimmed(),
]
Email = Annotated[
    str,
    Field(max_length=EMAIL_MAX, pattern=_EMAIL),
    Said(f'send one address of up to {EMAIL_MAX} characters, like "ada@example.com"'),
    AfterValidator(str.lower),
    _CANONICAL_EMAIL,
    Trimmed(),
]
CardNumber = Annotated[
    str, Field(pattern=r"^[0-9A-Za-z-]{4,64}$"), Said("send 4 to 64 letters, digits and hyphens"), Trimmed()
]
Locale = Annotated[
    str,
    Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"),
    Said('send a language tag (BCP 47), like "de-DE"'),
    Trimmed(),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), Said('send the three letters of ISO 4217, like "EUR"')]
