"""A foreign member's request on its way to the home region, over real sockets: whom to ask next, and when nobody."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from service.credential import Credentials, new_key
from service.forward import Forwarder, deadline_of
from service.payload import BODY
from service.settings import SETTINGS, NodeSettings
from service.web import Guard, add_route, build_app
from shard_router.topology import TopologyWatch
from tests.engine import free_port


@contextmanager
def frozen_node() -> Generator[str]:
    """A place whose queue of connections is full and never served: connecting gets no answer at all."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)  # noqa: FBT003
            caller.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def home_node() -> AsyncGenerator[tuple[str, list[bytes]]]:
    """A node of the home region, and the bodies it got."""
    got: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.json_response({}, status=201)

    app = web.Application()
    app.router.add_post("/v1/adjustments", take)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), got


@asynccontextmanager
async def far_node(folder: Path, nodes: list[str], *, deadline_ms: int = 5_000) -> AsyncGenerator[tuple[str, str]]:
    """A node of another region that hands everything to these nodes: its address, and a key."""
    key, record = new_key("service")
    (folder / "credentials.json").write_text(json.dumps({"keys": [record.model_dump()]}))
    regions = {"eu": {"number": 1, "command": [], "query": []}, "us": {"number": 2, "command": nodes, "query": []}}
    shards = {
        f"{region}-1": {"region": region, "slots": [[0, 4095]], "servers": [], "valkey": "redis://none"}
        for region in regions
    }
    (folder / "topology.json").write_text(json.dumps({"epoch": 1, "regions": regions, "shards": shards}))
    settings = NodeSettings.model_construct(
        region="eu", deadline_ms=deadline_ms, body_bytes_max=1_048_576, in_flight_max=512
    )
    forwarder = Forwarder("eu", TopologyWatch(folder / "topology.json"), "command")

    async def hand_on(request: web.Request) -> web.Response:
        deadline = deadline_of(request, deadline_ms=request.app[SETTINGS].deadline_ms)
        return await forwarder.forward(request, "us", deadline=deadline, body=request[BODY])

    app = build_app(settings, Credentials(folder / "credentials.json"))
    add_route(app, "POST", "/v1/adjustments", hand_on, guard=Guard(takes_body=True))
    async with TestServer(app) as server:
        yield str(server.make_url("/v1/adjustments")), key
    await forwarder.close()


async def post(url: str, key: str) -> tuple[int, str | None]:
    async with (
        ClientSession() as session,
        session.post(url, json={"points": 1}, headers={"Authorization": f"Bearer {key}"}) as answer,
    ):
        return answer.status, (await answer.json(content_type=None)).get("code")


async def test_a_node_that_takes_no_connection_is_passed_over_for_the_next(tmp_path: Path) -> None:
    with frozen_node() as frozen:
        async with home_node() as (home, got), far_node(tmp_path, [frozen, home]) as (url, key):
            assert await post(url, key) == (201, None)
            assert got == [b'{"points": 1}']


async def test_a_node_that_refuses_is_passed_over_for_the_next(tmp_path: Path) -> None:
    refusing = f"http://127.0.0.1:{free_port()}"
    async with home_node() as (home, got), far_node(tmp_path, [refusing, home]) as (url, key):
        assert await post(url, key) == (201, None)
        assert len(got) == 1


@pytest.mark.parametrize("deadline_ms", [300, 5_000])
async def test_when_no_node_takes_a_connection_nothing_was_done_and_the_answer_says_so(
    tmp_path: Path, deadline_ms: int
) -> None:
    with frozen_node() as one, frozen_node() as other:
        async with far_node(tmp_path, [one, other], deadline_ms=deadline_ms) as (url, key):
            assert await post(url, key) == (503, "shard_unavailable")


async def test_a_command_that_was_sent_and_got_no_answer_is_never_sent_to_another_node(tmp_path: Path) -> None:
    sent: list[bytes] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with silent, home_node() as (home, got), far_node(tmp_path, [address, home]) as (url, key):
        assert await post(url, key) == (503, "unknown_outcome")
    assert (len(sent), got) == (1, [])
