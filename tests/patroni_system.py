"""A shard under Patroni with a command node, a projector and a till of ours, which go on while it is broken."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientError, ClientSession

from command.program import apply_program
from shard_router.login import POSTGRES_USERS, PostgresRole
from tests.cdc_node import CdcNode, cdc_node, write_topology
from tests.command_node import PROGRAM, Reply, basket
from tests.conftest import eventually
from tests.engine import as_valkey_user, embedded_valkey, free_port
from tests.keys import write_credentials
from tests.patroni_world import DEADLINE_S, SLOT, Member, Shard, need_patroni, patroni_shard
from tests.project import PROJECT
from verify.verify import verify

TARGETS_S = {"primary killed": 10, "primary frozen": 30}


@dataclass
class Node:
    """A command node as a client sees it."""

    url: str
    key: str
    session: ClientSession

    async def post(self, path: str, body: Any, key: str) -> Reply:
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": key}
        async with self.session.post(self.url + path, json=body, headers=headers) as answer:
            return Reply(answer.status, dict(answer.headers), await answer.read())

    async def ready(self) -> bool:
        with suppress(OSError, ClientError):
            async with self.session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        return False


@dataclass
class System:
    """The shard with a node, a projector that is started again whenever it ends, and a till."""

    shard: Shard
    node: Node
    projector: CdcNode
    operator: Path
    tell: Callable[[str], None]
    acknowledged: list[str] = field(default_factory=list[str])
    members: int = 0
    at: list[float] = field(default_factory=list[float])

    async def keep_projector(self) -> None:
        while True:
            await self.projector.spawn()
            assert self.projector.process is not None
            await self.projector.process.wait()

    async def sell(self, member: dict[str, str], stop: asyncio.Event) -> None:
        """One basket after another; each is sent with its key until somebody knows."""
        while not stop.is_set():
            receipt = f"patroni-{len(self.acknowledged)}"
            body = basket(member, receipt)
            while (reply := await self.node.post("/v1/purchases", body, receipt)).status >= 400:
                assert reply.json["retryable"], reply.body
                await pause(stop, 0.2)
            assert reply.status == 201, reply.body
            self.acknowledged.append(receipt)
            self.at.append(time.monotonic())
            await pause(stop, 0.02)

    @asynccontextmanager
    async def selling(self) -> AsyncGenerator[None]:
        """Sell while the block lasts; then what was acknowledged is there once, and every promise holds."""
        self.members += 1
        reply = await self.node.post("/v1/members", {"name": "Ada"}, f"member-{self.members}")
        assert reply.status == 201, reply.body
        stop = asyncio.Event()
        till = asyncio.create_task(self.sell({"member_id": reply.json["member_id"]}, stop))
        try:
            yield
        finally:
            stop.set()
            await till
        connection = await asyncpg.connect((await self.shard.leader()).url(database="loyalty"))
        receipts = [row["receipt"] for row in await connection.fetch("SELECT receipt FROM purchase")]
        await connection.close()
        assert sorted(receipts) == sorted(self.acknowledged)
        await eventually(self.projector.complete, deadline_s=DEADLINE_S)
        assert not [one for one in await verify(self.operator) if not one.ok]

    async def sells_on(self, count: int = 20) -> None:
        wanted = len(self.at) + count

        async def sold() -> bool:
            return len(self.at) >= wanted

        await eventually(sold, deadline_s=DEADLINE_S)

    async def views_go_on(self) -> None:
        """Return when the views show what was committed from now on."""
        began = time.monotonic()

        async def fresh() -> bool:
            lag_ms = (await self.projector.status()).get("lag_ms")
            return lag_ms is not None and lag_ms / 1000 < time.monotonic() - began

        await eventually(fresh, deadline_s=DEADLINE_S)

    async def endure(self, name: str, fault: Callable[[Member], Awaitable[None]]) -> None:
        """Let a fault come while a till sells, and the shard be whole again."""
        await self.shard.whole()
        await self.shard.copied()
        leader = await self.shard.leader()
        async with self.selling():
            await self.sells_on()
            began, before = time.monotonic(), len(self.at)
            await fault(leader)
            await self.sells_on()
            await self.shard.whole()
            await self.sells_on(1)
            times = [began, *self.at[before:]]
        gap_s = max(later - earlier for earlier, later in itertools.pairwise(times))
        goal = f", target {TARGETS_S[name]} s" if name in TARGETS_S else ""
        self.tell(f"{name}: {gap_s:.1f} s without an acknowledgement{goal}")


async def pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def servers(shard: Shard, role: PostgresRole) -> list[str]:
    return [member.url(POSTGRES_USERS[role], "loyalty") for member in shard.members.values()]


@asynccontextmanager
async def command_node(shard: Shard, folder: Path) -> AsyncGenerator[Node]:
    """A node that knows the three servers, and nothing of Patroni."""
    home = {"region": "eu", "slots": [[0, 4095]], "servers": servers(shard, "node"), "valkey": "redis://none"}
    document = {"epoch": 1, "regions": {"eu": {"number": 1, "command": [], "query": []}}, "shards": {"eu-1": home}}
    (folder / "topology.json").write_text(json.dumps(document))
    keys, _ = write_credentials(folder / "credentials.json")
    settings = {"region": "eu", "port": free_port(), "deadline_ms": 3_000}
    settings |= {name: str(folder / f"{name}.json") for name in ("topology", "credentials")}
    (folder / "command.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    argv = (sys.executable, "-m", "command", "--config", str(folder / "command.toml"))
    with (folder / "command.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*argv, cwd=PROJECT, stdout=log, stderr=log)
    try:
        async with ClientSession() as session:
            node = Node(f"http://127.0.0.1:{settings['port']}", keys["service"], session)
            await eventually(node.ready, deadline_s=DEADLINE_S)
            yield node
    finally:
        process.kill()
        await process.wait()


@pytest.fixture(scope="module", name="system")
async def running_system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[System]:
    need_patroni()
    folder = tmp_path_factory.mktemp("patroni")
    place = tmp_path_factory.mktemp("node")
    async with AsyncExitStack() as stack:
        shard = await stack.enter_async_context(patroni_shard())
        valkey = await (await stack.enter_async_context(embedded_valkey())).fresh_url()
        await apply_program([(await shard.leader()).url("loyalty", "loyalty")], PROGRAM)
        node = await stack.enter_async_context(command_node(shard, place))
        made = cdc_node(folder / "cdc", source="pgoutput", database="", valkey=valkey, slot=SLOT)
        projector = await stack.enter_async_context(made)
        write_topology(projector.folder, servers(shard, "projector"), valkey, epoch=2)
        operator = folder / "operator.json"
        document = json.loads((projector.folder / "topology.json").read_text())
        document["shards"]["eu-1"]["servers"] = servers(shard, "owner")
        document["shards"]["eu-1"]["valkey"] = as_valkey_user(valkey, "projector")
        operator.write_text(json.dumps(document))
        made_system = System(shard, node, projector, operator, teller(request.config))
        keeper = asyncio.create_task(made_system.keep_projector())
        try:
            yield made_system
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


def teller(config: pytest.Config) -> Callable[[str], None]:
    """Says something at once, though the test passes."""
    capture = config.pluginmanager.getplugin("capturemanager")

    def tell(words: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n{words}\n")
            sys.stdout.flush()

    return tell
