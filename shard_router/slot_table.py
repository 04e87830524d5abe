"""Which shard has each slot: a table to look up in, and ranges as documents write it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from shard_router.errors import TopologyError

Ranges = Mapping[str, Sequence[tuple[int, int]]]
"""Shards, and the slots of each as ranges (first, last)."""


def table_of(ranges: Ranges, count: int, *, called: str) -> list[str]:
    """The shard of every slot; TopologyError unless each has exactly one. `called` is what `{}` is named in it."""
    table = [""] * count
    for shard, pairs in ranges.items():
        for first, last in pairs:
            if not 0 <= first <= last < count:
                raise TopologyError(f"shard {shard}: there is no {called.format(f'{first}-{last}')}")
            for slot in range(first, last + 1):
                if table[slot]:
                    raise TopologyError(f"{called.format(slot)} belongs to {table[slot]} and {shard}")
                table[slot] = shard
    if "" in table:
        raise TopologyError(f"{called.format(table.index(''))} belongs to no shard")
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
