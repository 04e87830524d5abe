"""Card numbers: 19 digits that carry the same routing prefix as a member id, and a Luhn digit.

region number (2) | slot (4) | unique part (12 random digits) | Luhn digit (ISO/IEC 7812-1)
"""

import secrets
from typing import Final

from shard_router.errors import MalformedIdError
from shard_router.member_id import REGION_NUMBER_MAX, SLOT_COUNT

CARD_DIGITS: Final = 19
_UNIQUE_DIGITS: Final = 12


def new_card(region_number: int, slot: int) -> str:
    """A fresh card number of a slot."""
    return compose_card(region_number, slot=slot, unique=secrets.randbelow(10**_UNIQUE_DIGITS))


def compose_card(region_number: int, *, slot: int, unique: int) -> str:
    """The card number of its three parts."""
    body = f"{region_number:02d}{slot:04d}{unique:012d}"
    return body + luhn_digit(body)


def parse_card(text: str) -> tuple[int, int]:
    """Region number and slot of a card of ours; MalformedIdError when it is none."""
    if len(text) != CARD_DIGITS or not (text.isascii() and text.isdigit()) or luhn_digit(text[:-1]) != text[-1]:
        raise MalformedIdError(text)
    region_number, slot = int(text[:2]), int(text[2:6])
    if not 0 < region_number <= REGION_NUMBER_MAX or slot >= SLOT_COUNT:
        raise MalformedIdError(text)
    return region_number, slot


def luhn_digit(body: str) -> str:
    """The check digit for a string of digits (ISO/IEC 7812-1, annex B)."""
    total = 0
    for position, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if position % 2 == 0 else 1)
        total += value - 9 if value > 9 else value  # noqa: PLR2004 - the sum of the two decimal digits
    return str(-total % 10)
