"""A member's token tells nothing about who else is a member, neither by an answer nor by what comes with it."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from rules.guess import STRANGERS_MAX
from shard_router.card import new_card
from shard_router.member_id import format_member_id, new_member_id
from tests.command_node import Reply, RunningNode, running_command_node, running_regions
from tests.engine import PostgresServer

STRANGER = {"phone": "+4930999999"}


@pytest.fixture
async def node(database: str, tmp_path: Path) -> AsyncGenerator[RunningNode]:
    async with running_command_node(database, tmp_path) as running:
        yield running


@pytest.fixture
async def regions(
    database: str, postgres_server: PostgresServer, tmp_path: Path
) -> AsyncGenerator[dict[str, RunningNode]]:
    far = await postgres_server.create_database()
    async with running_regions({"eu": database, "us": far}, tmp_path) as nodes:
        yield nodes
    await postgres_server.drop_database(far)


def shown(reply: Reply) -> tuple[int, dict[str, str], dict[str, Any]]:
    """All that a client sees, but for what differs from request to request."""
    headers = {name: text for name, text in reply.headers.items() if name not in {"Request-Id", "Date"}}
    return reply.status, headers, {name: value for name, value in reply.json.items() if name != "request_id"}


async def all_names(node: RunningNode, number: int, **more: str) -> list[dict[str, str]]:
    """A new member as a body may name them."""
    card = f"club-{number}"
    names = {"phone": f"+493012345{number}", "email": f"m{number}@example.com"} | more
    member = await node.enrol(**names, card=card)
    drawn = await node.enrol()
    return [
        {"member_id": member["member_id"]},
        {"member_id": drawn["member_id"]},
        {"card": drawn["card"]},
        {"card": card},
        *({kind: text} for kind, text in names.items()),
    ]


async def test_from_anybody_else_is_answered_alike_wherever_they_live_and_whether_they_exist(
    regions: dict[str, RunningNode],
) -> None:
    eu, us = regions["eu"], regions["us"]
    ada = await eu.enrol(phone="+4930555555", email="ada@example.com")
    nobody = [
        *({"member_id": format_member_id(new_member_id(number, 7))} for number in (1, 2, 9)),
        *({"card": new_card(number, 7)} for number in (1, 2, 9)),
        *({"member_id": "0" * 14}, {"card": "club-0"}, {"email": "nobody@example.com"}, STRANGER),
    ]
    names = [*nobody, *await all_names(eu, 1), *await all_names(us, 2)]
    for node in (eu, us):
        role = node.as_member(ada["member_id"])
        replies = [
            await node.post("/v1/transfers", {"from": name, "to": STRANGER, "points": 1}, role=role) for name in names
        ]
        first = shown(replies[0])
        assert (first[0], first[2]["code"]) == (404, "member_not_found")
        assert first[1]["Loyalty-Region"] == "eu"
        assert [shown(reply) for reply in replies] == [first] * len(names)


async def test_a_member_names_themselves_by_anything_they_are_found_by(regions: dict[str, RunningNode]) -> None:
    eu, us = regions["eu"], regions["us"]
    ada = await eu.enrol(phone="+4930555555", email="ada@example.com")
    bob = await us.enrol(phone="+4930666666")
    await eu.give(ada["member_id"], 100)
    own = [
        *({"member_id": text} for text in (ada["member_id"], ada["member_id"].lower())),
        *({"card": ada["card"]}, {"phone": "+4930555555"}, {"email": "Ada@Example.com"}),
    ]
    for node in (eu, us):
        role = node.as_member(ada["member_id"])
        for name in own:
            body = {"from": name, "to": {"phone": "+4930666666"}, "points": 1}
            assert (await node.post("/v1/transfers", body, role=role)).status == 201, name
    await eu.run_errands()
    received = await us.give(bob["member_id"], 1)
    assert received.json["account"]["balance"]["available"] == 1 + 2 * len(own)


async def test_a_receiver_is_looked_for_only_when_the_senders_points_suffice(node: RunningNode) -> None:
    ada, bob = await node.enrol(), await node.enrol(phone="+4930666666")
    role = node.as_member(ada["member_id"])
    blocker = await asyncpg.connect(node.dsn)
    await node.give(ada["member_id"], 10)
    body = {"from": {"member_id": ada["member_id"]}, "points": 11}
    names = ({"member_id": bob["member_id"]}, {"phone": "+4930666666"}, STRANGER)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE claim IN ACCESS EXCLUSIVE MODE")  # whoever looks somebody up waits for it
        replies = [await node.post("/v1/transfers", body | {"to": name}, role=role) for name in names]
    await blocker.close()
    assert {(reply.status, reply.code) for reply in replies} == {(422, "insufficient_points")}
    assert len({str(shown(reply)) for reply in replies}) == 1


async def test_nobody_and_somebody_who_may_not_receive_are_answered_alike(node: RunningNode) -> None:
    ada, gone = await node.enrol(), await node.enrol()
    await node.give(ada["member_id"], 10)
    await node.delete(f"/v1/members/{gone['member_id']}")
    names = [{"member_id": gone["member_id"]}, {"member_id": format_member_id(new_member_id(1, 7))}, STRANGER]
    for role in (node.as_member(ada["member_id"]), "pos", "service"):
        body = {"from": {"member_id": ada["member_id"]}, "points": 1}
        replies = [await node.post("/v1/transfers", body | {"to": name}, role=role) for name in names]
        assert [shown(reply) for reply in replies] == [shown(replies[0])] * len(names)
        assert (replies[0].code, replies[0].json["errors"][0]["pointer"]) == ("member_not_found", "/to")


async def test_failed_look_ups_are_bounded_for_each_member_and_hour(node: RunningNode) -> None:
    ada, bob = await node.enrol(), await node.enrol()
    for member in (ada, bob):
        await node.give(member["member_id"], 100)
    role = node.as_member(ada["member_id"])
    guess = {"from": {"member_id": ada["member_id"]}, "to": STRANGER, "points": 1}
    right = guess | {"to": {"member_id": bob["member_id"]}}
    sent = await node.post("/v1/transfers", right, role=role, key="sent-before")
    poor = [await node.post("/v1/transfers", guess | {"points": 1_000}, role=role) for _ in range(STRANGERS_MAX)]
    assert {reply.code for reply in poor} == {"insufficient_points"}, "nothing was looked up, nothing is counted"
    replies = await asyncio.gather(*(node.post("/v1/transfers", guess, role=role) for _ in range(2 * STRANGERS_MAX)))
    codes = [reply.code for reply in replies]
    assert (codes.count("member_not_found"), codes.count("rate_limited")) == (STRANGERS_MAX, STRANGERS_MAX)
    limited = await node.post("/v1/transfers", right, role=role, key="limited")
    assert (limited.status, limited.code) == (429, "rate_limited")
    assert 3_500 < int(limited.headers["Retry-After"]) <= 3_600
    again = await node.post("/v1/transfers", right, role=role, key="sent-before")
    assert (again.status, again.body) == (201, sent.body), "what was answered before is answered again"
    others = {"from": {"member_id": bob["member_id"]}, "to": {"member_id": ada["member_id"]}, "points": 1}
    assert (await node.post("/v1/transfers", others, role=node.as_member(bob["member_id"]))).status == 201
    for staff in ("pos", "service"):
        assert (await node.post("/v1/transfers", guess, role=staff)).code == "member_not_found"
        assert (await node.post("/v1/transfers", right, role=staff)).status == 201
    connection = await asyncpg.connect(node.dsn)
    await connection.execute("UPDATE wrong_guess SET guessed_at = guessed_at - interval '1 hour'")
    await connection.close()
    assert (await node.post("/v1/transfers", right, role=role, key="limited")).status == 201


async def test_erasing_anybody_else_is_answered_alike(regions: dict[str, RunningNode]) -> None:
    eu, us = regions["eu"], regions["us"]
    ada, eve, bob = await eu.enrol(), await eu.enrol(), await us.enrol()
    ids = [format_member_id(new_member_id(number, 7)) for number in (1, 2, 9)]
    ids += [eve["member_id"], bob["member_id"], "0" * 14, "x"]
    for node in (eu, us):
        role = node.as_member(ada["member_id"])
        replies = [await node.delete(f"/v1/members/{one}", role=role) for one in ids]
        assert [shown(reply) for reply in replies] == [shown(replies[0])] * len(ids)
        assert (replies[0].status, replies[0].code) == (404, "member_not_found")
