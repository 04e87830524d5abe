"""What `loyalty status` makes of what the system says of itself."""

from typing import Any

from cluster.overview import warnings_of
from query.system_shape import System


def system(state: str, **server: Any) -> System:
    seen = {"address": "10.0.0.5:5432", "reachable": True, "role": "primary", **server}
    shard = {"slots": [], "claim_slots": [], "valkey": "10.0.0.7:6379", "servers": [seen], "projector": None}
    region = {"state": state, "reachable": True, "why": None, "as_of": None, "age_ms": 1, "share": None, "nodes": []}
    regions = {"sa": {**region, "shards": {"sa-1": shard}}}
    return System.model_validate({"region": "sa", "epoch": 1, "regions": regions})


def test_of_a_region_that_is_to_go_it_tells_what_it_waits_for() -> None:
    kept = ["holds members: it goes only when nobody ever lived there"]
    assert warnings_of(system("draining", hinders=kept)) == [
        "sa is draining and cannot be removed: sa-1 holds members: it goes only when nobody ever lived there"
    ]
    assert warnings_of(system("draining", hinders=[])) == []
    assert warnings_of(system("active", hinders=kept)) == []


def test_a_shard_that_claims_no_receipts_is_told_of_whatever_its_region_does() -> None:
    (words,) = warnings_of(system("active", hinders=[], receipts_fenced=True))
    assert words.startswith("sa-1 claims no receipts, as its removal has begun: `loyalty region remove sa` goes on")
    assert warnings_of(system("active", receipts_fenced=False)) == []
