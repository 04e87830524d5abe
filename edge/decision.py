"""To which regions a request goes, the best first: one pure function, which every renderer follows.

The home of the member it names (in the path or in the header `Loyalty-Member`), because there it needs no hop. Else the
region nearest to the client's country. Else the region nearest to the door. Behind each stand the others by distance.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from edge.geography import REGIONS, Geography, Place, is_on_earth
from edge.prefix import card_pattern, member_pattern, path_pattern
from shard_router.topology import TopologyDocument

MEMBER_HEADER: Final = "loyalty-member"
READING_METHODS: Final = ("GET", "HEAD", "OPTIONS")
QUERY_POSTS: Final = ("/v1/evaluations", "/v1/stream-tickets")
"""Calls that are posted to query nodes; every other call that does not read is a command."""

DOCUMENT: Final = "/openapi.json"
COMMANDS_DOCUMENT: Final = "/commands/openapi.json"
"""A command node's `DOCUMENT` by the door's own name for it: by its own it is a query node's, as all that is read."""

PAGES: Final = ("/", "/docs")
"""What shows the API to people: asked through a door it shows both sides."""

ON_BOTH_SIDES: Final = {"/v1/members/[^/]+": ("DELETE", "GET", "HEAD")}
"""Resources with methods on either side, and all of these: a node knows its own, so the door itself refuses others."""

LOOKUP: Final = "/v1/lookup"
WHOLE: Final = 100

Side = Literal["command", "query"]
Why = Literal["member", "country", "nearest"]
SIDES: Final[tuple[Side, ...]] = ("command", "query")


class EdgeError(Exception):
    """A door that cannot be made; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Regions in the order in which they are tried, and what the first was chosen by."""

    regions: tuple[str, ...]
    why: Why


@dataclass(frozen=True, slots=True)
class Door:
    """The regions of a system as the door sees them. `nearest` is the region the door itself stands in.

    `shares` are percent of its own traffic that a region takes (all, where none is named); the next region takes the
    rest. A region whose share is 0 is evacuated: it takes nothing while another can.
    """

    topology: TopologyDocument
    geography: Geography
    nearest: str
    shares: Mapping[str, int] = field(default_factory=dict[str, int])

    def decide(self, path: str, member: str | None = None, country: str | None = None) -> Choice:
        """The order of regions for a request: its path and query, its `Loyalty-Member`, its client's country."""
        if path.partition("?")[0] in (*PAGES, COMMANDS_DOCUMENT):  # the same everywhere
            return Choice(self.order(self.nearest), "nearest")
        if home := self._home(path, member):
            return Choice(self.order(home), "member")
        if near := self.geography.nearest_to(country) if country else None:
            return Choice(self.order(near), "country")
        return Choice(self.order(self.nearest), "nearest")

    def order(self, first: str) -> tuple[str, ...]:
        """A region and the others by their distance from it; those that are evacuated behind all others."""
        return tuple(sorted(self.geography.from_region(first), key=lambda region: self.share(region) == 0))

    def share(self, region: str) -> int:
        """Percent of its own traffic that a region takes."""
        return self.shares.get(region, WHOLE)

    def numbers(self) -> dict[str, int]:
        """The number of each region, which its ids and cards carry."""
        return {name: region.number for name, region in self.topology.regions.items()}

    def _home(self, path: str, member: str | None) -> str | None:
        """The home of the member that a request names: by its path, else by a card it looks up, else by its header."""
        bare, _, query = path.partition("?")
        card = _first_value(query, "card") if bare == LOOKUP else ""
        for names, pattern in ((bare, path_pattern), (card, card_pattern), (member or "", member_pattern)):
            for region, number in self.numbers().items():
                if re.fullmatch(pattern(number), names):
                    return region
        return None


def _first_value(query: str, name: str) -> str:
    """The first value of a query parameter as it was sent: a card needs no escapes, and a door undoes none."""
    return next((pair.partition("=")[2] for pair in query.split("&") if pair.partition("=")[0] == name), "")


def side_of(method: str, path: str) -> Side:
    """Whether a call is a command or a query."""
    bare = path.partition("?")[0]
    reads = method in READING_METHODS or bare in (*QUERY_POSTS, *PAGES)
    return "query" if reads and bare != COMMANDS_DOCUMENT else "command"


def methods_instead(method: str, path: str) -> tuple[str, ...] | None:
    """The methods of a resource on both sides that has no such one; None where a node is asked."""
    for pattern, methods in ON_BOTH_SIDES.items():
        if method not in methods and re.fullmatch(pattern, path.partition("?")[0]):
            return methods
    return None


def make_door(
    topology: TopologyDocument,
    *,
    nearest: str | None = None,
    places: Mapping[str, Place] | None = None,
    evacuated: Iterable[str] = (),
    shares: Mapping[str, int] | None = None,
) -> Door:
    """The door of a topology; EdgeError for a region whose place nobody knows, an unknown name, or no percent."""
    known = {**REGIONS, **(places or {})}
    if not topology.regions:
        raise EdgeError("the topology has no region")
    if missing := [name for name in topology.regions if name not in known]:
        raise EdgeError(f"where is region {missing[0]}? Give its latitude and longitude (--place {missing[0]}=LAT,LON)")
    parts = {**(shares or {}), **dict.fromkeys(evacuated, 0)}
    for name in (*sorted(parts), *(places or {}), *([nearest] if nearest else [])):
        if name not in topology.regions:
            raise EdgeError(f"there is no region {name}")
    if lost := [name for name, place in (places or {}).items() if not is_on_earth(place)]:
        raise EdgeError(f"region {lost[0]} lies at -90 to 90 degrees north and -180 to 180 east")
    if wrong := [name for name, percent in parts.items() if not 0 <= percent <= WHOLE]:
        raise EdgeError(f"the share of region {wrong[0]} is 0 to 100 percent")
    if not any(parts.get(name, WHOLE) for name in topology.regions):
        raise EdgeError("a door needs a region that is not evacuated")
    geography = Geography({name: known[name] for name in topology.regions})
    return Door(topology, geography, nearest or next(iter(topology.regions)), parts)
