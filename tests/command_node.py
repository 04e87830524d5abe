"""A command node in this process, on a fresh database, spoken to over real HTTP."""

import asyncio
import functools
import io
import itertools
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from aiohttp import ClientResponse, ClientSession, TCPConnector, web

from command.__main__ import build
from command.courier import Courier
from command.envelope import Envelope
from command.node import CommandNode
from command.program import apply_program, learn_program
from command.request import COURIER, NODE
from command.settings import CommandSettings
from rules.command import AdjustPoints
from service.credential import mint_member_token
from shard_router.member_id import parse_member_id, slot_of
from tests.engine import as_login, as_superuser, free_port
from tests.http_node import NodeServer
from tests.keys import write_credentials
from tests.sql import fetch

PROGRAM = """
[program]
code = "test"
name = "Test"
currency = "EUR"
time_zone = "Europe/Berlin"
[transfers]
min_account_days = 0
[points]
per_unit = "1"
expiry = { kind = "rolling", months = 12, round = "month_end" }
[[stores]]
code = "330"
name = "Store 330"
region = "eu"
[[stores]]
code = "331"
name = "Store 331"
region = "eu"
"""
SILVER = PROGRAM + '[[tiers]]\ncode = "basic"\n[[tiers]]\ncode = "silver"\nthreshold = 10\n'
GOLD = SILVER + '[[tiers]]\ncode = "gold"\nthreshold = 20\n'
REWARDS = (
    PROGRAM
    + """
[referral]
referrer = 100
newcomer = 50
[[rewards]]
code = "coffee"
name = "A coffee"
points = 10
stock = 20
[[rewards]]
code = "mug"
name = "A mug"
points = 10
per_member = 2
"""
)


