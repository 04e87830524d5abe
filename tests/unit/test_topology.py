"""One shard per slot, and only a higher epoch counts."""

import json
from pathlib import Path
from typing import Any

import pytest

from shard_router.errors import MalformedIdError, TopologyError
from shard_router.member_id import compose_member_id
from shard_router.topology import TopologyWatch, parse_topology


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
