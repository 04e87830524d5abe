"""To a member's own token whoever else there is looks like nobody, whatever is asked and wherever they live."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from query.operation import OPERATIONS
from service.openapi import Operation
from shard_router.card import new_card
from shard_router.member_id import compose_member_id, format_member_id, format_reference
from tests.query_world import Reply, ShardPlace, World, member, open_world, write_member, write_row

ADA, BOB, EVE = member(1), member(2, region="us"), member(3)
PHONES = {ADA: "+49301234561", BOB: "+49301234562", EVE: "+49301234563"}
NOBODY = [compose_member_id(number, slot=7, unique=99) for number in (1, 2, 9)]
OF_OTHERS = [one for one in OPERATIONS if "member" in one.roles and "_id}" in one.path]


@pytest.fixture
async def world(tmp_path: Path, two_shards: dict[str, ShardPlace]) -> AsyncGenerator[World]:
    eu, us = two_shards.values()
    async with open_world(tmp_path, two_shards) as opened:
        for place, member_id in ((eu, ADA), (eu, EVE), (us, BOB)):
            await write_member(place.primary, member_id)
            await write_row(place.primary, "identifier", _row("phone", PHONES[member_id], member_id))
        yield opened


def _row(kind: str, value: str, member_id: int) -> dict[str, Any]:
    return {"kind": kind, "value": value, "member_id": member_id, "version": 1}


def shown(reply: Reply) -> tuple[int, dict[str, str], dict[str, Any]]:
    """All that a client sees, but for what differs from request to request."""
    headers = {name: text for name, text in reply.headers.items() if name not in {"Request-Id", "Date"}}
    return reply.status, headers, {name: value for name, value in reply.json.items() if name != "request_id"}


@pytest.mark.parametrize("operation", OF_OTHERS, ids=lambda one: one.operation_id)
async def test_another_member_is_like_nobody(world: World, operation: Operation) -> None:
    kind = "pur" if "purchase" in operation.path else None
    ids = [EVE, BOB, *NOBODY]
    names = [format_reference(kind, one, 1) if kind else format_member_id(one) for one in ids]
    head, _, tail = operation.path.partition("{")
    for region in world.nodes:
        replies = [
            await world.get(head + name + tail.partition("}")[2], region=region, credential=world.member_token(ADA))
            for name in (*names, "x", "pur_x-1", "0" * 14)
        ]
        assert [shown(reply) for reply in replies] == [shown(replies[0])] * len(replies)
        assert replies[0].status == 404


async def test_a_basket_for_another_member_is_like_one_for_nobody(world: World) -> None:
    names = [{"phone": PHONES[one]} for one in (EVE, BOB)] + [{"phone": "+49301234569"}]
    names += [{"card": new_card(n, 7)} for n in (1, 2, 9)]
    names += [{"email": "nobody@example.com"}, {"card": "club-1"}]
    for region in world.nodes:
        token = world.member_token(ADA)
        replies = [await world.post("/v1/evaluations", basket(name), region=region, credential=token) for name in names]
        assert [shown(reply) for reply in replies] == [shown(replies[0])] * len(replies)
        assert (replies[0].status, replies[0].headers["Loyalty-Region"]) == (404, "eu")


def basket(name: dict[str, str]) -> dict[str, Any]:
    line = {"sku": "a", "quantity": 1, "amount": 100}
    till = {"store": "berlin-1", "till": "1", "receipt": "1", "occurred_at": "2026-11-22T10:00:00Z"}
    return {"member": name, "currency": "EUR", "lines": [line]} | till
