"""Too much to do: refused before anything is read, on a connection that stays usable; what nobody waits for is left."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest

from command.lane import CALM
from service.admission import TARGET_S, Gate
from service.web import GATES
from tests.command_node import running_command_node
from tests.conftest import eventually
from tests.http_node import Node, connection, read_answer, running_node, until_read
from tests.sql import held_table


@pytest.fixture
async def node(tmp_path: Path) -> AsyncGenerator[Node]:
    async with running_node(tmp_path) as running:
        yield running


def fill(node: Node, by: int) -> None:
    node.app[GATES].node.taken += by


@pytest.mark.parametrize("parts", ["whole", "head first", "never whole"])
async def test_a_refusal_comes_before_the_body_and_leaves_the_connection_usable(node: Node, parts: str) -> None:
    body = b'{"a": "b"}'
    request = node.request(body)
    head = request[: -len(body)]
    async with connection(node.port) as (reader, writer), asyncio.timeout(20):
        fill(node, 10_000)
        writer.write(request if parts == "whole" else head)
        answer = await read_answer(reader)
        assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "overloaded", "1")
        fill(node, -10_000)
        if parts == "never whole":  # it is waited for no longer than the server lingers
            assert await reader.read() == b""
            return
        writer.write(body if parts == "head first" else b"")
        writer.write(request)
        answer = await read_answer(reader)
        assert (answer.status, answer.json) == (200, {"bytes": len(body)})
    assert node.app[GATES].node.taken == 0


async def test_what_is_refused_at_the_door_never_reaches_the_parser(node: Node) -> None:
    assert node.runner.server is not None
    fill(node, 10_000)
    for _ in range(20):
        assert (await node.send(node.request(b"{}"))).status == 503
    assert node.runner.server.requests_count == 0
    fill(node, -10_000)
    assert (await node.send(node.request(b"{}"))).status == 200
    assert node.runner.server.requests_count == 1


@pytest.mark.parametrize("line", ["", "Host: node\r\nHost: node\r\n", "Host: node\r\nContent-Type: a/b\r\n"])
async def test_what_the_parser_does_not_take_keeps_no_place(node: Node, line: str) -> None:
    """The door needs no credential and takes it for plain: strangers could fill a node for good."""
    request = node.request(b"{}").replace(b"Host: node\r\n", line.encode())
    assert [(await node.send(request)).status for _ in range(2)] == [400, 400]
    assert node.app[GATES].node.taken == 0


async def test_probes_are_answered_whatever_there_is_to_do(node: Node) -> None:
    fill(node, 10_000)
    assert (await node.send(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n")).status == 200
    fill(node, -10_000)


@pytest.mark.parametrize("begin", [0, 40], ids=["whole head", "head in pieces"])
async def test_bytes_of_a_body_that_look_like_a_request_are_none(node: Node, begin: int) -> None:
    """Answered by the door they would give the connection one answer more than it has requests."""
    inner = node.request(b"{}")
    request = node.request(b" " * 20 + inner)
    async with connection(node.port) as (reader, writer), asyncio.timeout(5):
        fill(node, 10_000)
        writer.write(request[:begin])
        await until_read()
        writer.write(request[begin : -len(inner)])
        assert (await read_answer(reader)).status == 503
        writer.write(inner)
        fill(node, -10_000)
        await until_read()
        writer.write(node.request(b"{}", target="/thing", method="GET"))
        assert (await read_answer(reader)).json == {"query": {}}


async def test_a_shard_that_does_nothing_is_given_a_batch_to_do_and_the_others_are_refused(
    database: str, tmp_path: Path
) -> None:
    async with running_command_node(database, tmp_path, deadline_ms=30_000) as node:
        member = (await node.enrol())["member_id"]
        gate = node.inner.lanes_of("eu-1").gate
        gate.target_s = TARGET_S
        async with held_table(database):
            body = {"member": {"member_id": member}, "points": 1, "reason": "test"}
            asking = [asyncio.create_task(node.post("/v1/adjustments", body)) for _ in range(CALM)]

            async def refused() -> bool:
                asking.append(asyncio.create_task(node.post("/v1/adjustments", body)))
                return gate.limit == CALM and any(task.done() for task in asking)

            await eventually(refused)
        answers = await asyncio.gather(*asking)
        codes = {answer.code for answer in answers if answer.status != 201}
        done = sum(answer.status == 201 for answer in answers)
        assert codes == {"overloaded"}
        assert done > CALM / 2
        assert gate.taken == 0
        reply = await node.give(member, 1)
        assert reply.json["account"]["balance"]["available"] == done + 1


async def test_a_batch_leaves_half_of_who_is_let_in_to_the_next(database: str, tmp_path: Path) -> None:
    """All in one batch, and nobody is decided while it commits."""
    async with running_command_node(database, tmp_path) as node:
        member = (await node.enrol())["member_id"]
        lanes = node.inner.lanes_of("eu-1")
        lanes.gate = Gate("small", 8)
        async with held_table(database):
            asking = [asyncio.create_task(node.give(member, 1)) for _ in range(6)]

            async def waits() -> bool:
                return lanes.gate.taken == len(asking) and lanes.oldest_waited_s() > 0

            await eventually(waits)
        assert [(await asked).status for asked in asking] == [201] * len(asking)
        async with node.session.get(f"{node.url}/metrics") as told:
            metrics = await told.text()
        counts = re.findall(r'^loyalty_batch_commands_(?:bucket{le="4.0"}|count) (.*)$', metrics, re.MULTILINE)
        assert len(counts) == 2
        assert counts[0] == counts[1]


async def test_a_command_whose_asker_has_gone_is_not_begun(database: str, tmp_path: Path) -> None:
    async with running_command_node(database, tmp_path) as node:
        member = (await node.enrol())["member_id"]
        lanes = node.inner.lanes_of("eu-1")
        async with held_table(database):
            first = asyncio.create_task(node.give(member, 1))  # begins, and waits for the table
            gone = asyncio.create_task(node.give(member, 10))

            async def waits() -> bool:
                return lanes.gate.taken == 2 and lanes.oldest_waited_s() > 0

            await eventually(waits)
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            for _ in range(20):
                await asyncio.sleep(0)  # the node reads in this loop
        assert (await first).status == 201
        reply = await node.give(member, 100)
        assert reply.json["account"]["balance"]["available"] == 101
