"""Claims and receipts move to and fro between shards, by a seed, while members buy, get phones and lose them.

Whoever moves them is cut off at any time and goes on; nodes know of it late. No phone has two holders, no receipt two
purchases, and neither is lost.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest

from cluster.document import Documents
from cluster.transition import take_over
from command import claim_move
from command.register import Register
from shard_router.topology import TopologyDocument, TopologyWatch, read_topology
from tests.command_node import PROGRAM, RunningNode, basket, running_regions
from tests.engine import PostgresServer
from tests.long import long
from verify import receipt as receipts
from verify.across import Across
from verify.identifier import check_identifiers
from verify.receipt import check_receipts

SEEDS = (0, pytest.param(1, marks=long))
FLIPS = 3
HOMES, MOVING = ("us", "jp"), ("eu", "sa")
PHONES = [f"+4930{number:06}" for number in range(5)]
STORES = "".join(
    f'[[stores]]\ncode = "{code}"\nname = "{code}"\nregion = "{region}"\n'
    for code, region in (("sa1", "sa"), ("us1", "us"))
)
ANSWERS = {200, 201, 404, 409, 503}
"""A 503 is "again": its key tells what became of it, and the end shows whether anything of it was left behind."""


class World:
    """Two regions in which members live, two that come and go, and what is asked of them all."""

    def __init__(self, nodes: dict[str, RunningNode], folder: Path, dsns: dict[str, str], seed: int) -> None:
        self.everybody, self.nodes = [*nodes.values()], {name: nodes[name] for name in HOMES}
        self.documents, self.random = Documents(folder), Random(seed)
        self.primaries = {f"{name}-1": dsn for name, dsn in dsns.items()}
        self.whole = read_topology(self.documents.topology).document
        self.states = dict.fromkeys(dsns, "active")
        self.members: list[str] = []
        self.sold: set[tuple[str, str]] = set()
        self.done = asyncio.Event()

    @property
    def node(self) -> RunningNode:
        return self.nodes[self.random.choice(HOMES)]

    async def flip(self, region: str) -> None:
        """Take a region out, or in."""
        if self.states.get(region):
            await self._set_up(region, "draining")
            await self._set_up(region, None)
        else:
            await self._set_up(region, "joining")
            await self._set_up(region, "active")

    async def _set_up(self, region: str, state: str | None) -> None:
        """As `cluster.setup` does, once all have heard of what was before; perhaps cut off, and done again."""
        for node in self.everybody:
            node.inner.topology.look()
        self.states = {**self.states, region: state}
        regions = {
            name: {**self.whole.regions[name].model_dump(), "state": known}
            for name, known in self.states.items()
            if known
        }
        shards = {f"{name}-1": self.whole.shards[f"{name}-1"].model_dump() for name in regions}
        document = TopologyDocument.model_validate({"epoch": 1, "regions": regions, "shards": shards})
        for _ in range(self.random.randrange(3)):
            going = asyncio.create_task(take_over(self.documents, document, self.primaries))
            await asyncio.wait([going], timeout=self.random.random() / 2)
            going.cancel()
            with suppress(asyncio.CancelledError):
                await going
        await take_over(self.documents, document, self.primaries)

    async def sell(self) -> None:
        store, receipt = self.random.choice(("330", "sa1", "us1")), str(self.random.randrange(6))
        body = basket({"member_id": self.random.choice(self.members)}, receipt) | {"store": store}
        reply = await self.node.post("/v1/purchases", body)
        assert reply.status in ANSWERS, reply.body
        if reply.status == 201:
            self.sold.add((store, receipt))
        home = self.random.choice(HOMES)
        await Register(self.nodes[home].inner).work_off(f"{home}-1")

    async def change_phone(self) -> None:
        path = f"/v1/members/{self.random.choice(self.members)}/identifiers"
        what = self.random.choice(("add", "remove"))
        reply = await self.node.post(path, {what: [{"phone": self.random.choice(PHONES)}]})
        assert reply.status in ANSWERS, reply.body
        await self.node.run_errands()

    async def all_the_time(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self.done.is_set():
            await work()

    async def execute(self, sql: str) -> list[Any]:
        found: list[Any] = []
        for dsn in self.primaries.values():
            connection = await asyncpg.connect(dsn)
            found += await connection.fetch(sql)
            await connection.close()
        return found

    async def come_to_rest(self) -> None:
        """All that is due is done."""
        for node in self.everybody:
            node.inner.topology.look()
        await self.execute("UPDATE claim SET leased_until = now() - interval '1 s' WHERE leased_until IS NOT NULL")
        while await self.execute(
            "WITH due AS (UPDATE unclaimed_receipt SET due_at = now() RETURNING 1), "
            "errands AS (UPDATE errand SET due_at = now() RETURNING 1) SELECT FROM due UNION ALL SELECT FROM errands"
        ):
            for home, node in self.nodes.items():
                await node.run_errands()
                await Register(node.inner).work_off(f"{home}-1")

    async def faults(self) -> list[str]:
        """What `loyalty verify` says of identifiers and receipts."""
        async with AsyncExitStack() as stack:
            watch = TopologyWatch(self.documents.topology)
            connections: dict[str, Any] = {}
            for name in watch.current.document.shards:
                connections[name] = await asyncpg.connect(self.primaries[name])
                stack.push_async_callback(connections[name].close)
                await stack.enter_async_context(connections[name].transaction(isolation="repeatable_read"))
            across = Across(connections, watch.current)
            directory = next(iter(self.nodes.values())).inner.directory
            findings = [*await check_identifiers(across, directory), *await check_receipts(across)]
            return [fault for finding in findings for fault in finding.examples]


@pytest.fixture(params=SEEDS)
async def world(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncGenerator[World]:
    monkeypatch.setattr(receipts, "SETTLED_WITHIN", timedelta())
    monkeypatch.setattr(claim_move, "SLOTS_AT_ONCE", 1_000)
    dsns = {name: await postgres_server.create_database() for name in (*HOMES, *MOVING)}
    async with running_regions(dsns, tmp_path, program=PROGRAM + STORES) as nodes:
        yield World(nodes, tmp_path, dsns, request.param)
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


async def test_nothing_is_had_twice_or_lost_while_it_moves(world: World) -> None:
    for home in HOMES:
        world.members += [(await world.nodes[home].enrol())["member_id"] for _ in range(3)]
    works = [world.sell, world.sell, world.change_phone, world.change_phone]
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(world.all_the_time(work))
        for _ in range(FLIPS):
            await world.flip(world.random.choice(MOVING))
        world.done.set()
    await world.come_to_rest()
    assert await world.faults() == []
    kept = {(row["store"], row["receipt"]) for row in await world.execute("SELECT store, receipt FROM purchase")}
    assert world.sold <= kept
    held = {row["value"] for row in await world.execute("SELECT value FROM identifier WHERE kind = 'phone'")}
    for phone in PHONES:
        reply = await world.node.post("/v1/members", {"phone": phone})
        assert (reply.status == 201) == (phone not in held), reply.body
