"""All command nodes of a region are gone: another region's node does what its members and tills ask, at their shard."""

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from shard_router.card import new_card
from shard_router.member_id import parse_member_id, region_number_of
from tests.command_node import PROGRAM, RunningNode, basket, running_regions
from tests.engine import PostgresServer, free_port

REWARDS = PROGRAM + '[[rewards]]\ncode = "coffee"\nname = "Coffee"\npoints = 10\nstock = 1\n'


@pytest.fixture
async def nodes(postgres_server: PostgresServer, tmp_path: Path) -> AsyncGenerator[dict[str, RunningNode]]:
    dsns = {region: await postgres_server.create_database() for region in ("eu", "us")}
    async with running_regions(dsns, tmp_path, program=REWARDS) as running:
        yield running
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


@contextmanager
def gone(nodes: dict[str, RunningNode], region: str) -> Generator[RunningNode]:
    """The nodes of a region, as the one of the other sees it, for the length of the block."""
    (asked,) = (node for name, node in nodes.items() if name != region)
    listed = asked.inner.topology.current.document.regions[region].command
    there = list(listed)
    listed[:] = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    try:
        yield asked
    finally:
        listed[:] = there


async def test_whatever_is_asked_is_done_at_the_members_shard(nodes: dict[str, RunningNode]) -> None:
    bob = await nodes["us"].enrol(phone="+14155550100")
    named = {"member": {"member_id": bob["member_id"]}}
    with gone(nodes, "us") as node:
        bought = await node.post("/v1/purchases", basket({"phone": "+14155550100"}, "1"), role="pos")
        assert (bought.status, bought.headers["Loyalty-Region"]) == (201, "eu")
        assert (await node.give(bob["member_id"], 100)).status == 201
        held = await node.post("/v1/holds", named | {"points": 5})
        captured = await node.post(f"/v1/holds/{held.json['hold_id']}/capture", {})
        returned = await node.post(
            f"/v1/purchases/{bought.json['purchase_id']}/returns",
            {"store": "330", "till": "1", "receipt": "r", "occurred_at": basket({}, "1")["occurred_at"],
             "lines": [{"line": 1, "quantity": 1}]},
        )  # fmt: skip
        redeemed = await node.post("/v1/redemptions", named | {"reward": "coffee"})
        changed = await node.post(f"/v1/members/{bob['member_id']}/identifiers", {"new_card": True})
    assert [one.status for one in (held, captured, returned, redeemed, changed)] == [201, 200, 201, 201, 201]
    ((card,),) = [one.values() for one in changed.json["added"]]
    assert int(card[:2]) == region_number_of(parse_member_id(bob["member_id"]))
    again = await nodes["us"].post("/v1/purchases", basket({"card": card}, "2"))
    assert (again.status, again.headers["Loyalty-Region"]) == (201, "us")
    connection = await asyncpg.connect(nodes["us"].dsn)
    versions = await connection.fetch(
        "SELECT version FROM journal WHERE member_id = $1 ORDER BY version", parse_member_id(bob["member_id"])
    )
    await connection.close()
    assert [row["version"] for row in versions] == list(range(1, 10))
    assert again.json["account"]["version"] == 9


async def test_a_new_member_comes_to_the_region_of_its_card(nodes: dict[str, RunningNode]) -> None:
    card = new_card(2, 7)
    with gone(nodes, "us") as node:
        made = await node.post("/v1/members", {"card": card}, key="made")
    assert (made.status, region_number_of(parse_member_id(made.json["member_id"]))) == (201, 2)
    assert (await nodes["us"].post("/v1/members", {"card": card}, key="made")).body == made.body


async def test_a_member_of_another_region_is_no_secret_told(nodes: dict[str, RunningNode]) -> None:
    bob, eve = await nodes["us"].enrol(), await nodes["us"].enrol()
    with gone(nodes, "us") as node:
        body = {"from": {"member_id": bob["member_id"]}, "to": {"member_id": eve["member_id"]}, "points": 1}
        reply = await node.post("/v1/transfers", body, role=node.as_member(eve["member_id"]))
    assert (reply.status, reply.code) == (404, "member_not_found")


async def test_what_two_regions_nodes_do_at_once_is_done_once_each(nodes: dict[str, RunningNode]) -> None:
    """One node believes that the other region's are gone; they are not."""
    bob = await nodes["us"].enrol()
    with gone(nodes, "us") as node:
        for number in range(10):
            first = node.post("/v1/purchases", basket({"card": bob["card"]}, f"a{number}"))
            other = nodes["us"].post("/v1/purchases", basket({"card": bob["card"]}, f"b{number}"))
            for answer in (await first, await other):
                assert answer.status == 201
        replies = [await one.post("/v1/purchases", basket({"card": bob["card"]}, "a1")) for one in (node, nodes["us"])]
    assert replies[0].body == replies[1].body
