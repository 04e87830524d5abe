"""Versions of a member: the place of an entry in the member's journal, and above it the incarnation of the shard.

A restore begins a new incarnation of its shard. Entries that follow carry its number, so that no version is ever given
twice: what the lost future gave (tokens, ETags, ids, views) names nothing else. Numbers of incarnations grow, and so
versions grow as well.
"""

from typing import Final

SPAN: Final = 10**7
"""Entries a member can have."""
VERSION_MAX: Final = 2**53 - 1
"""What JSON readers and Valkey's scores hold exactly; incarnations are seconds, see shard_router.incarnation."""


def next_version(version: int, incarnation: int) -> int:
    """The version of the entry after `version` (0: the first entry), written in an incarnation of the shard."""
    return max(incarnation_of(version), incarnation) * SPAN + place_of(version) + 1


def incarnation_of(version: int) -> int:
    """The incarnation an entry was written in."""
    return version // SPAN


def place_of(version: int) -> int:
    """The how-manieth entry of its member it is."""
    return version % SPAN


def follows(version: int, before: int) -> bool:
    """Whether a version can be the next after another."""
    return place_of(version) == place_of(before) + 1 and incarnation_of(version) >= incarnation_of(before)


def includes(seen: int, demanded: int) -> bool:
    """Whether who saw a version certainly saw the other (0: none is demanded).

    Within an incarnation nothing is lost; across one only the journal can tell.
    """
    return not demanded or (seen >= demanded and incarnation_of(seen) == incarnation_of(demanded))
