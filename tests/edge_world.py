"""Three regions before a door, and what names their members."""

from collections.abc import Mapping, Sequence

from edge.decision import Door, make_door
from shard_router.card import compose_card
from shard_router.member_id import compose_member_id, format_member_id
from shard_router.topology import TopologyDocument

NUMBERS = {"eu": 1, "us": 2, "ap": 3}
NODE = "http://127.0.0.1:1"

Urls = Mapping[tuple[str, str], str]


def topology(urls: Urls | None = None, regions: Sequence[str] = ("eu", "us", "ap")) -> TopologyDocument:
    """A document with one node for each side of each region; `urls` by region and side."""
    found = urls or {}
    sides = ("command", "query")
    rows = {
        name: {"number": NUMBERS[name], **{side: [found.get((name, side), NODE)] for side in sides}} for name in regions
    }
    return TopologyDocument.model_validate({"epoch": 1, "regions": rows, "shards": {}})


def three_regions(*, evacuated: Sequence[str] = (), nearest: str | None = None) -> Door:
    return make_door(topology(), nearest=nearest, evacuated=evacuated)


def member_of(region: str, slot: int = 77, unique: int = 12_345) -> str:
    return format_member_id(compose_member_id(NUMBERS[region], slot=slot, unique=unique))


def card_of(region: str, slot: int = 77) -> str:
    return compose_card(NUMBERS[region], slot=slot, unique=123_456_789)
