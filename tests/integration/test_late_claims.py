"""Steps of claims that come late: whoever was stopped, or cut off, between two of them harms nobody who came since."""

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from command import store
from command.claim import Claims
from service.handed import DEADLINE_HEADER
from shard_router.directory import Identifier
from shard_router.member_id import new_member_id, parse_member_id
from shard_router.server import connection_to
from tests.command_node import RunningNode, change, dsns_of, running_command_node
from tests.engine import as_superuser
from tests.sql import fetch

PHONE: Identifier = ("phone", "+4930123456")
RUN_OUT = "UPDATE claim SET leased_until = now() - interval '1 s' WHERE leased_until IS NOT NULL"


@pytest.fixture
async def node(database: str, second_database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, second=second_database) as running:
        yield running


@asynccontextmanager
async def held_up_at(node: RunningNode, table: str) -> AsyncGenerator[None]:
    """Whoever writes a table waits meanwhile."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connection_to(as_superuser(dsn))) for dsn in dsns_of(node)]
        for connection in connections:
            transaction = connection.transaction()
            await transaction.start()
            stack.push_async_callback(transaction.rollback)
            await connection.execute(f"LOCK TABLE {table} IN SHARE MODE")
        yield


async def test_a_courier_that_was_slow_frees_nothing_that_came_back_meanwhile(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has seen that the member has the phone no more; then they add it again, and that is done before it goes on."""
    ada = (await node.enrol(phone=PHONE[1]))["member_id"]
    path = f"/v1/members/{ada}/identifiers"
    assert (await node.post(path, {"remove": [{"phone": PHONE[1]}]})).status == 201
    remember = node.inner.claims.remember

    async def remember_and_be_slow(*asked: Any) -> None:
        await remember(*asked)
        monkeypatch.undo()
        assert (await node.post(path, {"add": [{"phone": PHONE[1]}]})).status == 201

    monkeypatch.setattr(node.inner.claims, "remember", remember_and_be_slow)
    await node.run_errands()
    assert await node.inner.directory.find(PHONE) == parse_member_id(ada)
    assert (await node.post("/v1/members", {"phone": PHONE[1]})).code == "member_exists"


async def test_what_came_back_after_its_home_was_asked_is_not_freed(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = node.inner.directory
    ada = (await node.enrol(phone=PHONE[1]))["member_id"]
    path = f"/v1/members/{ada}/identifiers"
    assert (await node.post(path, {"remove": [{"phone": PHONE[1]}]})).status == 201
    ask = directory._ask_home

    async def ask_just_before_it_comes_back(*asked: Any) -> tuple[bool, bool]:
        found = await ask(*asked)
        monkeypatch.undo()
        assert (await node.post(path, {"add": [{"phone": PHONE[1]}]})).status == 201
        return found

    monkeypatch.setattr(directory, "_ask_home", ask_just_before_it_comes_back)
    await node.run_errands()
    assert await directory.find(PHONE) == parse_member_id(ada)


async def test_a_lease_is_held_by_its_own_command_alone(node: RunningNode) -> None:
    """One that looked before the phone was removed comes late, when another has leased it again and is refused."""
    ada = parse_member_id((await node.enrol())["member_id"])
    node_of = node.inner

    async def before_it_was_removed(_: int) -> set[Identifier]:
        return {PHONE}

    late = Claims(node_of.topology, node_of.directory, node_of.detached, before_it_was_removed)
    deadline = time.monotonic() + 5
    assert await late.lease([PHONE], ada, attempt=1, deadline=deadline) == []
    await change(node, RUN_OUT)
    assert await node_of.claims.lease([PHONE], ada, attempt=2, deadline=deadline) == []
    await late.conclude([PHONE], ada, attempt=1, deadline=deadline)
    await node_of.claims.conclude([PHONE], ada, attempt=2, deadline=deadline)
    assert (await node.post("/v1/members", {"phone": PHONE[1]})).status == 201


async def test_a_lease_that_ran_out_is_settled_only_as_it_was_found(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The member is there when they are asked for, and has removed the phone before that is written down."""
    directory = node.inner.directory
    ada = (await node.enrol(phone=PHONE[1]))["member_id"]
    await change(node, "UPDATE claim SET leased_until = now() - interval '1 s'")  # as if its end had never been written
    ask = directory._exists_at_home

    async def ask_just_before_it_goes(*asked: object) -> bool:
        found = await ask(*asked)
        monkeypatch.undo()
        assert (await node.post(f"/v1/members/{ada}/identifiers", {"remove": [{"phone": PHONE[1]}]})).status == 201
        await node.run_errands()
        return found

    monkeypatch.setattr(directory, "_exists_at_home", ask_just_before_it_goes)
    assert (await node.post("/v1/members", {"phone": PHONE[1]})).code == "member_exists"
    assert (await node.post("/v1/members", {"phone": PHONE[1]})).status == 201


async def test_a_member_is_not_made_once_their_phone_may_be_anothers(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What writes the member is held up until their lease has run out, and another has leased the phone and is made."""
    monkeypatch.setattr(store, "LATE_MAX_S", 0.0)  # as if as much time had gone
    directory, other = node.inner.directory, new_member_id(1, 1)
    async with held_up_at(node, "journal"):
        late = await node.post("/v1/members", {"phone": PHONE[1]}, **{DEADLINE_HEADER: "300"})
        assert late.code == "unknown_outcome"
        await change(node, RUN_OUT)
        assert await directory.lease([PHONE], other, attempt=9) == []
        await directory.hold([PHONE], other, attempt=9)
    for shard in node.inner.shards():
        await node.inner.lanes_of(shard).idle()
    assert await directory.find(PHONE) == other
    assert [dsn for dsn in dsns_of(node) if await fetch(dsn, "SELECT FROM identifier")] == []
    assert (await node.enrol(phone="+4930999"))["member_id"]
