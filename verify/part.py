"""The members of a shard in parts, by their ids, so that several processes share its work.

Ids are spread evenly over slots, and what is no id of the shard lies in the first or in the last part: each row under a
member id is in exactly one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from shard_router.member_id import compose_member_id
from shard_router.topology import Topology

PARTS: Final = 4
"""As many for any machine, so that what one has seen is of use on another; enough that a few cores end together."""
_FIRST, _LAST = -(2**63), 2**63 - 1


class Part(NamedTuple):
    """Member ids from `first` to `last`."""

    number: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What is to be checked of a shard: those who changed since the run that `known` tells of, or `every` member."""

    shard: str
    topology: Topology
    known: Path | None = None
    every: bool = True

    def parts(self) -> list[Part]:
        """The members of the shard in parts."""
        place = self.topology.document.shards[self.shard]
        number = self.topology.document.regions[place.region].number
        slots = [slot for first, last in sorted(place.slots) for slot in range(first, last + 1)]
        begins = sorted({slots[len(slots) * part // PARTS] for part in range(1, PARTS)} if slots else ())
        firsts = [_FIRST, *(compose_member_id(number, slot=slot, unique=0) for slot in begins)]
        lasts = [*(first - 1 for first in firsts[1:]), _LAST]
        return [Part(*one) for one in zip(range(len(firsts)), firsts, lasts, strict=True)]

    def known_of(self, part: Part) -> Path | None:
        """The file that tells of a part."""
        return self.known and self.known.with_name(f"{self.known.name}.{part.number}")

    @property
    def known_views(self) -> Path | None:
        """The file that tells of the shard's views."""
        return self.known and self.known.with_name(f"{self.known.name}.views")
