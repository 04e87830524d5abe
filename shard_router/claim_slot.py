"""Virtual claim slots: what an identifier's claim is bound to, so that claims move between shards like any data.

Their number is fixed at the birth of a system: as many as its first regions had slots. A hash names a slot for ever;
the topology maps slots to shards. As long as none has moved, a claim lies where versions before looked for it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from shard_router.errors import TopologyError
from shard_router.member_id import SLOT_COUNT

Ranges = Mapping[str, Sequence[tuple[int, int]]]
"""Shards, and the slots of each as ranges (first, last)."""


def claim_slot(digest: bytes, count: int) -> int:
    """The slot of a hash of eight bytes: its first half picks one of the first regions, the rest a slot of it."""
    regions = count // SLOT_COUNT
    place = int.from_bytes(digest[:4], "big") % regions
    return place * SLOT_COUNT + int.from_bytes(digest[4:8], "big") % SLOT_COUNT


def table_of(ranges: Ranges, count: int) -> list[str]:
    """The shard of every slot; TopologyError unless each has exactly one."""
    table = [""] * count
    for shard, pairs in ranges.items():
        for first, last in pairs:
            if not 0 <= first <= last < count:
                raise TopologyError(f"claim_slots: {shard} has no slots {first}-{last}, there are {count}")
            for slot in range(first, last + 1):
                if table[slot]:
                    raise TopologyError(f"claim_slots: slot {slot} is that of {table[slot]} and {shard}")
                table[slot] = shard
    if "" in table:
        raise TopologyError(f"claim_slots: slot {table.index('')} is that of no shard")
    return table


def ranges_of(table: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    """The same as `table_of` takes it: as few ranges as there can be."""
    ranges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for slot, shard in enumerate(table):
        found = ranges[shard]
        if found and found[-1][1] == slot - 1:
            found[-1] = (found[-1][0], slot)
        else:
            found.append((slot, slot))
    return dict(ranges)
