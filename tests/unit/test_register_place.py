"""Which shard keeps the receipts of stores whose region is not there: no claim that moves changes it."""

from hashlib import blake2b
from typing import Any

from cluster.receipts import keeper_in, without_region
from shard_router.topology import Topology, TopologyDocument

STORES = [f"store-{number}" for number in range(200)]


def topology(*names: str, **more: Any) -> Topology:
    numbers = {"eu": 1, "us": 2, "ap": 3, "sa": 4}
    content = {
        "epoch": 1,
        "regions": {name: {"number": numbers[name], "command": [], "query": []} for name in names},
        "shards": {
            f"{name}-1": {"region": name, "slots": [[0, 4095]], "servers": [], "valkey": "redis://x"} for name in names
        },
        "claims": ["eu", "us"],
    }
    return Topology(TopologyDocument.model_validate(content | more))


def places(of: Topology, region: str = "mars") -> dict[str, str]:
    return {store: of.register_of(region, store) for store in STORES}


def test_receipts_stay_where_they_were_when_claims_move() -> None:
    before = topology("eu", "us", "ap")
    assert places(before) == {
        store: before.claim_shards[before.claim_slot(blake2b(store.encode(), digest_size=8).digest())]
        for store in STORES
    }
    assert places(topology("eu", "us", "ap", claim_slots={"ap-1": [[0, 8191]]})) == places(before)
    assert places(topology("eu", "us", "ap", "sa", claim_slots={"ap-1": [[0, 8191]]})) == places(before)


def test_when_a_region_goes_only_its_own_stores_fall_to_another() -> None:
    moved = {"claim_slots": {"ap-1": [[0, 8191]]}}
    before, after = places(topology("eu", "us", "ap", **moved)), places(topology("us", "ap", **moved))
    assert set(before.values()) == {"eu-1", "us-1"}
    assert after == dict.fromkeys(STORES, "us-1")
    assert places(topology("us", "ap", **moved), "eu") == after
    assert set(places(topology("ap", "sa", **moved)).values()) == {"ap-1"}


def test_who_gets_the_receipts_of_a_region_that_goes_is_who_keeps_them_then() -> None:
    moved = {"claim_slots": {"us-1": [[0, 8191]]}}
    rest = topology("us", "ap", "sa", **moved)
    keeper_of = keeper_in(without_region(topology("eu", "us", "ap", "sa", **moved), "eu"), None, "eu")
    for region in ("eu", "mars"):
        assert {store: keeper_of(store)[1] for store in STORES} == places(rest, region)
