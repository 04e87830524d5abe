"""Who holds how much of a node: silent bodies and busy credentials keep nobody else out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.payload import ARRIVING
from service.web import UNDER_WAY
from tests.conftest import eventually
from tests.http_node import Answer, Node, connection, read_answer, running_node

PLACES = 16
SHARE = PLACES // 4


@pytest.fixture
async def node(tmp_path: Path) -> AsyncGenerator[Node]:
    async with running_node(tmp_path, in_flight_max=PLACES, bodies_arriving_max=PLACES) as running:
        yield running


async def ask(node: Node, credential: str) -> Answer:
    return await node.send(node.request(b"{}", credential=credential))


async def open_silently(node: Node, stack: AsyncExitStack, credential: str, count: int) -> list[asyncio.StreamReader]:
    """Requests whose body is announced and does not come."""
    readers: list[asyncio.StreamReader] = []
    for _ in range(count):
        reader, writer = await stack.enter_async_context(connection(node.port))
        writer.write(node.request(b"", "Content-Length: 100", credential=credential))
        await writer.drain()
        readers.append(reader)
    return readers


async def test_silent_bodies_of_one_credential_hold_a_quarter_of_their_bound_and_no_place(node: Node) -> None:
    async with AsyncExitStack() as stack:
        readers = await open_silently(node, stack, node.member_token(1), 5 * PLACES)

        async def settled() -> bool:
            return node.app[ARRIVING].taken == SHARE

        await eventually(settled)
        answers = await asyncio.gather(*(read_answer(reader) for reader in readers[SHARE:]))
        assert {(answer.status, answer.json["code"]) for answer in answers} == {(429, "rate_limited")}
        assert node.app[UNDER_WAY].taken == 0
        for credential in (node.keys["pos"], node.member_token(2), node.member_token(1)):
            assert (await ask(node, credential)).status == 200


async def test_silent_bodies_of_many_leave_room_for_every_body_that_comes_at_once(node: Node) -> None:
    async with AsyncExitStack() as stack:
        for number in range(8):
            await open_silently(node, stack, node.member_token(number), SHARE)

        async def full() -> bool:
            return node.app[ARRIVING].taken == PLACES

        await eventually(full)
        assert (await ask(node, node.keys["pos"])).status == 200


async def test_a_body_that_leaves_gives_its_room_back(node: Node) -> None:
    async with AsyncExitStack() as stack:
        await open_silently(node, stack, node.member_token(1), SHARE)

        async def taken() -> bool:
            return node.app[ARRIVING].taken == SHARE

        await eventually(taken)

    async def given_back() -> bool:
        return node.app[ARRIVING].taken == 0

    await eventually(given_back)


@pytest.mark.parametrize(("role", "held"), [("member", SHARE), ("pos", SHARE), ("service", SHARE), ("admin", PLACES)])
async def test_no_credential_below_admin_holds_more_than_a_quarter_of_the_places(
    node: Node, role: str, held: int
) -> None:
    credential = node.keys.get(role) or node.member_token(1)
    request = node.request(b"{}", target="/wait", credential=credential)
    asking = [asyncio.create_task(node.send(request)) for _ in range(PLACES + 1)]

    async def refused() -> bool:
        return sum(task.done() for task in asking) == PLACES + 1 - held

    await eventually(refused)
    code = "overloaded" if role == "admin" else "rate_limited"
    assert {task.result().json["code"] for task in asking if task.done()} == {code}
    assert node.waiting == held
    if role != "admin":
        assert (await ask(node, node.member_token(2))).status == 200
    node.let_go.set()
    assert [answer.status for answer in await asyncio.gather(*asking)].count(200) == held
    assert node.app[UNDER_WAY].taken == 0


async def test_a_body_in_pieces_is_read_before_its_place_is_taken(node: Node) -> None:
    whole = node.request(b'{"a": "b"}', target="/bytes")
    answer = await node.send(whole[:-5], whole[-5:])
    assert (answer.status, answer.json) == (200, {"bytes": 10})
