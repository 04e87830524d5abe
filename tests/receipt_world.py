"""One receipt, two members: what a node of two shards is asked, and what their rows say then."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from command.register import Register
from shard_router.member_id import parse_member_id
from tests.command_node import PROGRAM, Reply, RunningNode, basket, dsns, running_command_node
from tests.sql import fetch

STORE = "330"
WORTH = PROGRAM.replace('per_unit = "1"', 'per_unit = "1"\nworth = { points = 1, amount = 1 }')


@pytest.fixture
async def node(database: str, second_database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path, program=WORTH, second=second_database) as running:
        yield running


async def members(node: RunningNode) -> tuple[str, str]:
    """One who lives where the receipts of the store are kept, and one who does not."""
    topology = node.inner.topology.current
    place, found = topology.register_of("eu", STORE), dict[bool, str]()
    while len(found) < 2:
        member = (await node.enrol())["member_id"]
        found[topology.shard_of(parse_member_id(member)) == place] = member
    return found[True], found[False]


async def claim_all(node: RunningNode) -> None:
    for shard in node.inner.shards():
        while await Register(node.inner).work_off(shard):
            pass


async def buy(node: RunningNode, member: str, receipt: str, **more: Any) -> Reply:
    return await node.post("/v1/purchases", basket({"member_id": member}, receipt) | {"store": STORE} | more)


async def rows(node: RunningNode, sql: str, *arguments: Any) -> list[Any]:
    return [row for dsn in dsns(node) for row in await fetch(dsn, sql, *arguments)]


async def journal(node: RunningNode, member: str) -> list[str]:
    sql = "SELECT kind, detail ->> 'why' AS why FROM journal WHERE member_id = $1 ORDER BY version"
    found = await rows(node, sql, parse_member_id(member))
    return [row["kind"] + (f" {row['why']}" if row["why"] else "") for row in found]
