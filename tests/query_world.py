"""A small world for query nodes: shards with rows written by SQL, views as a projector writes them, served nodes."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
from aiohttp import web
from redis.asyncio import Redis

from query import views
from query.__main__ import build
from query.node import NODE
from query.reader import ShardReader
from query.replica import Server
from query.settings import QuerySettings
from rules.version import place_of
from service.credential import mint_member_token
from shard_router.errors import ProblemError
from shard_router.member_id import compose_member_id, format_member_id
from tests.conftest import eventually
from tests.engine import as_login, as_valkey_user, free_port
from tests.http_node import NodeServer
from tests.keys import write_credentials

START = datetime(2026, 11, 1, 9, tzinfo=UTC)
REGIONS = {"eu": 1, "us": 2, "ap": 3}

PROGRAM = """
[program]
code = "main-street"
name = "Main Street"
currency = "EUR"

[[tiers]]
code = "basic"
[[tiers]]
code = "silver"
name = "Silver"
threshold = 500
multiplier = "1.25"

[[rewards]]
code = "mug"
name = "A mug"
points = 45
[[rewards]]
code = "coffee"
name = "A coffee"
points = 10

[[stores]]
code = "berlin-1"
name = "Berlin Mitte"
region = "eu"
lat = 52.5200
lon = 13.4050
[[stores]]
code = "paris-1"
name = "Paris Nord"
region = "eu"
lat = 48.8566
lon = 2.3522
[[stores]]
code = "boston-1"
name = "Boston"
region = "us"
"""


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Where a shard's data lie."""

    servers: list[str]
    valkey: str

    @property
    def primary(self) -> str:
        return self.servers[0]


@dataclass(slots=True)
class Reply:
    """An answer, read."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(slots=True)
class World:
    """Served nodes by region, credentials, and the places of their shards."""

    shards: dict[str, ShardPlace]
    nodes: dict[str, str]
    apps: dict[str, web.Application]
    keys: dict[str, str]
    signing_key: str
    session: aiohttp.ClientSession

    async def get(
        self, path: str, *, region: str = "eu", credential: str | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        sent = {"Authorization": f"Bearer {credential or self.keys['service']}"} | (headers or {})
        async with self.session.get(self.nodes[region] + path, headers=sent) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def post(
        self,
        path: str,
        body: Any,
        *,
        region: str = "eu",
        credential: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        sent = {"Authorization": f"Bearer {credential or self.keys['service']}", "Content-Type": "application/json"}
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.session.post(self.nodes[region] + path, data=content, headers=sent | (headers or {})) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def metric(self, name: str, *, region: str = "eu") -> float:
        text = (await self.get("/metrics", region=region)).body.decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def member_token(self, member_id: int) -> str:
        return mint_member_token(self.signing_key, member_id)


@asynccontextmanager
async def open_world(folder: Path, shards: dict[str, ShardPlace], **settings: Any) -> AsyncGenerator[World]:
    """Serve one node for every region of these shards (named by region: `eu-1` -> eu).

    Servers have longer to answer than in production: a machine that stands still is nothing the tests ask about. Valkey
    is asked each time: tests put views there of which nothing is announced.
    """
    defaults = {"cache_deadline_ms": 3_000, "statement_timeout_ms": 10_000, "deadline_ms": 10_000}
    settings = defaults | {"near_members_max": 0} | settings
    nodes = {name.partition("-")[0]: f"http://127.0.0.1:{free_port()}" for name in shards}
    topology = folder / "topology.json"
    topology.write_bytes(orjson.dumps(_topology(shards, nodes)))
    keys, signing_key = write_credentials(folder / "credentials.json")
    async with AsyncExitStack() as stack:
        apps: dict[str, web.Application] = {}
        for region, url in nodes.items():
            port = int(url.rpartition(":")[2])
            apps[region] = build(
                QuerySettings(
                    region=region, port=port, topology=topology, credentials=folder / "credentials.json", **settings
                )
            )
            server = NodeServer(apps[region], port=port)
            await server.start_server()
            stack.push_async_callback(server.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(shards, nodes, apps, keys, signing_key, session)


def change_topology(world: World, change: Callable[[dict[str, Any]], None]) -> None:
    """Have the node of eu go by a changed topology; the others see it within a second."""
    watch = world.apps["eu"][NODE].topology
    document = orjson.loads(watch.path.read_bytes())
    change(document)
    document["epoch"] += 1
    watch.path.write_bytes(orjson.dumps(document))
    watch.look()
    assert (watch.trouble, watch.current.epoch) == (None, document["epoch"])


def reader_of(world: World) -> ShardReader:
    """Of the one shard of a small world."""
    return world.apps["eu"][NODE].readers["eu-1"]


async def has(server: Server, member_id: int, version: int) -> bool:
    """Whether a server answers and has a version of a member."""
    try:
        row = await server.account(member_id)
    except ProblemError:
        return False  # it starts, or rests after a failure: who waits asks again
    return row is not None and row["version"] >= version


async def replayed(reader: ShardReader, member_id: int, version: int) -> bool:
    """Whether the standby has a version of a member."""
    return await has(reader.standby, member_id, version)


def member(unique: int, *, region: str = "eu", slot: int = 7) -> int:
    return compose_member_id(REGIONS[region], slot=slot, unique=unique)


def entry(member_id: int, version: int, **changes: Any) -> dict[str, Any]:
    """A journal row that gave ten points, as the command side writes one."""
    account = {
        "member_id": format_member_id(member_id),
        "version": version,
        "balance": {
            "available": 10 * place_of(version),
            "pending": 0,
            "held": 0,
            "debt": 0,
            "lifetime": 10 * place_of(version),
            "expiring": [],
            "next_change_at": None,
        },
        "tier": {"code": "basic", "name": "Basic", "qualifying_points": 0, "since": None, "until": None, "next": None},
        "as_of": "2026-11-01T09:00:00Z",
    }
    postings = [{"points": 10, "from": "program", "to": "available", "expires_at": None, "reason": "base"}]
    row = {
        "member_id": member_id,
        "version": version,
        "kind": "purchase_recorded",
        "program_version": 1,
        "occurred_at": START + timedelta(minutes=place_of(version)),
        "recorded_at": START + timedelta(minutes=place_of(version)),
        "store": "berlin-1",
        "points": 10,
        "postings": orjson.dumps(postings).decode(),
        "detail": "{}",
        "account_after": orjson.dumps(account).decode(),
    }
    return row | changes


async def write_member(dsn: str, member_id: int, *, versions: int = 1, profile: dict[str, Any] | None = None) -> None:
    """A member with so many entries, as rows."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "INSERT INTO member VALUES ($1, 1, $2, $3)",
            member_id,
            orjson.dumps(profile or {"name": "Ada"}).decode(),
            START,
        )
        points = 10 * versions
        await connection.execute(
            "INSERT INTO account (member_id, version, available, pending, held, spent, expired, debt, issued, state)"
            " VALUES ($1, $2, $3, 0, 0, 0, 0, 0, $3, '{}')",
            member_id,
            versions,
            points,
        )
        for version in range(1, versions + 1):
            await insert(connection, "journal", entry(member_id, version))
    finally:
        await connection.close()


