"""A command node in this process, on a fresh database, spoken to over real HTTP."""

import asyncio
import io
import itertools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import TestServer

from command.__main__ import build
from command.courier import Courier
from command.node import CommandNode
from command.program import apply_program, learn_program
from command.request import COURIER, NODE
from command.settings import CommandSettings
from service.credential import new_key

PROGRAM = """
[program]
code = "test"
name = "Test"
currency = "EUR"
time_zone = "Europe/Berlin"
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

    async def run_errands(self) -> None:
        """Let the courier do all there is to do now."""
        for shard in self.inner.shards():
            while await self.courier.work_off(shard):
                pass

    async def enrol(self, **fields: Any) -> dict[str, Any]:
        reply = await self.post("/v1/members", fields)
        assert reply.status == 201, reply.body
        return reply.json

    async def give(self, member_id: str, points: int) -> Reply:
        body = {"member": {"member_id": member_id}, "points": points, "reason": "test"}
        return await self.post("/v1/adjustments", body)


async def _read(answer: ClientResponse) -> Reply:
    return Reply(answer.status, dict(answer.headers), await answer.read())


@asynccontextmanager
async def running_command_node(
    dsn: str, folder: Path, *, deadline_ms: int = 5_000, program: str = PROGRAM, second: str | None = None
) -> AsyncGenerator[RunningNode]:
    """A node of a region of one shard, or of two, each with half of the slots."""
    dsns = [dsn, second] if second else [dsn]
    await apply_program(dsns, program)
    size = 4096 // len(dsns)
    topology = {
        "epoch": 1,
        "regions": {"eu": {"number": 1, "command": [], "query": []}},
        "shards": {
            f"eu-{number}": {
                "region": "eu",
                "slots": [[size * (number - 1), size * number - 1]],
                "servers": [one],
                "valkey": "redis://none",
            }
            for number, one in enumerate(dsns, 1)
        },
    }
    made = {role: new_key(role) for role in ("pos", "service", "admin")} | {"till330": new_key("pos", "330")}
    credentials = {"keys": [record.model_dump() for _, record in made.values()]}
    (folder / "topology.json").write_text(json.dumps(topology))
    (folder / "credentials.json").write_text(json.dumps(credentials))
    settings = CommandSettings.model_construct(
        region="eu",
        topology=folder / "topology.json",
        credentials=folder / "credentials.json",
        deadline_ms=deadline_ms,
        in_flight_max=2_000,
    )
    app = build(settings)
    node = app[NODE]
    await learn_program(node.pools["eu-1"], node.programs)
    async with TestServer(app) as server, ClientSession() as session:
        keys = {role: text for role, (text, _) in made.items()}
        yield RunningNode(str(server.make_url("")).rstrip("/"), session, keys, node, dsn, app[COURIER])
        await asyncio.wait_for(node.close(), 10)
        await node.pools.close()
