"""Two batches at work: what happens to one while the other is being written, and whatever becomes of that."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from command.program import apply_program
from tests.command_node import PROGRAM, Reply, RunningNode, basket, recent, running_command_node
from tests.conftest import eventually
from tests.engine import as_superuser

NOW = recent()  # whoever sends a key again sends the same body, some seconds later too


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


@dataclass
class Stuck:
    """A purchase of Ada's that waits in its last statement for somebody else's transaction to end."""

    ada: str
    bob: str
    purchase: asyncio.Task[Reply]
    blocker: Any
    transaction: Any

    async def end(self, how: str) -> Reply:
        await getattr(self.transaction, how)()
        return await self.purchase


@asynccontextmanager
async def stuck(node: RunningNode) -> AsyncGenerator[Stuck]:
    ada, bob = (await node.enrol())["member_id"], (await node.enrol())["member_id"]
    await buy(node, bob, "bobs")
    blocker = await asyncpg.connect(as_superuser(node.dsn))
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute(
        "INSERT INTO receipt SELECT store, till, business_date, 'taken', kind, member_id, version, fingerprint, subject"
        " FROM receipt WHERE receipt = 'bobs'"
    )
    purchase = asyncio.create_task(buy(node, ada, "taken", key="stuck"))

    async def waits() -> bool:
        return await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0

    await eventually(waits)
    yield Stuck(ada, bob, purchase, blocker, transaction)
    await blocker.close()


async def buy(node: RunningNode, member_id: str, receipt: str, *, key: str | None = None, **fields: Any) -> Reply:
    body = basket({"member_id": member_id}, receipt, **{"occurred_at": NOW, **fields})
    return await node.post("/v1/purchases", body, key=key)


async def begun(node: RunningNode, *, waiting: int) -> bool:
    lane = node.inner.lanes_of(node.inner.shards()[0])._lanes[0]
    return len(lane._queue) == waiting


async def test_others_are_answered_while_a_batch_is_being_written(node: RunningNode) -> None:
    async with stuck(node) as case:
        for number in range(3):
            bought = await buy(node, case.bob, f"while-{number}")
            assert (bought.status, bought.json["account"]["version"]) == (201, 3 + number)
        assert not case.purchase.done()
        assert (await case.end("rollback")).status == 201


async def test_a_member_of_a_batch_that_is_being_written_waits_for_it(node: RunningNode) -> None:
    async with stuck(node) as case:
        following = [asyncio.create_task(buy(node, case.ada, f"next-{number}")) for number in range(3)]
        await eventually(lambda: begun(node, waiting=3))
        assert (await buy(node, case.bob, "passes")).status == 201
        assert await begun(node, waiting=3)
        first = await case.end("rollback")
        versions = [reply.json["account"]["version"] for reply in (first, *await asyncio.gather(*following))]
        assert versions == [2, 3, 4, 5]


async def test_who_waited_for_a_batch_that_then_conflicts_sees_what_it_left(node: RunningNode) -> None:
    async with stuck(node) as case:
        following = asyncio.create_task(buy(node, case.ada, "next"))
        await eventually(lambda: begun(node, waiting=1))
        refused = await case.end("commit")
        assert (refused.status, refused.code) == (409, "receipt_conflict")
        bought = await following
        assert (bought.status, bought.json["account"]["version"]) == (201, 2)
        assert (await buy(node, case.ada, "taken", key="stuck")).body == refused.body


async def test_who_waited_for_a_batch_whose_outcome_nobody_knows_is_decided_by_what_is_there(node: RunningNode) -> None:
    async with stuck(node) as case:
        following = asyncio.create_task(buy(node, case.ada, "next"))
        beside = asyncio.create_task(buy(node, case.bob, "beside"))
        assert (await beside).status == 201
        await case.blocker.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
        )
        unknown = await case.purchase
        assert (unknown.status, unknown.code) == (503, "unknown_outcome")
        assert (await following).json["account"]["version"] == 2
        await case.transaction.rollback()
        again = await buy(node, case.ada, "taken", key="stuck")
        assert (again.status, again.json["account"]["version"]) == (201, 3)


async def test_a_receipt_that_two_batches_at_work_share_is_recorded_once(node: RunningNode) -> None:
    async with stuck(node) as case:
        other = asyncio.create_task(buy(node, case.bob, "taken"))

        async def both_wait() -> bool:
            return await case.blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") > 1

        await eventually(both_wait)
        replies = (await case.end("rollback"), await other)
        assert sorted(reply.status for reply in replies) == [201, 409]
        assert {reply.code for reply in replies if reply.status != 201} == {"receipt_conflict"}


async def test_a_key_that_is_being_written_is_in_progress(node: RunningNode) -> None:
    async with stuck(node) as case:
        again = await buy(node, case.ada, "taken", key="stuck")
        assert (again.status, again.code) == (409, "in_progress")
        assert (await case.end("rollback")).status == 201


async def test_whose_time_is_over_is_told_what_became_of_it_so_far(node: RunningNode) -> None:
    async with stuck(node) as case:

        async def hurried(receipt: str, key: str) -> Reply:
            body = basket({"member_id": case.bob}, receipt, occurred_at=NOW)
            return await node.post("/v1/purchases", body, key=key, **{"Loyalty-Deadline-Ms": "700"})

        async def both_wait() -> bool:
            return await case.blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") > 1

        begun_in_vain = asyncio.create_task(hurried("taken", "begun"))
        await eventually(both_wait)
        waited = await hurried("next", "waits")
        replies = [(one.status, one.code) for one in (await begun_in_vain, waited)]
        assert replies == [(503, "unknown_outcome"), (503, "shard_unavailable")]
        assert (await hurried("taken", "begun")).code == "in_progress"
        ada = await case.end("rollback")

    async def in_progress() -> bool:
        return b'"in_progress"' in (await buy(node, case.bob, "taken", key="begun")).body

    while await in_progress():
        pass
    bob = await buy(node, case.bob, "taken", key="begun")
    assert sorted((ada.status, bob.status)) == [201, 409]  # either may have been the first
    assert (await buy(node, case.bob, "next", key="waits")).status == 201


async def test_a_new_program_holds_for_the_batch_begun_after_it(node: RunningNode) -> None:
    async with stuck(node) as case:
        await apply_program([as_superuser(node.dsn)], PROGRAM.replace('per_unit = "1"', 'per_unit = "2"'))
        now = datetime.now(UTC).isoformat()
        waits = asyncio.create_task(buy(node, case.ada, "next", occurred_at=now))
        passes = await buy(node, case.bob, "after", occurred_at=now)
        first = await case.end("rollback")
        earned = [reply.json["points_earned"] for reply in (first, passes, await waits)]
        assert earned[1:] == [2 * earned[0]] * 2


async def test_commands_of_a_busy_member_keep_their_order_among_others(node: RunningNode) -> None:
    busy = (await node.enrol())["member_id"]
    others = [(await node.enrol())["member_id"] for _ in range(20)]
    replies = await asyncio.gather(
        *(node.give(member, 1) for number in range(200) for member in (busy, others[number % 20]))
    )
    assert {reply.status for reply in replies} == {201}
    versions = [reply.json["account"]["version"] for reply in replies[::2]]
    assert sorted(versions) == list(range(2, 202))
    balances = [reply.json["account"]["balance"]["available"] for reply in replies[::2]]
    assert [balance + 1 for balance in balances] == versions
