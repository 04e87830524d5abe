"""A node with routes of its own, spoken to over bare sockets: what clients send is sent as it stands."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from service.connection import Runner
from service.credential import Credentials, Role, mint_member_token, new_key
from service.payload import BODY
from service.quick import QUICK, Ask
from service.settings import NodeSettings
from service.web import Guard, add_route, build_app, render_json
from shard_router.member_id import compose_member_id

BODY_BYTES_MAX = 1_048_576
MUCH_BYTES = 50_000_000
"""More than the buffers between node and client take."""
ROLES: tuple[Role, ...] = ("pos", "service", "admin")


def quickly_taken(monkeypatch: pytest.MonkeyPatch, way: type[Callable[[Ask], bool]]) -> list[bool]:
    """Whether each plain request from now on was taken by a quick way; the list grows."""
    seen: list[bool] = []
    usual = way.__call__

    def look(quick: Any, ask: Ask) -> bool:
        seen.append(usual(quick, ask))
        return seen[-1]

    monkeypatch.setattr(way, "__call__", look)
    return seen


class NodeServer(TestServer):
    """Serves an application as a process does: the quick way is part of it."""

    async def _make_runner(self, **kwargs: Any) -> web.AppRunner:
        kwargs["handler_cancellation"] = False
        return Runner(self.app, access_log=None, **kwargs)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Node:
    """`POST /bytes` tells how long a body is; `GET /thing?a=` and `/much` answer; `POST /wait` does when let go."""

    port: int
    keys: dict[str, str]
    signing_key: str
    app: web.Application
    let_go: asyncio.Event
    runner: Runner
    waiting: int = 0
    asked: list[Ask] = field(default_factory=list[Ask])
    """What came as `GET /quick`; it waits for its answer."""

    @property
    def connections(self) -> int:
        return len(self.runner.server.connections) if self.runner.server else 0

    def member_token(self, unique: int) -> str:
        return mint_member_token(self.signing_key, compose_member_id(1, slot=1, unique=unique))

    def request(
        self, body: bytes, *headers: str, method: str = "POST", target: str = "/bytes", credential: str | None = None
    ) -> bytes:
        """A whole request with a good credential; a length unless the headers say otherwise."""
        head = [f"{method} {target} HTTP/1.1", "Host: node"]
        head += [f"Authorization: Bearer {credential or self.keys['service']}", *headers]
        if not any(header.startswith("Content-Type") for header in headers):
            head.append("Content-Type: application/json")
        if not any(header.startswith(("Transfer-Encoding", "Content-Length")) for header in headers):
            head.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*head, "", ""]).encode() + body

    async def send(self, *parts: bytes, bodiless: bool = False) -> Answer:
        """The first answer to bytes sent as they are, each part after the one before was read."""
        async with connection(self.port) as (reader, writer), asyncio.timeout(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await until_read()
            return await read_answer(reader, bodiless=bodiless)


async def until_read() -> None:
    """What was written has been read: the node does so in this loop."""
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def connection(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader, *, bodiless: bool = False) -> Answer:
    head = await read_head(reader)
    if head[0].endswith("100 Continue"):
        head = await read_head(reader)
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = (
        b""
        if bodiless
        else await reader.readexactly(int(headers.get("Content-Length", headers.get("content-length", 0))))
    )
    return Answer(int(head[0].split()[1]), headers, body)


async def read_head(reader: asyncio.StreamReader) -> list[str]:
    return (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")


@asynccontextmanager
async def running_node(folder: Path, **settings: Any) -> AsyncGenerator[Node]:
    """A node with settings of its own."""
    made = {role: new_key(role) for role in ROLES if role != "member"}
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    document = {"keys": [record.model_dump() for _, record in made.values()], "jwt_public_keys": [public]}
    (folder / "credentials.json").write_text(json.dumps(document))
    given = {"region": "eu", "body_bytes_max": BODY_BYTES_MAX, "in_flight_max": 512} | settings
    app = build_app(NodeSettings.model_construct(**given), Credentials(folder / "credentials.json"))
    node = Node(
        0,
        {role: text for role, (text, _) in made.items()},
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        app,
        asyncio.Event(),
        runner := Runner(app, access_log=None, handler_cancellation=False, shutdown_timeout=1),
    )
    _add_routes(app, node)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    node.port = runner.addresses[0][1]
    yield node
    node.let_go.set()
    await runner.cleanup()


def _add_routes(app: web.Application, node: Node) -> None:
    async def count(request: web.Request) -> web.Response:
        return render_json({"bytes": len(request[BODY])})

    async def thing(request: web.Request) -> web.Response:
        return render_json({"query": dict(request.query)})

    async def wait(_request: web.Request) -> web.Response:
        node.waiting += 1
        try:
            await node.let_go.wait()
        finally:
            node.waiting -= 1
        return render_json({})

    async def much(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(MUCH_BYTES))

    def take(ask: Ask) -> bool:
        takes = ask.data.startswith(b"GET /quick ")
        if takes:
            node.asked.append(ask)
        return takes

    app[QUICK] = take
    add_route(app, "GET", "/quick", thing, guard=Guard())
    add_route(app, "GET", "/much", much, guard=Guard())
    add_route(app, "POST", "/bytes", count, guard=Guard(takes_body=True))
    add_route(app, "GET", "/thing", thing, guard=Guard(query=frozenset({"a", "b"})))
    add_route(app, "POST", "/wait", wait, guard=Guard(takes_body=True))
