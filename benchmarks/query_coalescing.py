"""What coalescing reads is worth: one GET per request against one MGET per event-loop turn, as shares of bare aiohttp.

    python -m benchmarks.query_coalescing --valkey redis://127.0.0.1:8413/9

Each variant is one aiohttp process; the variants take turns, so that a busy machine disturbs all alike.
`node` is the query node as it ships: credential, request id, metrics, ETag. Keys are written to that Valkey.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import aiohttp
import orjson
import uvloop
from aiohttp import web
from redis.asyncio import Redis

from query import views
from query.__main__ import build
from query.cache import Cache
from query.settings import QuerySettings
from service.credential import new_key
from service.shape import ACCOUNT_EXAMPLE
from shard_router.member_id import compose_member_id, format_member_id

MEMBERS: Final = [compose_member_id(1, slot=unique % 4096, unique=unique) for unique in range(1, 1001)]
CONNECTIONS: Final = 32  # as in the measurement of DESIGN.md
VARIANTS: Final = ("bare", "one_get_each", "coalesced", "node")
BODY: Final = orjson.dumps(ACCOUNT_EXAMPLE)


class Client(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, requests: list[bytes], *, first: int) -> None:
        self.answers = 0
        self._requests = requests
        self._next = first
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Count an answer when its last byte is there."""
        if self._left == 0:
            head, _, body = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head[:200]
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._left = int(length) - len(body)
        else:
            self._left -= len(data)
        if self._left == 0:
            self.answers += 1
            self._ask()

    def _ask(self) -> None:
        assert self._transport
        self._next = (self._next + 7) % len(self._requests)
        self._transport.write(self._requests[self._next])


class Measured(NamedTuple):
    """Requests per second, and what one cost the server's process: that hardly depends on what else runs."""

    rate: float
    cpu_us: float


async def measure(port: int, credential: str, seconds: float) -> Measured:
    """Load one server for a while."""
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n\r\n"
    requests = [f"GET /v1/members/{format_member_id(one)}/account {head}".encode() for one in MEMBERS]
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda first=first: Client(requests, first=first), "127.0.0.1", port)
        for first in range(CONNECTIONS)
    ]
    cpu_before = await cpu_time_s(port, credential)
    before, started_at = sum(client.answers for _, client in pairs), time.perf_counter()
    await asyncio.sleep(seconds)
    done, took_s = sum(client.answers for _, client in pairs) - before, time.perf_counter() - started_at
    cpu_s = await cpu_time_s(port, credential) - cpu_before
    for transport, _ in pairs:
        transport.abort()
    return Measured(done / took_s, 1e6 * cpu_s / done)


async def cpu_time_s(port: int, credential: str) -> float:
    """Ask a server for the CPU time of its process."""
    headers = {"Authorization": f"Bearer {credential}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{port}/cpu") as answer,
    ):
        return float(await answer.read())


def bare_app(_url: str) -> web.Application:
    """Answer from memory."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=BODY, content_type="application/json")

    return _app(answer)


def one_get_each_app(url: str) -> web.Application:
    """Answer by one GET per request."""
    client = Redis.from_url(url)

    async def answer(request: web.Request) -> web.Response:
        value = await client.get(f"b:{request.match_info['member']}")
        return web.Response(body=value, content_type="application/json")

    return _app(answer)


def coalesced_app(url: str) -> web.Application:
    """Answer by one MGET for the requests of a turn."""
    cache = Cache(url, deadline_ms=1_000, batch_keys_max=512)

    async def answer(request: web.Request) -> web.Response:
        value = await cache.get(f"b:{request.match_info['member']}")
        return web.Response(body=value, content_type="application/json")

    return _app(answer)


def node_app(url: str, folder: Path) -> tuple[web.Application, str]:
    """Build the query node as it ships, and a key for it. There is no Postgres: every read finds its view."""
    credential, record = new_key("service")
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    shard = {"region": "eu", "slots": [[0, 4095]], "servers": [nowhere], "valkey": url}
    regions = {"eu": {"number": 1, "command": [], "query": []}}
    (folder / "topology.json").write_bytes(orjson.dumps({"epoch": 1, "regions": regions, "shards": {"eu-1": shard}}))
    (folder / "credentials.json").write_bytes(orjson.dumps({"keys": [record.model_dump()]}))
    settings = QuerySettings(
        region="eu", port=1, topology=folder / "topology.json", credentials=folder / "credentials.json"
    )
    return build(settings), credential


def serve(variant: str, url: str, ready: Connection) -> None:
    """Serve a variant on a free port until killed; tells the port and the credential."""
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Callable[[], tuple[web.Application, str]]] = {
            "bare": lambda: (bare_app(url), "none"),
            "one_get_each": lambda: (one_get_each_app(url), "none"),
            "coalesced": lambda: (coalesced_app(url), "none"),
            "node": lambda: node_app(url, Path(folder)),
        }
        uvloop.run(_serve(made[variant], ready))


async def _serve(make: Callable[[], tuple[web.Application, str]], ready: Connection) -> None:
    app, credential = make()
    app.router.add_get("/cpu", _cpu)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    ready.send((runner.addresses[0][1], credential))
    await asyncio.Event().wait()


async def _cpu(_request: web.Request) -> web.Response:
    return web.Response(body=orjson.dumps(time.process_time()))


def _app(answer: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_get("/v1/members/{member}/account", answer)
    return app


async def fill(url: str) -> None:
    """Write the views that are read."""
    client = Redis.from_url(url)
    async with client.pipeline(transaction=False) as pipeline:
        for member_id in MEMBERS:
            pipeline.set(views.account_key(member_id), views.header(7) + BODY)
            pipeline.set(f"b:{format_member_id(member_id)}", BODY)
        await pipeline.execute()
    await client.aclose()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--valkey", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    asyncio.run(fill(given.valkey))
    context = multiprocessing.get_context("spawn")
    servers: list[Any] = []
    places: dict[str, tuple[int, str]] = {}
    for variant in VARIANTS:
        ours, theirs = context.Pipe()
        server = context.Process(target=serve, args=(variant, given.valkey, theirs), daemon=True)
        server.start()
        servers.append(server)
        places[variant] = ours.recv()
    measured: dict[str, list[Measured]] = {variant: [] for variant in VARIANTS}
    for _ in range(given.rounds):
        for variant, (port, credential) in places.items():
            measured[variant].append(uvloop.run(measure(port, credential, given.seconds)))
    for server in servers:
        server.kill()
    report(measured)


def report(measured: dict[str, list[Measured]]) -> None:
    """Print medians; shares of bare are medians over the rounds."""
    for variant, rounds in measured.items():
        rate, cpu_us = (statistics.median(column) for column in zip(*rounds, strict=True))
        pairs = list(zip(rounds, measured["bare"], strict=True))
        share = statistics.median(one.rate / bare.rate for one, bare in pairs)
        cpu_share = statistics.median(bare.cpu_us / one.cpu_us for one, bare in pairs)
        print(f"{variant:14}{rate:8.0f} req/s ({share:4.0%} of bare) {cpu_us:6.1f} us CPU each ({cpu_share:4.0%})")  # noqa: T201


if __name__ == "__main__":
    main()
