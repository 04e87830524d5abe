"""Member ids: 63 bits that name region and slot, so that routing needs no look-up.

    region number (6 bits) | slot (12 bits) | unique part (45 random bits)

The text form is 13 Crockford base-32 digits and a check digit by the Damm algorithm over GF(32),
which catches every single wrong digit and every swap of two neighbours. What an entry creates
(purchase, hold, ...) is named by member and version, so it routes by itself as well.
"""

import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from shard_router.errors import MalformedIdError

SLOT_COUNT: Final = 4096
REGION_NUMBER_MAX: Final = 63
_UNIQUE_BITS: Final = 45
_SLOT_BITS: Final = 12
_DIGITS: Final = 13
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_GF32_MODULUS: Final = 0b100101  # x^5 + x^2 + 1
_DOUBLED: Final = [value << 1 if value < 16 else value << 1 ^ _GF32_MODULUS for value in range(32)]  # noqa: PLR2004
# Two digits at a time where an id is written: their text, and the check behind them.
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
_PAIR_CHECKS: Final = [_DOUBLED[_DOUBLED[first] ^ second] for first in range(32) for second in range(32)]
_PAIR_SHIFTS: Final = range(50, -1, -10)
_NO_DIGIT: Final = 0xFF
# For bytes.translate, because every request parses an id: character to value, and value to what int(..., 32) reads.
_HOME_DIGITS: Final = 4  # 13 digits are 65 bits: before the unique part stand just four
_VALUES: Final = bytes(_ALPHABET.find(chr(byte).upper()) & 0xFF if byte < 0x80 else _NO_DIGIT for byte in range(256))  # noqa: PLR2004
_PYTHON_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv".ljust(256, b"!")
_TEXTS_KEPT: Final = 4096  # a command writes its member's id four times, an item of a list twice
_VERSION_DIGITS_MAX: Final = 16
_VERSION_MAX: Final = 2**53 - 1  # what JSON readers and Valkey hold exactly


class Reference(NamedTuple):
    """What an entry created: `kind` is the prefix, (member_id, version) the entry."""

    kind: str
    member_id: int
    version: int


def new_member_id(region_number: int, slot: int) -> int:
    """A fresh id in a slot of a region; the unique part comes from the system's random source."""
    return compose_member_id(region_number, slot=slot, unique=secrets.randbits(_UNIQUE_BITS))


def compose_member_id(region_number: int, *, slot: int, unique: int) -> int:
    """The id of its three parts; ValueError when one is out of range."""
    if not (0 < region_number <= REGION_NUMBER_MAX and 0 <= slot < SLOT_COUNT and 0 <= unique < 1 << _UNIQUE_BITS):
        raise ValueError(f"no member id of region {region_number}, slot {slot}, unique {unique}")
    return (region_number << _SLOT_BITS | slot) << _UNIQUE_BITS | unique


def region_number_of(member_id: int) -> int:
    """The region number in an id."""
    return member_id >> _UNIQUE_BITS + _SLOT_BITS


def slot_of(member_id: int) -> int:
    """The slot in an id, 0 to 4,095."""
    return member_id >> _UNIQUE_BITS & SLOT_COUNT - 1


@lru_cache(_TEXTS_KEPT)
def format_member_id(member_id: int) -> str:
    """The text form, 14 characters."""
    first = member_id >> 60 & 31
    text, check = _ALPHABET[first], _DOUBLED[first]
    for shift in _PAIR_SHIFTS:
        pair = member_id >> shift & 1023
        text += _PAIRS[pair]
        check = _PAIR_CHECKS[check << 5 ^ pair]
    return text + _ALPHABET[check]


def parse_member_id(text: str) -> int:
    """The id of a text form, in either case; MalformedIdError when a character is wrong or swapped."""
    digits = text.encode(errors="replace").translate(_VALUES)
    if len(digits) != _DIGITS + 1 or _NO_DIGIT in digits or _damm(digits):
        raise MalformedIdError(text)
    value = int(digits[:-1].translate(_PYTHON_DIGITS), len(_ALPHABET))
    if not 0 < region_number_of(value) <= REGION_NUMBER_MAX:
        raise MalformedIdError(text)
    return value


def home_shown(text: bytes) -> tuple[int, int]:
    """Region number and slot that an id begins with, its check digit not looked at; ValueError for other characters."""
    value = int(text[:_HOME_DIGITS].translate(_VALUES).translate(_PYTHON_DIGITS), len(_ALPHABET))
    return value >> _SLOT_BITS, value & SLOT_COUNT - 1


def canonical_id(text: str) -> str:
    """An id or a reference in its one form: its member may be written in small letters as well."""
    prefix, mark, rest = text.rpartition("_")
    return f"{prefix}{mark}{rest.upper()}"


def format_reference(kind: str, member_id: int, version: int) -> str:
    """`<kind>_<member>-<version>`, for example `pur_04G0000000000X-7`."""
    return f"{kind}_{format_member_id(member_id)}-{version}"


def parse_reference(kind: str, text: str) -> Reference:
    """Member and version of a reference of that kind; MalformedIdError otherwise."""
    prefix, _, rest = text.partition("_")
    member, _, version = rest.partition("-")
    if prefix != kind or version[:1] == "0":
        raise MalformedIdError(text)
    return Reference(kind, parse_member_id(member), parse_version(version))


def parse_version(text: str) -> int:
    """A member's version in digits; MalformedIdError otherwise, and for one that no member can have."""
    digits = text.isascii() and text.isdigit() and len(text) <= _VERSION_DIGITS_MAX
    if not digits or int(text) > _VERSION_MAX:
        raise MalformedIdError(text)
    return int(text)


def _damm(digits: Iterable[int]) -> int:
    """Run the Damm check (Total anti-symmetrische Quasigruppen, 2004) with x * y = 2(x + y) in GF(32): 0 when right."""
    check = 0
    for digit in digits:
        check = _DOUBLED[check ^ digit]
    return check
