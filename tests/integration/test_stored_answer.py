"""An answer is stored without what its entry has, and comes again as it was first given."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from tests.command_node import RunningNode, running_command_node


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


def basket(member: str) -> dict[str, Any]:
    return {
        "member": {"member_id": member}, "store": "330", "till": "1", "receipt": "1", "currency": "EUR",
        "occurred_at": "2026-11-22T10:00:00Z", "lines": [{"sku": "a", "quantity": 2, "amount": 1050}],
    }  # fmt: skip


def commands(member: str) -> list[tuple[str, Any]]:
    line = [{"line": 1, "quantity": 1}]
    return [
        ("/v1/purchases", basket(member)),
        ("/v1/adjustments", {"member": {"member_id": member}, "points": 5, "reason": "goodwill"}),
        ("/v1/holds", {"member": {"member_id": member}, "points": 4}),
        (f"/v1/purchases/pur_{member}-2/returns", {
            "store": "330", "till": "1", "receipt": "2", "occurred_at": "2026-11-22T11:00:00Z", "lines": line,
        }),
    ]  # fmt: skip


async def test_every_answer_comes_again_to_the_byte_though_its_account_is_stored_once(
    node: RunningNode, database: str
) -> None:
    member = (await node.enrol())["member_id"]
    sent = commands(member)
    first = [await node.post(path, body, role="admin", key=f"k{index}") for index, (path, body) in enumerate(sent)]
    again = [await node.post(path, body, role="admin", key=f"k{index}") for index, (path, body) in enumerate(sent)]
    assert [reply.status for reply in first] == [201] * 4, [reply.body for reply in first]
    assert [reply.body for reply in again] == [reply.body for reply in first]
    connection = await asyncpg.connect(database)
    rows = await connection.fetch("SELECT answer FROM idempotency WHERE version IS NOT NULL ORDER BY version")
    await connection.close()
    enrolled, *others = [orjson.loads(row["answer"]) for row in rows]
    assert (enrolled["member_id"], enrolled["account"]) == (member, None)
    assert others == [{}] * 4


async def test_an_answer_that_an_earlier_version_stored_whole_comes_again_as_it_stands(
    node: RunningNode, database: str
) -> None:
    member = (await node.enrol())["member_id"]
    await node.post("/v1/purchases", basket(member), key="k")
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE idempotency SET answer = $1 WHERE key = 'k'", '{"account": {"version": 1}}')
    await connection.close()
    again = await node.post("/v1/purchases", basket(member), key="k")
    assert again.body == b'{"account": {"version": 1}}'


async def test_many_keys_that_come_again_at_once_each_get_their_own_answer(node: RunningNode) -> None:
    members = [(await node.enrol())["member_id"] for _ in range(6)]
    bodies = [basket(member) | {"receipt": member} for member in members]
    first = [await node.post("/v1/purchases", body, key=member) for member, body in zip(members, bodies, strict=True)]
    posts = (node.post("/v1/purchases", body, key=member) for member, body in zip(members, bodies, strict=True))
    again = await asyncio.gather(*posts)
    assert [reply.body for reply in again] == [reply.body for reply in first]
