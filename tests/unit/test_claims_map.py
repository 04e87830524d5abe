"""Where claims lie is what it was, whatever joins; slots move one by one, and what keeps some cannot go."""

import json
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.document import Documents, plan_of, write_claim_slots, write_documents, write_shards, write_topology
from cluster.errors import ClusterError
from cluster.plan import ClusterPlan, plan_shard
from shard_router.errors import TopologyError
from shard_router.slot_table import ranges_of, table_of
from shard_router.topology import TopologyDocument, parse_topology, read_topology


def content(*names: str, **slots: list[list[int]]) -> dict[str, Any]:
    shards = {f"{name}-1": (name, [[0, 4095]]) for name in names} | {
        shard: (shard.partition("-")[0], ranges) for shard, ranges in slots.items()
    }
    return {
        "regions": {name: {"number": number, "command": [], "query": []} for number, name in enumerate(names, 1)},
        "shards": {
            shard: {"region": region, "slots": ranges, "servers": [], "valkey": "redis://x"}
            for shard, (region, ranges) in shards.items()
        },
    }


def test_a_later_region_keeps_no_claims_and_an_early_one_must_stay(tmp_path: Path) -> None:
    file = tmp_path / "topology.json"
    write_topology(file, content("eu", "us"))
    write_topology(file, content("eu", "us", "ap"))
    topology = read_topology(file)
    assert (topology.epoch, set(topology.claim_shards), len(topology.claim_shards)) == (2, {"eu-1", "us-1"}, 8192)
    with pytest.raises(ClusterError, match="must stay"):
        write_topology(file, content("eu", "ap"))
    assert read_topology(file).epoch == 2


def test_a_claim_lies_where_versions_before_looked_for_it(tmp_path: Path) -> None:
    """Their rule: the first half of the hash picks a region of the first start, the rest a slot of it."""
    file = tmp_path / "topology.json"
    halves = {"eu-1": [[0, 2047]], "eu-2": [[2048, 4095]]}
    write_topology(file, content("eu", "us", "ap", **halves))
    assert "claim_slots" not in json.loads(file.read_text())  # they can read it, too
    topology = read_topology(file)
    regions = topology.document.claims
    for number in range(1000):
        digest = blake2b(str(number).encode(), digest_size=8).digest()
        region = regions[int.from_bytes(digest[:4], "big") % len(regions)]
        before = topology.shard_at(topology.document.regions[region].number, int.from_bytes(digest[4:], "big") % 4096)
        assert topology.claim_shards[topology.claim_slot(digest)] == before


def test_claims_that_moved_stay_there_and_their_first_region_may_go(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    write_topology(documents.topology, content("eu", "us"))
    table = read_topology(documents.topology).claim_shards
    write_claim_slots(documents, ["us-1" for _ in table])
    assert (read_topology(documents.topology).epoch, json.loads(documents.topology.read_text())["claim_slots"]) == (
        2, {"us-1": [[0, 8191]]},
    )  # fmt: skip
    write_claim_slots(documents, ["us-1" for _ in table])
    only = content("eu", "us")
    del only["regions"]["eu"], only["shards"]["eu-1"]
    write_topology(documents.topology, only)
    topology = read_topology(documents.topology)
    assert (topology.epoch, set(topology.claim_shards), topology.document.claims) == (3, {"us-1"}, ["eu", "us"])


def test_a_shard_that_was_added_stays_with_its_slots_and_moves_no_claim(tmp_path: Path) -> None:
    """The settings know nothing of it; the topology does, and the folder of its servers is there."""
    documents = Documents(tmp_path)
    flags = {"door": False, "data": tmp_path, "regions": "eu"}
    write_documents(plan_of(flags))
    assert {"receipts", "state"}.isdisjoint(json.loads(documents.topology.read_text())["shards"]["eu-1"])
    grown = _grown(plan_of(flags))
    write_documents(grown)
    write_shards(documents, {"eu-1": {"slots": [[0, 99]]}, "eu-2": {"slots": [[100, 4095]], "state": "active"}})
    topology = read_topology(documents.topology)
    assert (topology.epoch, topology.shard_at(1, 100), set(topology.claim_shards)) == (3, "eu-2", {"eu-1"})
    with pytest.raises(ClusterError, match="eu-2 has members"):
        plan_of(flags)
    (tmp_path / "servers" / "eu-2").mkdir(parents=True)
    again = plan_of(flags)
    assert [(shard.name, shard.slots, shard.receipts) for shard in again.shards] == [
        ("eu-1", ((0, 99),), ((0, 4095),)), ("eu-2", ((100, 4095),), ()),
    ]  # fmt: skip
    assert again.shards[1] == replace(grown.shards[1], slots=((100, 4095),), state="active")
    write_documents(again)
    assert read_topology(documents.topology).epoch == 3


def _grown(plan: ClusterPlan) -> ClusterPlan:
    """With a second shard that has no slots yet, as it joins."""
    (region,) = plan.regions
    first = replace(region.shards[0], receipts=((0, 4095),))
    return replace(plan, regions=(replace(region, shards=(first, plan_shard(plan, region, "eu-2"))),))


def test_a_shard_that_joins_its_region_changes_no_claim(tmp_path: Path) -> None:
    file = tmp_path / "topology.json"
    write_topology(file, content("eu"))
    write_topology(file, content("eu", **{"eu-1": [[0, 2047]], "eu-2": [[2048, 4095]]}))
    assert set(read_topology(file).claim_shards) == {"eu-1"}


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"eu-1": [[0, 4094]]}, "claim slot 4095 belongs to no shard"),
        ({"eu-1": [[0, 4095], [7, 7]]}, "claim slot 7 belongs to eu-1 and eu-1"),
        ({"eu-1": [[0, 4096]]}, "shard eu-1: there is no claim slot 0-4096"),
        ({"us-1": [[0, 4095]]}, "shard us-1 keeps identifiers"),
    ],
)
def test_every_claim_slot_has_one_shard_that_is_there(slots: dict[str, list[list[int]]], words: str) -> None:
    with pytest.raises(TopologyError, match=words):
        parse_topology(json.dumps({"epoch": 1, **content("eu"), "claim_slots": slots}))


SHARDS = st.sampled_from(["a", "b", "c", "d"])


@given(table=st.lists(SHARDS, min_size=1, max_size=60))
def test_ranges_say_the_same_as_the_table(table: list[str]) -> None:
    assert table_of(ranges_of(table), len(table), called="slot {}") == table


def test_a_region_joins_by_the_state_its_document_says(tmp_path: Path) -> None:
    """The operator of containers puts it there, runs `cluster.setup`, and again once every node knows the region."""
    file = tmp_path / "topology.json"

    def written(state: dict[str, str]) -> str:
        said = content("eu", "sa")
        said["regions"]["sa"] |= state
        document = TopologyDocument.model_validate({"epoch": 1, **said})
        write_topology(file, document.model_dump(mode="json", exclude={"epoch"}), document.stated)
        return read_topology(file).document.regions["sa"].state

    assert [written({"state": "joining"}), written({}), written({"state": "active"}), written({})] == [
        "joining", "joining", "active", "active",
    ]  # fmt: skip
