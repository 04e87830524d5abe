"""One shard per slot, and only a higher epoch counts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import structlog

from shard_router.errors import MalformedIdError, TopologyError
from shard_router.member_id import compose_member_id
from shard_router.topology import TopologyWatch, parse_topology
from tests.file import put


def document(epoch: int = 1, **slots: list[list[int]]) -> dict[str, Any]:
    shards = slots or {"eu-1": [[0, 2047]], "eu-2": [[2048, 4095]]}
    return {
        "epoch": epoch,
        "regions": {"eu": {"number": 1, "command": [], "query": []}},
        "shards": {
            name: {"region": "eu", "slots": ranges, "servers": [], "valkey": "redis://x"}
            for name, ranges in shards.items()
        },
    }


def test_a_member_lives_on_the_shard_of_its_slot() -> None:
    topology = parse_topology(json.dumps(document()))
    assert topology.shard_of(compose_member_id(1, slot=2047, unique=5)) == "eu-1"
    assert topology.shard_of(compose_member_id(1, slot=2048, unique=5)) == "eu-2"
    with pytest.raises(MalformedIdError):
        topology.shard_of(compose_member_id(2, slot=0, unique=5))


@pytest.mark.parametrize(
    "slots",
    [{"eu-1": [[0, 100]]}, {"eu-1": [[0, 4095]], "eu-2": [[5, 5]]}, {"eu-1": [[0, 4096]]}, {"eu-1": [[9, 3]]}],
)
def test_a_slot_without_a_shard_or_with_two_is_refused(slots: dict[str, list[list[int]]]) -> None:
    with pytest.raises(TopologyError):
        parse_topology(json.dumps(document(1, **slots)))


def test_a_shard_without_slots_may_join_and_receipts_may_stay_where_they_are() -> None:
    first = document(1, **{"eu-1": [[0, 4095]], "eu-2": []})
    second = document(2, **{"eu-1": [[0, 9]], "eu-2": [[10, 4095]]})
    for grown in (first, second):
        grown["shards"]["eu-1"]["receipts"], grown["shards"]["eu-2"]["receipts"] = [[0, 4095]], []
    assert {parse_topology(json.dumps(first)).shard_at(1, slot) for slot in range(4096)} == {"eu-1"}
    grown = parse_topology(json.dumps(second))
    assert grown.shard_at(1, 10) == "eu-2"
    assert {grown.register_of("eu", str(store)) for store in range(100)} == {"eu-1"}
    del second["shards"]["eu-2"]["receipts"]
    with pytest.raises(TopologyError, match="receipts of slot 10 of eu belongs to eu-1 and eu-2"):
        parse_topology(json.dumps(second))


def test_only_a_higher_epoch_is_adopted(tmp_path: Path) -> None:
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(document(5)))
    watch = TopologyWatch(file)
    heard: list[int] = []
    watch.on_change(lambda topology: heard.append(topology.epoch))
    for epoch in (4, 5, 6, 6, 3):
        watch.adopt(parse_topology(json.dumps(document(epoch))))
    assert heard == [6]
    assert watch.current.epoch == 6


def test_of_two_documents_of_one_instant_the_second_is_adopted(tmp_path: Path) -> None:
    """A clock of files goes by ticks of some milliseconds; whoever writes whole files replaces them."""
    file, instant = tmp_path / "topology.json", (1, 1)
    file.write_text(json.dumps(document(5)))
    watch = TopologyWatch(file)
    for epoch in (6, 7):
        following = tmp_path / "following.json"
        following.write_text(json.dumps(document(epoch)))
        os.utime(following, instant)
        following.replace(file)
        watch.look()
        assert watch.current.epoch == epoch


MISTAKES = {
    "half written": ('{"epoch": 6', "EOF"),
    "another shape": ('{"epoch": 6, "region": {}}', "regions: Field required"),
    "a slot without a shard": (json.dumps(document(6, **{"eu-1": [[0, 9]]})), "belongs to no shard"),
    "a shard of no region": (json.dumps(document(6) | {"regions": {}}), "no region eu"),
    "other content under the same epoch": (json.dumps(document(5, **{"eu-9": [[0, 4095]]})), "needs a higher epoch"),
    "other content under a lower epoch": (json.dumps(document(4, **{"eu-9": [[0, 4095]]})), "needs a higher epoch"),
    "gone": (None, "No such file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_leaves_the_topology_in_force_and_is_told_once_until_it_is_mended(tmp_path: Path, name: str) -> None:
    text, words = MISTAKES[name]
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(document(5)))
    watch = TopologyWatch(file)
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            put(file, text)
            watch.look()
    assert [entry["event"] for entry in logged] == ["topology_not_adopted"]
    assert watch.trouble is not None
    assert words in watch.trouble
    assert str(file) in watch.trouble
    assert "\n" not in watch.trouble
    assert watch.current.epoch == 5
    put(file, json.dumps(document(7)))
    watch.look()
    assert (watch.trouble, watch.current.epoch) == (None, 7)


def test_an_old_copy_of_the_same_document_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(document(5)))
    watch = TopologyWatch(file)
    put(file, json.dumps(document(5), indent=4))
    watch.look()
    assert watch.trouble is None


def test_a_document_that_would_look_for_identifiers_elsewhere_is_not_adopted(tmp_path: Path) -> None:
    """Who adds a region by hand and names no claims makes it one of the first."""
    file = tmp_path / "topology.json"
    put(file, json.dumps(document()))
    watch = TopologyWatch(file)
    grown = document(2)
    grown["regions"]["us"] = {"number": 2, "command": [], "query": []}
    grown["shards"]["us-1"] = {"region": "us", "slots": [[0, 4095]], "servers": [], "valkey": "redis://x"}
    put(file, json.dumps(grown))
    watch.look()
    assert watch.current.epoch == 1
    assert watch.trouble
    assert "claims must name the regions of the first start (eu)" in watch.trouble
    put(file, json.dumps(grown | {"claims": ["eu"]}))
    watch.look()
    assert (watch.current.epoch, watch.trouble) == (2, None)


def test_two_regions_with_one_number_are_refused() -> None:
    region = {"number": 1, "command": [], "query": []}
    with pytest.raises(TopologyError, match="eu and us have the same number"):
        parse_topology(json.dumps(document() | {"regions": {"eu": region, "us": region}}))


def test_zones_are_named_for_every_server_or_for_none() -> None:
    shard: dict[str, Any] = {"region": "eu", "slots": [[0, 4095]], "servers": ["one", "two"], "valkey": "redis://v"}
    regions: dict[str, Any] = {"eu": {"number": 1, "command": [], "query": []}}

    def read(zones: list[str]) -> list[str]:
        document = {"epoch": 1, "regions": regions, "shards": {"eu-1": shard | {"zones": zones}}}
        return parse_topology(json.dumps(document)).document.shards["eu-1"].zones

    assert read([]) == []
    assert read(["a", "b"]) == ["a", "b"]
    with pytest.raises(TopologyError, match="2 servers and 1 zones"):
        read(["a"])
