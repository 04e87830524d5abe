"""Which shard keeps the receipts of stores whose region is not there: no claim that moves changes it."""

from hashlib import blake2b
from typing import Any

from cluster.receipts import keepers_after
from rules.program import Program, parse_program
from shard_router.topology import Topology, TopologyDocument
from tests.command_node import PROGRAM

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


def program(region: str) -> Program:
    stores = [f'[[stores]]\ncode = "{store}"\nname = "A store"\nregion = "{region}"\n' for store in STORES]
    return parse_program(PROGRAM + "".join(stores), 1)


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
    before = topology("eu", "us", "ap", "sa", **moved)
    keepers_of = keepers_after(before, "eu-1", [])
    assert {store: [*keepers_of(store)] for store in STORES} == {
        store: [to] for store, to in places(rest, "eu").items()
    }
    on_mars = keepers_after(before, "eu-1", [program("mars")])
    of_eu = {store for store, keeper in places(before).items() if keeper == "eu-1"}
    assert {store: dict(on_mars(store)) for store in STORES} == {
        store: {to: "mars"} if store in of_eu else {} for store, to in places(rest).items()
    }


def test_a_store_is_of_each_region_that_it_had_while_a_till_may_send_its_receipts() -> None:
    """Before a region goes the program gives its stores to another: what they sold before is claimed as ever."""
    before = topology("eu", "us", "ap", "sa", claim_slots={"us-1": [[0, 8191]]})
    keepers_of = keepers_after(before, "eu-1", [program("eu"), program("sa")])
    stands_in = places(topology("us", "ap", "sa", claim_slots={"us-1": [[0, 8191]]}), "eu")
    assert {store: dict(keepers_of(store)) for store in STORES} == {store: {stands_in[store]: "eu"} for store in STORES}


def test_what_a_shard_kept_for_a_region_that_has_joined_since_is_not_handed_over() -> None:
    before = topology("eu", "us", "ap", claim_slots={"ap-1": [[0, 8191]]})
    keepers_of = keepers_after(before, "us-1", [program("ap")])
    assert not any(keepers_of(store) for store in STORES)
