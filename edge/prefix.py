"""What the ids and cards of a region begin with, made from their codecs: the door routes by it without a look-up.

Patterns tell regions apart, not right ids from wrong ones: the node that is asked checks the digits.
"""

import re
from functools import cache
from typing import Final

from shard_router.card import CARD_DIGITS, compose_card
from shard_router.member_id import SLOT_COUNT, compose_member_id, format_member_id

_PREFIX_LENGTH: Final = 2
_UNIQUE_LAST: Final = (1 << 45) - 1
_ID_LENGTH: Final = len(format_member_id(compose_member_id(1, slot=0, unique=0)))
REFERENCES: Final = {"purchases": "pur", "holds": "hld", "redemptions": "red"}
"""Paths of what an entry created, and the kind of reference they carry: its member and version."""


@cache
def id_prefixes(region_number: int) -> tuple[str, ...]:
    """The first two characters that member ids of a region may have, in their capital form."""
    found: dict[str, None] = {}
    for slot in range(SLOT_COUNT):
        for unique in (0, _UNIQUE_LAST):
            text = format_member_id(compose_member_id(region_number, slot=slot, unique=unique))
            found[text[:_PREFIX_LENGTH]] = None
    return tuple(found)


def card_prefix(region_number: int) -> str:
    """The first two digits of the cards of a region."""
    return compose_card(region_number, slot=0, unique=0)[:_PREFIX_LENGTH]


def id_pattern(region_number: int) -> str:
    """A regular expression (RE2 and Python) for ids of a region's members, in either case."""
    prefixes = "|".join(map(_either_case, id_prefixes(region_number)))
    return rf"(?:{prefixes})[0-9A-Za-z]{{{_ID_LENGTH - _PREFIX_LENGTH}}}"


def card_pattern(region_number: int) -> str:
    """The same for the cards of a region."""
    return rf"{card_prefix(region_number)}[0-9]{{{CARD_DIGITS - _PREFIX_LENGTH}}}"


def member_pattern(region_number: int) -> str:
    """The same for an id or a card."""
    return rf"(?:{id_pattern(region_number)}|{card_pattern(region_number)})"


def path_pattern(region_number: int) -> str:
    """The same for whole paths that name a member of a region, or what an entry of theirs created."""
    member = id_pattern(region_number)
    kinds = "|".join(f"{collection}/{kind}_" for collection, kind in REFERENCES.items())
    return rf"/v1/(?:members/{member}|(?:{kinds}){member}-[0-9]+)(?:/[^?]*)?"


def events_pattern(region_number: int) -> str:
    """The same for the event streams of a region's members, which last."""
    return rf"/v1/members/{id_pattern(region_number)}/events"


def path_prefixes(region_number: int) -> tuple[str, ...]:
    """What those paths begin with, in small letters, for doors that know no regular expressions."""
    starts = ("members/", *(f"{collection}/{kind}_" for collection, kind in REFERENCES.items()))
    return tuple(f"/v1/{start}{prefix.lower()}" for start in starts for prefix in id_prefixes(region_number))


def _either_case(prefix: str) -> str:
    return "".join(char if char.isdigit() else f"[{char}{char.lower()}]" for char in map(re.escape, prefix))