@dataclass
class Reply:
    """An HTTP answer, read."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["code"]


@dataclass
class RunningNode:
    """A node and a client with keys of every role."""

    url: str
    session: ClientSession
    keys: dict[str, str]
    signing_key: str
    inner: CommandNode
    dsn: str
    courier: Courier
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def post(
        self, path: str, body: Any = None, *, role: str = "service", key: str | None = None, **headers: str
    ) -> Reply:
        """POST with a fresh Idempotency-Key unless one is given; `body` may be raw bytes."""
        content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        given = {
            "Authorization": f"Bearer {self.keys[role]}",
            "Content-Type": "application/json",
            "Idempotency-Key": key or f"test-{next(self.numbers)}",
        } | headers
        async with self.session.post(self.url + path, data=io.BytesIO(content), headers=given) as answer:
            return await _read(answer)

    async def delete(self, path: str, *, role: str = "service", key: str | None = None) -> Reply:
        given = {
            "Authorization": f"Bearer {self.keys[role]}",
            "Idempotency-Key": key or f"test-{next(self.numbers)}",
        }
        async with self.session.delete(self.url + path, headers=given) as answer:
            return await _read(answer)

    def as_member(self, member_id: str) -> str:
        """The role of a member with a token of their own."""
        self.keys[member_id] = mint_member_token(self.signing_key, parse_member_id(member_id))
        return member_id

    async def run_errands(self) -> None:
        """Let the courier do all there is to do now."""
        for shard in self.inner.shards():
            while await self.courier.work_off(shard):
                pass

    async def enrol(self, **fields: Any) -> dict[str, Any]:
        reply = await self.post("/v1/members", fields)
        assert reply.status == 201, reply.body
        return reply.json

    async def insist(self, path: str, body: Any, *, key: str | None = None) -> Reply:
        """As a till does: the same key again while the node is overloaded, as one is when the machine stands still."""
        key = key or f"test-{next(self.numbers)}"
        while (reply := await self.post(path, body, key=key)).status == 503 and reply.code == "overloaded":
            pass
        return reply

    async def give(self, member_id: str, points: int) -> Reply:
        body = {"member": {"member_id": member_id}, "points": points, "reason": "test"}
        return await self.insist("/v1/adjustments", body)


async def _read(answer: ClientResponse) -> Reply:
    return Reply(answer.status, dict(answer.headers), await answer.read())


@asynccontextmanager
async def running_command_node(
    dsn: str,
    folder: Path,
    *,
    program: str = PROGRAM,
    second: str | None = None,
    standby: str | None = None,
    **settings: Any,
) -> AsyncGenerator[RunningNode]:
    """A node of a region of one shard, with a standby or not, or of two, each with half of the slots."""
    dsns = [dsn, second] if second else [dsn]
    await apply_program(dsns, program)
    size = 4096 // len(dsns)
    slots = [[size * number, size * (number + 1) - 1] for number in range(len(dsns))]
    shards = {
        f"eu-{number}": _shard("eu", one, of) for number, (one, of) in enumerate(zip(dsns, slots, strict=True), 1)
    }
    if standby:
        shards["eu-1"]["servers"].append(as_login(standby, "node"))
    keys, signing_key = _write_documents(folder, {"eu": _region(1)}, shards)
    async with (
        ClientSession(connector=TCPConnector(limit=0)) as session,
        _served(CommandSettings(**_settings(folder, "eu") | settings, port=free_port())) as (url, app),
    ):
        yield RunningNode(url, session, keys, signing_key, app[NODE], dsn, app[COURIER])


@asynccontextmanager
async def running_regions(
    dsns: dict[str, str], folder: Path, *, program: str = PROGRAM
) -> AsyncGenerator[dict[str, RunningNode]]:
    """A node for each region; every region has one shard."""
    await apply_program(list(dsns.values()), program)
    ports = {region: free_port() for region in dsns}
    regions = {region: _region(number, f"http://127.0.0.1:{ports[region]}") for number, region in enumerate(dsns, 1)}
    shards = {f"{region}-1": _shard(region, dsn, [0, 4095]) for region, dsn in dsns.items()}
    keys, signing_key = _write_documents(folder, regions, shards)
    nodes: dict[str, RunningNode] = {}
    numbers = itertools.count(1)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession())
        for region, dsn in dsns.items():
            settings = CommandSettings(**_settings(folder, region), port=ports[region])
            url, app = await stack.enter_async_context(_served(settings))
            nodes[region] = RunningNode(url, session, keys, signing_key, app[NODE], dsn, app[COURIER], numbers)
        yield nodes


@asynccontextmanager
async def running_nodes(
    dsn: str,
    folder: Path,
    *,
    count: int = 2,
    dead: int = 0,
    know_each_other: bool = True,
    ahead_s: Sequence[float] = (),
    deadline_ms: int = 5_000,
) -> AsyncGenerator[list[RunningNode]]:
    """Several nodes of one region with one shard; those that do not know each other hand nothing over.

    `dead` are others that the topology lists and that nobody can reach; `ahead_s` is how wrong the nodes' clocks are.
    """
    await apply_program([dsn], PROGRAM)
    ports = [free_port() for _ in range(count)]
    urls = [f"http://127.0.0.1:{port}" for port in (*ports, *(free_port() for _ in range(dead)))]
    keys, signing_key = _write_documents(folder, {"eu": _region(1, *urls)}, {"eu-1": _shard("eu", dsn, [0, 4095])})
    nodes: list[RunningNode] = []
    numbers = itertools.count(1)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession())
        for port, own, ahead in zip(ports, urls, [*ahead_s, *[0.0] * count], strict=False):
            more = {"address": own if know_each_other else None, "deadline_ms": deadline_ms}
            settings = CommandSettings(**_settings(folder, "eu") | more, port=port)
            url, app = await stack.enter_async_context(_served(settings, ahead))
            nodes.append(RunningNode(url, session, keys, signing_key, app[NODE], dsn, app[COURIER], numbers))
        yield nodes


def topology_of_operator(folder: Path) -> Path:
    """The node's topology as somebody reads it who may do everything."""
    document = json.loads((folder / "topology.json").read_text())
    for shard in document["shards"].values():
        shard["servers"] = [as_superuser(url) for url in shard["servers"]]
    file = folder / "topology-of-operator.json"
    file.write_text(json.dumps(document))
    return file


