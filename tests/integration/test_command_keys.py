"""Whose an Idempotency-Key is: API keys share those of the organisation, each member's token has its own."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from command.migrate import migrate
from command.refusal import OF_MEMBER_MAX
from tests.command_node import Reply, RunningNode, basket, running_command_node, running_regions
from tests.engine import PostgresServer

KEY = "berlin-mitte-1-000500"


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


def transfer(sender: dict[str, Any], receiver: dict[str, Any], points: int = 1) -> dict[str, Any]:
    return {"from": {"member_id": sender["member_id"]}, "to": {"member_id": receiver["member_id"]}, "points": points}


@pytest.mark.parametrize("points", [1, 100], ids=["accepted", "refused"])
async def test_a_member_never_takes_the_key_of_a_till(node: RunningNode, points: int) -> None:
    ada, bob = await node.enrol(), await node.enrol()
    await node.give(ada["member_id"], 10)
    sent = await node.post("/v1/transfers", transfer(ada, bob, points), role=node.as_member(ada["member_id"]), key=KEY)
    bought = await node.post("/v1/purchases", basket({"card": ada["card"]}, "1"), role="pos", key=KEY)
    assert (sent.status, bought.status) == (201 if points == 1 else 422, 201)


async def test_a_till_never_takes_the_key_of_a_member_nor_one_member_that_of_another(node: RunningNode) -> None:
    ada, bob = await node.enrol(), await node.enrol()
    for member in (ada, bob):
        await node.give(member["member_id"], 10)
    assert (await node.post("/v1/purchases", basket({"card": ada["card"]}, "1"), role="pos", key=KEY)).status == 201
    for sender, receiver in ((ada, bob), (bob, ada)):
        role = node.as_member(sender["member_id"])
        first = await node.post("/v1/transfers", transfer(sender, receiver), role=role, key=KEY)
        again = await node.post("/v1/transfers", transfer(sender, receiver), role=role, key=KEY)
        assert (first.status, again.status, again.body) == (201, 201, first.body)
        assert again.headers["Idempotent-Replayed"] == "true"
        other = await node.post("/v1/transfers", transfer(sender, receiver, 2), role=role, key=KEY)
        assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_api_keys_share_the_keys_of_the_organisation(node: RunningNode) -> None:
    ada = await node.enrol()
    bought = basket({"card": ada["card"]}, "1")
    first = await node.post("/v1/purchases", bought, role="pos", key=KEY)
    for role in ("till330", "service", "admin"):
        again = await node.post("/v1/purchases", bought, role=role, key=KEY)
        assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (201, first.body, "true")


async def test_a_member_erased_by_their_own_token_may_hear_it_twice(node: RunningNode) -> None:
    ada = await node.enrol(name="Ada")
    role = node.as_member(ada["member_id"])
    first = await node.delete(f"/v1/members/{ada['member_id']}", role=role, key=KEY)
    again = await node.delete(f"/v1/members/{ada['member_id']}", role=role, key=KEY)
    assert (first.status, again.status, again.body) == (200, 200, first.body)


async def test_what_a_member_sent_before_the_keys_moved_is_answered_and_blocks_no_till(node: RunningNode) -> None:
    ada, bob = await node.enrol(), await node.enrol()
    await node.give(ada["member_id"], 10)
    role = node.as_member(ada["member_id"])
    first = await node.post("/v1/transfers", transfer(ada, bob), role=role, key=KEY)
    connection = await asyncpg.connect(node.dsn)
    await connection.execute(
        "UPDATE idempotency SET key = $1, credential = $2 WHERE credential LIKE 'member:%'",
        KEY,
        f"member:{ada['member_id'].lower()}",  # as a version that took the token's own spelling stored it
    )
    await connection.execute("DELETE FROM schema_migration WHERE name LIKE '%keys_of_members%'")
    await connection.close()
    await migrate(node.dsn)
    await migrate(node.dsn)
    again = await node.post("/v1/transfers", transfer(ada, bob), role=role, key=KEY)
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (201, first.body, "true")
    assert (await node.post("/v1/purchases", basket({"card": ada["card"]}, "1"), role="pos", key=KEY)).status == 201


async def test_a_members_key_is_the_same_from_whichever_region(
    database: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    far = await postgres_server.create_database()
    async with running_regions({"eu": database, "us": far}, tmp_path) as nodes:
        eu, us = nodes["eu"], nodes["us"]
        ada, bob = await eu.enrol(), await us.enrol()
        await eu.give(ada["member_id"], 10)
        role = us.as_member(ada["member_id"])
        first = await us.post("/v1/transfers", transfer(ada, bob), role=role, key=KEY)
        again = await eu.post("/v1/transfers", transfer(ada, bob), role=role, key=KEY)
        assert (first.status, again.status, again.body) == (201, 201, first.body)
        assert first.headers["Loyalty-Region"] == "eu"
    await postgres_server.drop_database(far)


async def test_a_member_who_is_refused_again_and_again_fills_no_table(node: RunningNode) -> None:
    ada, bob = await node.enrol(), await node.enrol()
    role = node.as_member(ada["member_id"])

    async def ask(number: int) -> Reply:
        return await node.post("/v1/transfers", transfer(ada, bob), role=role, key=f"poor-{number}")

    replies = [await ask(number) for number in range(OF_MEMBER_MAX + 20)]
    assert {(reply.status, reply.code) for reply in replies} == {(422, "insufficient_points")}
    connection = await asyncpg.connect(node.dsn)
    rows = await connection.fetchval("SELECT count(*) FROM idempotency WHERE credential LIKE 'member:%'")
    await connection.close()
    assert rows == OF_MEMBER_MAX
    await node.give(ada["member_id"], 10)
    stored, decided_anew = await ask(0), await ask(OF_MEMBER_MAX)
    assert (stored.status, stored.body, decided_anew.status) == (422, replies[0].body, 201)
