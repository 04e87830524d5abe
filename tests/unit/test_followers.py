"""Which standbys are provably of the shard: those that stream from its one primary."""

import pytest

from cdc.servers import Seen, followers

PRIMARY = {"standby": False, "timeline": 3}
STANDBY = {"standby": True, "timeline": 2}


def seen(server: str, row: object, *, has_slot: bool = False, streams: int | None = None) -> Seen:
    return Seen(server, "", row, url=server, has_slot=has_slot, streams=streams)


CASES = {
    "a standby that streams from the primary": ([seen("a", PRIMARY, has_slot=True)], 3, True),
    "one of another timeline": ([seen("a", PRIMARY, has_slot=True)], 2, False),
    "one that receives from nobody, as a back-up that recovers": ([seen("a", PRIMARY, has_slot=True)], None, False),
    "one whose primary was restored and has no slot yet": ([seen("a", PRIMARY)], 3, False),
    "one whose primary does not answer": ([seen("a", None)], 3, False),
    "one beside two primaries": ([seen("a", PRIMARY, has_slot=True), seen("c", PRIMARY, has_slot=True)], 3, False),
}


@pytest.mark.parametrize("name", CASES)
def test_only_a_standby_of_the_one_primary_with_the_slot_is_proven(name: str) -> None:
    others, streams, expected = CASES[name]
    standby = seen("b", STANDBY, streams=streams)
    assert followers([*others, standby]) == ([standby] if expected else [])
