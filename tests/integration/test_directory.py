"""One identifier, one member, over all shards: whoever enrols at the same time, and whoever dies between the steps."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from shard_router.directory import Directory
from shard_router.errors import ProblemError
from shard_router.member_id import new_member_id
from shard_router.pool import ShardPools
from shard_router.topology import TopologyWatch

PHONE = ("phone", "+4930123456")


@asynccontextmanager
async def opened(database: str, tmp_path: Path, ahead_s: float = 0.0) -> AsyncGenerator[Directory]:
    document = {
        "epoch": 1,
        "regions": {name: {"number": number, "command": [], "query": []} for name, number in (("eu", 1), ("us", 2))},
        "shards": {
            f"{name}-1": {"region": name, "slots": [[0, 4095]], "servers": [database], "valkey": "redis://none"}
            for name in ("eu", "us")
        },
    }
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(document))
    watch = TopologyWatch(file)
    pools = ShardPools(watch, size_max=5, statement_timeout_ms=500, wall=lambda: time.time() + ahead_s)
    yield Directory(watch, pools)
    await pools.close()


@pytest.fixture
async def directory(database: str, tmp_path: Path) -> AsyncGenerator[Directory]:
    async with opened(database, tmp_path) as directory:
        yield directory


async def run_out(database: str) -> None:
    await execute(database, "UPDATE claim SET leased_until = now() - interval '1 s' WHERE leased_until IS NOT NULL")


async def execute(database: str, sql: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(sql)
    await connection.close()


async def test_of_many_who_lease_at_once_one_gets_it_and_the_others_wait(directory: Directory) -> None:
    members = [new_member_id(1 + n % 2, n) for n in range(10)]
    results = await asyncio.gather(*(directory.lease([PHONE], member) for member in members), return_exceptions=True)
    winners = [member for member, result in zip(members, results, strict=True) if result == []]
    losers = [result for result in results if isinstance(result, ProblemError)]
    assert len(winners) == 1
    assert [error.code for error in losers] == ["in_progress"] * 9
    await directory.hold([PHONE], winners[0])
    assert await directory.lease([PHONE], new_member_id(1, 1)) == [PHONE]
    assert await directory.find(PHONE) == winners[0]


async def test_a_lease_given_up_or_run_out_is_free_again(directory: Directory, database: str) -> None:
    first, second, third = (new_member_id(1, 1) for _ in range(3))
    assert await directory.lease([PHONE], first, attempt=1) == []
    await directory.give_up([PHONE], first, attempt=1)
    assert await directory.lease([PHONE], second) == []
    await run_out(database)
    assert await directory.lease([PHONE], third) == []
    assert await directory.find(PHONE) == third


async def test_a_lease_outlives_a_takeover_by_a_server_whose_clock_is_ahead(
    directory: Directory, database: str
) -> None:
    """The one that made it was 10 s behind the nodes, the one that judges it is 10 s ahead."""
    first, second = new_member_id(1, 1), new_member_id(1, 2)
    assert await directory.lease([PHONE], first, attempt=1) == []
    await execute(database, "UPDATE claim SET leased_until = leased_until - interval '20 s'")
    with pytest.raises(ProblemError, match="enrolling with this phone"):
        await directory.lease([PHONE], second)


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
async def test_leases_are_not_judged_by_a_clock_that_is_far_off(
    directory: Directory, database: str, tmp_path: Path, ahead_s: float
) -> None:
    """Where it is the primary's, ahead or behind, every lease would have run out, or none ever."""
    first, second = new_member_id(1, 1), new_member_id(1, 2)
    assert await directory.lease([PHONE], first) == []
    await run_out(database)
    async with opened(database, tmp_path, ahead_s) as off:
        with pytest.raises(ProblemError, match="clock") as refused:
            await off.lease([PHONE], second)
        assert (refused.value.code, await off.find(PHONE)) == ("shard_unavailable", first)
    assert await directory.lease([PHONE], second) == []


@pytest.mark.parametrize("who_gives_up", [1, 2])
async def test_a_lease_that_two_commands_of_a_member_rely_on_is_given_up_by_neither(
    directory: Directory, database: str, who_gives_up: int
) -> None:
    """One of them was refused: the other may be about to give the member the identifier."""
    member, stranger = new_member_id(1, 1), new_member_id(1, 2)
    for attempt in (1, 2, 2):  # an attempt that hears nothing asks again
        assert await directory.lease([PHONE], member, attempt=attempt) == []
    await directory.give_up([PHONE], member, attempt=who_gives_up)
    with pytest.raises(ProblemError, match="enrolling with this phone"):
        await directory.lease([PHONE], stranger)
    await directory.hold([PHONE], member)
    assert await directory.lease([PHONE], stranger) == [PHONE]
    await directory.release([PHONE], member)
    assert await directory.lease([PHONE], member, attempt=3) == []
    await run_out(database)
    assert await directory.lease([PHONE], member, attempt=4) == []  # nobody relies on one that has run out
    await directory.give_up([PHONE], member, attempt=4)
    assert await directory.lease([PHONE], stranger) == []


async def test_a_member_created_by_a_node_that_died_before_holding_keeps_its_identifier(
    directory: Directory, database: str
) -> None:
    dead, late = new_member_id(2, 5), new_member_id(1, 6)
    await directory.lease([PHONE], dead)
    connection = await asyncpg.connect(database)
    await connection.execute("INSERT INTO identifier VALUES ($1, $2, $3, 1)", *PHONE, dead)
    await connection.close()
    await run_out(database)
    assert await directory.lease([PHONE], late) == [PHONE]
    assert await directory.find(PHONE) == dead


@pytest.mark.parametrize("run_out_before", [False, True])
async def test_who_finds_nobody_any_more_leases_again(
    directory: Directory, database: str, monkeypatch: pytest.MonkeyPatch, *, run_out_before: bool
) -> None:
    """The holder leaves between the two statements of somebody who was refused: being in nobody's way is no lease."""
    holder, late, later = (new_member_id(1, number) for number in range(3))
    assert await directory.lease([PHONE], holder, attempt=1) == []
    if run_out_before:
        await run_out(database)
    then = "_exists_at_home" if run_out_before else "_find_claim"
    ask = getattr(directory, then)

    async def ask_once_the_holder_has_left(*asked: object) -> object:
        await directory.give_up([PHONE], holder, attempt=1)
        return await ask(*asked)

    monkeypatch.setattr(directory, then, ask_once_the_holder_has_left)
    assert await directory.lease([PHONE], late) == []
    monkeypatch.undo()
    assert await directory.find(PHONE) == late
    with pytest.raises(ProblemError, match="enrolling with this phone"):
        await directory.lease([PHONE], later)


async def test_a_creation_whose_commit_still_waits_is_never_taken_over(directory: Directory, database: str) -> None:
    slow, late = new_member_id(2, 5), new_member_id(1, 6)
    await directory.lease([PHONE], slow)
    await run_out(database)
    connection = await asyncpg.connect(database)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("INSERT INTO identifier VALUES ($1, $2, $3, 1)", *PHONE, slow)
    with pytest.raises(ProblemError) as raised:
        await directory.lease([PHONE], late)
    assert raised.value.code == "shard_unavailable"
    await transaction.commit()
    await connection.close()
    assert await directory.lease([PHONE], late) == [PHONE]
    assert await directory.find(PHONE) == slow
