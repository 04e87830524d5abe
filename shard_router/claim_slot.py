"""Virtual claim slots: what an identifier's claim is bound to, so that claims move between shards like any data.

Their number is fixed at the birth of a system: as many as its first regions had slots. A hash names a slot for ever;
the topology maps slots to shards. As long as none has moved, a claim lies where versions before looked for it.
"""

from shard_router.member_id import SLOT_COUNT


def claim_slot(digest: bytes, count: int) -> int:
    """The slot of a hash of eight bytes: its first half picks one of the first regions, the rest a slot of it."""
    regions = count // SLOT_COUNT
    place = int.from_bytes(digest[:4], "big") % regions
    return place * SLOT_COUNT + int.from_bytes(digest[4:8], "big") % SLOT_COUNT
