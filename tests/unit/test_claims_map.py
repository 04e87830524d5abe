"""A new region never changes where identifiers are claimed; one that keeps claims cannot go."""

from pathlib import Path

import pytest

from cluster.document import write_topology
from cluster.errors import ClusterError
from shard_router.topology import read_topology


def content(*names: str) -> dict[str, object]:
    return {
        "regions": {name: {"number": number, "command": [], "query": []} for number, name in enumerate(names, 1)},
        "shards": {
            f"{name}-1": {"region": name, "slots": [[0, 4095]], "servers": [], "valkey": "redis://x"} for name in names
        },
    }


def test_a_later_region_keeps_no_claims_and_an_early_one_must_stay(tmp_path: Path) -> None:
    file = tmp_path / "topology.json"
    write_topology(file, content("eu", "us"))
    write_topology(file, content("eu", "us", "ap"))
    topology = read_topology(file)
    assert (topology.epoch, topology.claim_regions) == (2, ["eu", "us"])
    with pytest.raises(ClusterError, match="must stay"):
        write_topology(file, content("eu", "ap"))
    assert read_topology(file).epoch == 2
