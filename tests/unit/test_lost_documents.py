"""A start on a folder that has lost something knows it from a new one: what is made anew fits what is there."""

import json
import shutil
from pathlib import Path

import pytest

from cluster.document import (
    Documents,
    known_region_numbers,
    plan_of,
    refuse_lost_servers,
    refuse_lost_topology,
    write_documents,
)
from cluster.errors import ClusterError


def servers_of(data: Path, *shards: str) -> None:
    for name in shards:
        (data / "servers" / name / "postgres-1").mkdir(parents=True)


@pytest.mark.parametrize(
    ("there", "regions"), [(["eu-1"], "eu,us,ap"), (["eu-1", "us-1"], "eu"), (["eu-1", "eu-2"], "eu")]
)
def test_where_the_topology_is_gone_no_other_system_is_started_on_its_servers(
    tmp_path: Path, there: list[str], regions: str
) -> None:
    servers_of(tmp_path, *there)
    plan = plan_of({"data": tmp_path, "regions": regions})
    with pytest.raises(ClusterError, match=f"servers of {', '.join(there)}: put your copy of it back"):
        refuse_lost_topology(plan)
    write_documents(plan)  # what is there is kept, whatever regions are named
    refuse_lost_topology(plan)


@pytest.mark.parametrize("there", [[], ["eu-1", "us-1"], ["eu-1", "us-1", "removed-ap-1-17"]])
def test_a_new_folder_and_one_with_just_these_servers_start(tmp_path: Path, there: list[str]) -> None:
    servers_of(tmp_path, *there)
    refuse_lost_topology(plan_of({"data": tmp_path, "regions": "eu,us"}))


def test_where_the_numbers_of_regions_are_gone_the_topology_has_them(tmp_path: Path) -> None:
    """Ids of members begin with them: another number would be another home."""
    write_documents(plan_of({"data": tmp_path, "regions": "venus,mars"}))
    numbers = known_region_numbers(tmp_path)
    Documents(tmp_path).regions.unlink()
    write_documents(plan_of({"data": tmp_path, "regions": "mars,venus"}))
    assert known_region_numbers(tmp_path) == numbers
    rows = json.loads(Documents(tmp_path).topology.read_text())["regions"]
    assert {name: row["number"] for name, row in rows.items()} == numbers


@pytest.mark.parametrize("has_topology", [True, False])
@pytest.mark.parametrize("emptied", [["postgres-1"], ["."]])
def test_a_shard_whose_servers_are_all_gone_does_not_begin_empty_unasked(
    tmp_path: Path, emptied: list[str], *, has_topology: bool
) -> None:
    """Its disk is not there: everybody would be unknown, enrol again, and nothing would look wrong."""
    plan = plan_of({"data": tmp_path, "regions": "eu"})
    if has_topology:
        write_documents(plan)
    refuse_lost_servers(plan)  # a first start, and one that was cut short
    servers_of(tmp_path, "eu-1")
    log = Documents(tmp_path).log("eu-1-postgres-1")
    log.parent.mkdir()
    log.touch()
    refuse_lost_servers(plan)
    for name in emptied:
        shutil.rmtree(tmp_path / "servers" / "eu-1" / name)
    with pytest.raises(ClusterError, match="eu-1 has run, and none of its servers is there any more") as refused:
        refuse_lost_servers(plan)
    assert str(log) in str(refused.value)
    log.unlink()
    refuse_lost_servers(plan)


def test_a_region_that_was_taken_out_may_be_named_again(tmp_path: Path) -> None:
    write_documents(plan_of({"data": tmp_path, "regions": "eu"}))
    log = Documents(tmp_path).log("us-1-postgres-1")
    log.parent.mkdir()
    log.touch()
    refuse_lost_servers(plan_of({"data": tmp_path, "regions": "eu,us"}))
