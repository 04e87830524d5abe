"""A till as it should be: retries with the same key, at another node when one is silent, until it has an answer."""

import itertools
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from aiohttp import ClientError, ClientSession, ClientTimeout
from multidict import CIMultiDict

from tests.conftest import eventually

REGIONS = ("eu", "us", "ap")
STORES = {"eu": "berlin-mitte", "us": "330", "ap": "tokyo-ginza"}
PATIENCE_S = 90.0


@dataclass
class Reply:
    """An HTTP answer, read."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class System:
    """The running system as its users see it, and as those see it who want to break it."""

    data: Path
    port: int
    status: dict[str, Any]
    session: ClientSession
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def key(self) -> str:
        return self.status["keys"]["service"]

    def node(self, region: str, side: str) -> str:
        return self.status["regions"][region][side]

    async def ask(self, method: str, url: str, body: Any = None, *, timeout_s: float = 10.0, **headers: str) -> Reply:
        """One request, once."""
        given = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"} | headers
        data = None if body is None else json.dumps(body).encode()
        timeout = ClientTimeout(total=timeout_s)
        async with self.session.request(method, url, data=data, headers=given, timeout=timeout) as answer:
            return Reply(answer.status, CIMultiDict(answer.headers), await answer.read())

    async def get(self, region: str, path: str, **headers: str) -> Reply:
        return await self.ask("GET", self.node(region, "query") + path, **headers)

    async def post(self, region: str, path: str, body: Any = None, *, key: str | None = None) -> Reply:
        """Post once, with a fresh key unless one is given."""
        name = key or f"{id(self)}-{next(self.numbers)}"
        return await self.ask("POST", self.node(region, "command") + path, body, **{"Idempotency-Key": name})

    async def insist(self, region: str, path: str, body: Any, key: str) -> Reply:
        """Post until there is an answer that is not "retry", at any region's node."""
        ordered = REGIONS[REGIONS.index(region) :] + REGIONS[: REGIONS.index(region)]
        nodes = itertools.cycle([name for name in ordered if name in self.status["regions"]])
        replies: list[Reply] = []

        async def answered() -> bool:
            with suppress(ClientError, TimeoutError, OSError):
                replies.append(await self.post(next(nodes), path, body, key=key))
            return bool(replies) and (replies[-1].status < 400 or not replies[-1].json["retryable"])

        await eventually(answered, deadline_s=PATIENCE_S)
        return replies[-1]

    async def enrol(self, region: str) -> str:
        reply = await self.post(region, "/v1/members", {"store": STORES[region]})
        assert reply.status == 201, reply.body
        return reply.json["member_id"]

    def processes(self) -> dict[str, int]:
        """Process ids by name, as the supervisor wrote them down."""
        run = json.loads((self.data / "run.json").read_text())
        kept = run["processes"].items()
        return {name: record["identity"]["pid"] for name, record in kept if record["identity"]}

    def kill(self, name: str) -> None:
        os.kill(self.processes()[name], signal.SIGKILL)

    async def primary(self, region: str) -> asyncpg.Connection:
        return await asyncpg.connect(self.status["regions"][region]["shards"][f"{region}-1"]["primary"])


def basket(member_id: str, region: str, receipt: str, *, amount: int = 1000) -> dict[str, Any]:
    occurred_at = datetime.now(UTC) - timedelta(minutes=5)
    return {
        "member": {"member_id": member_id},
        "store": STORES[region],
        "till": "1",
        "receipt": receipt,
        "occurred_at": occurred_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "currency": "EUR",
        "lines": [{"sku": "a", "quantity": 1, "amount": amount}],
    }
