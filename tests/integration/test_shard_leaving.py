"""What a start makes of a shard that has given slots away: one whose removal was cut short goes, no other."""

import os
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from cluster.document import write_documents
from cluster.errors import ClusterError
from cluster.plan import ClusterPlan, make_plan
from cluster.run_file import Identity, RunRecord
from cluster.settings import ClusterSettings, ShardSettings
from cluster.shard_leaving import ShardLeaving
from cluster.supervisor import Supervisor
from cluster.system import System


@pytest.fixture
def plan(database: str, second_database: str, tmp_path: Path) -> ClusterPlan:
    """A region to which a second shard was added, which has the last slot."""
    shards = {
        "eu-1": ShardSettings(region="eu", slots=((0, 4094),), servers=(database,), valkey="redis://x"),
        "eu-2": ShardSettings(region="eu", slots=((4095, 4095),), servers=(second_database,), valkey="redis://x"),
    }
    plan = make_plan(ClusterSettings(regions=("eu",), data=tmp_path, shards=shards))
    (region,) = plan.regions
    first, added = region.shards
    grown = (replace(first, receipts=((0, 4095),)), replace(added, receipts=()))
    return replace(plan, regions=(replace(region, shards=grown),))


async def finish(plan: ClusterPlan, second_database: str, given: list[int]) -> None:
    """ClusterError when the shard is about to be taken out: this one is in the settings, and stays."""
    connection = await asyncpg.connect(second_database)
    await connection.execute("INSERT INTO given_slot SELECT slot, 'eu-1' FROM unnest($1::integer[]) AS g (slot)", given)
    await connection.close()
    write_documents(plan)

    async def everybody_knows() -> None:
        """There is no node."""

    system = System(plan, Supervisor(plan.data, RunRecord(Identity.of(os.getpid()))), {})
    await ShardLeaving(system, everybody_knows, {}).finish()


async def test_a_shard_that_has_given_a_slot_of_its_own_is_taken_out(plan: ClusterPlan, second_database: str) -> None:
    with pytest.raises(ClusterError, match="in the settings"):
        await finish(plan, second_database, [4095])


async def test_a_shard_that_joins_no_more_and_has_given_slots_is_taken_out(
    plan: ClusterPlan, second_database: str
) -> None:
    """The topology says already that they are the other's."""
    (region,) = plan.regions
    first, added = region.shards
    shards = (replace(first, slots=((0, 4095),)), replace(added, slots=(), state="joining"))
    with pytest.raises(ClusterError, match="in the settings"):
        await finish(replace(plan, regions=(replace(region, shards=shards),)), second_database, [4095])


@pytest.mark.parametrize("given", [[], [4094]])
async def test_a_shard_that_gave_slots_once_and_was_added_after_all_stays(
    plan: ClusterPlan, second_database: str, given: list[int]
) -> None:
    await finish(plan, second_database, given)