def _region(number: int, *nodes: str) -> dict[str, Any]:
    return {"number": number, "command": list(nodes), "query": []}


@functools.cache
def recent() -> str:
    """A minute before the tests began: a basket made twice is the same basket."""
    return (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds").replace("+00:00", "Z")


def basket(member: dict[str, str], receipt: str, **changes: Any) -> dict[str, Any]:
    return {
        "member": member,
        "store": "330",
        "till": "1",
        "receipt": receipt,
        "occurred_at": recent(),
        "currency": "EUR",
        "lines": [{"sku": "a", "quantity": 2, "amount": 1050}, {"sku": "b", "quantity": "0.375", "amount": 299}],
    } | changes


async def value(node: RunningNode, sql: str, *arguments: Any) -> list[Any]:
    values = []
    for dsn in dsns(node):
        connection = await asyncpg.connect(dsn)
        values.append(await connection.fetchval(sql, *arguments))
        await connection.close()
    return values


def dsns(node: RunningNode) -> list[str]:
    shards = node.inner.topology.current.document.shards
    return [as_superuser(shards[name].servers[0]) for name in node.inner.shards()]


def _shard(region: str, dsn: str, slots: list[int]) -> dict[str, Any]:
    return {"region": region, "slots": [slots], "servers": [as_login(dsn, "node")], "valkey": "redis://none"}


def _settings(folder: Path, region: str) -> dict[str, Any]:
    paths = {name: folder / f"{name}.json" for name in ("topology", "credentials")}
    # A busy machine may keep many at once waiting; who tests what is refused then asks for it (see test_overload).
    return {"region": region, "in_flight_max": 2_000, "overload_delay_ms": 60_000, **paths}


def _write_documents(folder: Path, regions: dict[str, Any], shards: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Write topology and credentials; tells the keys by role and the key that signs members' tokens."""
    (folder / "topology.json").write_text(json.dumps({"epoch": 1, "regions": regions, "shards": shards}))
    return write_credentials(folder / "credentials.json")


@asynccontextmanager
async def _served(settings: CommandSettings, ahead_s: float = 0.0) -> AsyncGenerator[tuple[str, web.Application]]:
    app = build(settings, lambda: time.time() + ahead_s)
    node = app[NODE]
    await learn_program(node.pools[node.shards()[0]], node.programs)
    async with NodeServer(app, port=settings.port) as server:
        yield str(server.make_url("")).rstrip("/"), app
        await asyncio.wait_for(node.close(), 10)
        await node.pools.close()


async def told(node: RunningNode, path: str) -> tuple[int, str]:
    """What a path answers that needs no credential."""
    async with node.session.get(node.url + path) as answer:
        return answer.status, await answer.text()


def envelope(member_id: str, **fields: Any) -> Envelope:
    """A command as a lane takes it, without HTTP; one point for the member unless told otherwise."""
    number = parse_member_id(member_id)
    given: dict[str, Any] = {
        "command": AdjustPoints(1, "test", datetime.now(UTC)),
        "slot": slot_of(number),
        "deadline": time.monotonic() + 5,
        "request_id": "test",
        "credential": "test",
        "member_id": number,
    }
    return Envelope(**given | fields)


async def two_far_apart(node: RunningNode, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two members on different shards."""
    home = node.inner.topology.current.shard_of
    first = await node.enrol(**fields)
    while home(parse_member_id((second := await node.enrol())["member_id"])) == home(
        parse_member_id(first["member_id"])
    ):
        pass
    return first, second


async def balance(node: RunningNode, member: dict[str, Any]) -> dict[str, Any]:
    """The balance as the next command's answer shows it."""
    return (await node.give(member["member_id"], 1)).json["account"]["balance"]


async def change(node: RunningNode, statement: str) -> None:
    """Execute a statement on every shard, as a node may."""
    for dsn in dsns_of(node):
        await fetch(dsn, statement)


def dsns_of(node: RunningNode) -> list[str]:
    return [place.servers[0] for place in node.inner.topology.current.document.shards.values()]
