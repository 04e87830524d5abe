"""Several command nodes of one region on one shard: each member is one node's, and any node may be asked."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from benchmarks.turns import Turns
from benchmarks.wire import Client
from shard_router.member_id import parse_member_id
from tests.command_node import Reply, RunningNode, running_nodes
from tests.conftest import eventually

CONFLICTS_MAX = 0.001
"""Of the commands, as the issue wants it."""


async def metric(node: RunningNode, name: str) -> float:
    async with node.session.get(f"{node.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def handed_over(node: RunningNode) -> float:
    """By all nodes of this process: they share the counter."""
    return await metric(node, 'loyalty_forwarded_total{region="eu"}')


async def load(nodes: list[RunningNode], members: list[str], rounds: int) -> set[int]:
    """Points for every member at every node, all at once."""
    replies = await asyncio.gather(
        *(given(node, member) for _ in range(rounds) for member in members for node in nodes)
    )
    return {reply.status for reply in replies}


async def given(node: RunningNode, member: str) -> Reply:
    """A point, with the same key until the database answers in time: beside much other work it may not."""
    body, key = {"member": {"member_id": member}, "points": 1, "reason": "test"}, f"point-{next(node.numbers)}"
    while (reply := await node.insist("/v1/adjustments", body, key=key)).status == 503:
        assert reply.json["retryable"]
    return reply


@pytest.mark.parametrize("know_each_other", [True, False])
async def test_two_nodes_on_one_shard_do_not_fight(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, know_each_other: bool
) -> None:
    """With members at both nodes at once less than one command in a thousand meets another node's row."""
    # Who stands still for a while is left alone by the other: both live in this process, which may stand still.
    monkeypatch.setattr("service.peer.PROBE_TIMEOUT_S", 60)
    async with running_nodes(database, tmp_path, know_each_other=know_each_other, deadline_ms=60_000) as nodes:
        members = [(await nodes[0].enrol())["member_id"] for _ in range(8)]
        before = await handed_over(nodes[0])

        async def meet() -> bool:
            return await conflicting(nodes, members) >= CONFLICTS_MAX

        if know_each_other:
            assert not await meet()
        else:
            await eventually(meet)  # it takes two batches at once
        assert (await handed_over(nodes[0]) > before) is know_each_other


async def conflicting(nodes: list[RunningNode], members: list[str]) -> float:
    """Which part of a burst at all nodes met another node's row."""
    conflicts, commands = await total(nodes, "conflicts"), await total(nodes, "commands")
    assert await load(nodes, members, 16) == {201}
    conflicts, commands = await total(nodes, "conflicts") - conflicts, await total(nodes, "commands") - commands
    assert commands >= 8 * 16 * 2
    return conflicts / commands


async def total(nodes: list[RunningNode], what: str) -> float:
    return sum([await metric(node, f"loyalty_{what}_total") for node in nodes])


async def test_the_same_bytes_are_handed_over_once_and_answered_once(database: str, tmp_path: Path) -> None:
    """Same key at every node: one effect, and every answer is the same."""
    async with running_nodes(database, tmp_path, count=3) as nodes:
        member = await nodes[0].enrol()
        body = json.dumps({"member": {"card": member["card"]}, "points": 7, "reason": "Grüße"}).encode()
        replies = [await node.post("/v1/adjustments", body, key="once") for node in nodes * 2]
        assert {reply.status for reply in replies} == {201}
        assert len({reply.body for reply in replies}) == 1
        assert {reply.headers["Loyalty-Region"] for reply in replies} == {"eu"}
        assert replies[-1].json["account"]["balance"]["available"] == 7


async def test_members_of_a_node_that_is_away_are_served_where_they_are_asked_for(
    database: str, tmp_path: Path
) -> None:
    async with running_nodes(database, tmp_path, count=1, dead=1) as (node,):
        members = [(await node.enrol())["member_id"] for _ in range(16)]
        assert [(await node.give(member, 1)).status for member in members] == [201] * 16
        assert all(node.inner.serves(parse_member_id(member)) for member in members)


async def test_a_member_is_settled_by_one_node(database: str, tmp_path: Path) -> None:
    """Else each would meet the other's rows every time a lot expires."""
    async with running_nodes(database, tmp_path, count=2) as (one, other):
        members = [parse_member_id((await one.enrol())["member_id"]) for _ in range(32)]
        own = [one.inner.serves(member) for member in members]
        assert own == [not other.inner.serves(member) for member in members]
        assert 0 < sum(own) < 32


async def test_a_node_that_hangs_is_left_alone_its_members_are_served_and_it_is_taken_back(
    database: str, tmp_path: Path
) -> None:
    """A process of its own, stopped by a signal: it takes connections and answers nothing."""
    async with running_nodes(database, tmp_path, count=1, dead=1) as (node,), process_of_node(tmp_path) as other:
        members = [(await node.enrol())["member_id"] for _ in range(16)]
        numbers = [parse_member_id(member) for member in members]

        async def shares() -> bool:
            return not all(map(node.inner.serves, numbers))

        await eventually(shares)
        assert [(await node.give(member, 1)).status for member in members] == [201] * 16
        other.send_signal(signal.SIGSTOP)
        assert [(await node.give(member, 1)).status for member in members] == [201] * 16
        assert all(map(node.inner.serves, numbers))
        other.send_signal(signal.SIGCONT)
        await eventually(shares)
        replies = [await node.give(member, 1) for member in members]
        assert {reply.json["account"]["balance"]["available"] for reply in replies} == {3}


async def test_the_load_leaves_out_a_node_that_hangs_and_takes_it_back(database: str, tmp_path: Path) -> None:
    async with running_nodes(database, tmp_path, count=1, dead=1) as (node,), process_of_node(tmp_path) as other:
        here, there = (Client(url, "") for url in topology_of(tmp_path))
        turns = Turns([here, there])

        async def both() -> bool:
            return {turns.next, turns.next} == {here, there}

        async def one() -> bool:
            return (turns.next, turns.next) == (here, here)

        try:
            assert here.base_url == node.url
            assert await both()
            other.send_signal(signal.SIGSTOP)
            await eventually(one)
            other.send_signal(signal.SIGCONT)
            await eventually(both)
        finally:
            turns.close()


def topology_of(folder: Path) -> list[str]:
    """The command nodes that the topology lists."""
    return json.loads((folder / "topology.json").read_text())["regions"]["eu"]["command"]


@asynccontextmanager
async def process_of_node(folder: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The second node that the topology lists."""
    url = topology_of(folder)[1]
    settings = {"region": "eu", "port": url.rpartition(":")[2], "address": url, "overload_delay_ms": "60000"}
    paths = {name: str(folder / f"{name}.json") for name in ("topology", "credentials")}
    env = os.environ | {f"LOYALTY_{name.upper()}": value for name, value in (settings | paths).items()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "command", env=env)
    try:
        async with ClientSession() as session:

            async def ready() -> bool:
                with suppress(ClientError):
                    async with session.get(f"{url}/readyz") as answer:
                        return answer.status == 200
                return False

            await eventually(ready, deadline_s=30)
        yield process
    finally:
        process.kill()
        await process.wait()