async def add_entry(dsn: str, member_id: int, version: int) -> None:
    """One more entry of a member, as rows."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await insert(connection, "journal", entry(member_id, version))
            await connection.execute(
                "UPDATE account SET version = $2, available = $3, issued = $3 WHERE member_id = $1",
                member_id,
                version,
                10 * place_of(version),
            )
    finally:
        await connection.close()


async def insert(connection: Any, table: str, row: Mapping[str, Any]) -> None:
    places = ", ".join(f"${position}" for position in range(1, len(row) + 1))
    sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"  # noqa: S608 - names of our own tables
    await connection.execute(sql, *row.values())


async def write_row(dsn: str, table: str, row: Mapping[str, Any]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await insert(connection, table, row)
    finally:
        await connection.close()


async def project(url: str, member_id: int, *versions: int, announce: bool = True) -> None:
    """Write the views of these entries, and say so."""
    client = Redis.from_url(url)
    try:
        await client.set(views.profile_key(member_id), views.header(1) + b'{"name":"Ada"}', nx=True)
        for version in versions:
            row = entry(member_id, version)
            await client.set(views.account_key(member_id), views.header(version) + views.account_view(row))
            await client.zadd(views.activity_key(member_id), {views.activity_item(row): version})
        if announce:
            await client.publish(views.VISIBLE_CHANNEL, f"{member_id}:{versions[-1]}")
    finally:
        await client.aclose()


async def put_view(url: str, key: str, version: int, body: bytes) -> None:
    client = Redis.from_url(url)
    try:
        await client.set(key, views.header(version) + body)
    finally:
        await client.aclose()


def _topology(shards: dict[str, ShardPlace], nodes: dict[str, str]) -> dict[str, Any]:
    regions = {
        region: {"number": number, "command": [], "query": [nodes[region]]}
        for region, number in REGIONS.items()
        if region in nodes
    }
    rows = {
        name: {
            "region": name.partition("-")[0],
            "slots": [[0, 4095]],
            "servers": [as_login(server, "reader") for server in place.servers],
            "valkey": as_valkey_user(place.valkey, "query"),
        }
        for name, place in shards.items()
    }
    return {"epoch": 1, "regions": regions, "shards": rows, "claims": [min(regions)]}


def version_in(reply: Reply) -> int:
    """The member's version that an answer shows."""
    assert reply.status == 200, reply.body
    return int(reply.headers["ETag"].removeprefix('W/"').rstrip('"').partition("-")[0])


async def until_replayed(world: World, member_id: int, version: int) -> None:
    """Wait until the standby shows a version."""
    await eventually(lambda: has(reader_of(world).standby, member_id, version))
