"""Virtual claim slots: what an identifier's claim is bound to, so that claims move between shards like any data.

Their number is fixed at the birth of a system: as many as its first regions had slots. A hash names a slot for ever;
the topology maps slots to shards. As long as none has moved, a claim lies where versions before looked for it.
"""

from collections import Counter
from collections.abc import Sequence

from shard_router.member_id import SLOT_COUNT


def claim_slot(digest: bytes, count: int) -> int:
    """The slot of a hash of eight bytes: its first half picks one of the first regions, the rest a slot of it."""
    regions = count // SLOT_COUNT
    place = int.from_bytes(digest[:4], "big") % regions
    return place * SLOT_COUNT + int.from_bytes(digest[4:8], "big") % SLOT_COUNT


def shared_out(table: Sequence[str], shards: Sequence[str]) -> list[str]:
    """Who is to keep each slot, so that these shards keep as many each, one more or less, by as few moves as can be."""
    kept = Counter(table)
    most_first = sorted(shards, key=lambda shard: -kept[shard])
    fewest, more = divmod(len(table), len(shards))
    due = {shard: fewest + (rank < more) for rank, shard in enumerate(most_first)}
    wanted = list(table)
    to_go: list[int] = []
    for slot, shard in enumerate(table):
        if due.get(shard, 0):
            due[shard] -= 1
        else:
            to_go.append(slot)
    takers = [shard for shard in shards for _ in range(due[shard])]
    for slot, shard in zip(to_go, takers, strict=True):
        wanted[slot] = shard
    return wanted
