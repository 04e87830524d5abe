"""Claim slots shared out among shards: evenly, and no more move than must."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shard_router.claim_slot import shared_out

SHARDS = st.sampled_from(["a", "b", "c", "d"])


@settings(deadline=None)
@given(table=st.lists(SHARDS, min_size=1, max_size=60), shards=st.sets(SHARDS, min_size=1))
def test_slots_are_shared_out_evenly_and_no_more_move_than_must(table: list[str], shards: set[str]) -> None:
    names = sorted(shards)
    wanted = shared_out(table, names)
    kept = [wanted.count(name) for name in names]
    assert (sum(kept), max(kept) - min(kept) <= 1) == (len(table), True)
    assert shared_out(wanted, names) == wanted
    before = sorted((table.count(name) for name in names), reverse=True)
    share, more = divmod(len(table), len(names))
    stay = sum(min(have, share + (rank < more)) for rank, have in enumerate(before))
    assert sum(one != other for one, other in zip(table, wanted, strict=True)) == len(table) - stay
