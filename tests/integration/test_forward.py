"""A foreign member's request on its way to the home region, over real sockets: whom to ask next, and when nobody."""

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from service.credential import Credentials, new_key
from service.forward import Forwarder
from service.handed import deadline_of
from service.payload import BODY
from service.peer import ranked
from service.retry import BURST_MAX, RATIO, RETRIES
from service.settings import SETTINGS, NodeSettings
from service.web import Guard, add_route, build_app
from shard_router.topology import TopologyWatch
from tests.engine import free_port

FORWARD_KEY = "f" * 32
LONG = b"x" * 5_000


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
async def home_node(asked: list[web.Request] | None = None) -> AsyncGenerator[tuple[str, list[bytes]]]:
    """A node of the home region, and the bodies it got."""
    got: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.read())
        if asked is not None:
            asked.append(request)
        if "closed" in request.query:
            return web.json_response({}, status=401, headers={"WWW-Authenticate": "Bearer"})
        if "long" in request.query:
            return web.Response(body=gzip.compress(LONG), headers={"Content-Encoding": "gzip"})
        return web.json_response({}, status=201)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), got


@asynccontextmanager
async def far_node(folder: Path, nodes: list[str], *, deadline_ms: int = 5_000) -> AsyncGenerator[tuple[str, str]]:
    """A node of another region that hands everything to these nodes, in this order: its address, and a key."""
    slot = next(slot for slot in range(4096) if ranked(tuple(nodes), slot) == tuple(nodes))
    key, record = new_key("service")
    document = {"keys": [record.model_dump()], "forward_keys": [FORWARD_KEY]}
    (folder / "credentials.json").write_text(json.dumps(document))
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
        return await forwarder.forward(request, "us", slot=slot, deadline=deadline, body=request[BODY])

    app = build_app(settings, Credentials(folder / "credentials.json"))
    for method in ("POST", "GET"):
        add_route(app, method, "/v1/adjustments", hand_on, guard=Guard(takes_body=True))
    async with TestServer(app) as server:
        yield str(server.make_url("/v1/adjustments")), key
    await forwarder.close()


def retries_made() -> float:
    (family,) = RETRIES.collect()
    return sum(one.value for one in family.samples if one.name.endswith("_total") and one.labels["result"] == "made")


async def post(url: str, key: str, **headers: str) -> tuple[int, str | None]:
    async with (
        ClientSession() as session,
        session.post(url, json={"points": 1}, headers={"Authorization": f"Bearer {key}"} | headers) as answer,
    ):
        return answer.status, (await answer.json(content_type=None)).get("code")


@pytest.mark.usefixtures("impatient")
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


async def test_a_region_without_nodes_is_not_asked_several_times_by_each_request(tmp_path: Path) -> None:
    """Each request would double the load of a region just when its nodes fail."""
    refusing = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    async with far_node(tmp_path, refusing) as (url, key):
        before = retries_made()
        for _ in range(40):
            assert await post(url, key) == (503, "shard_unavailable")
        assert retries_made() - before <= BURST_MAX + 40 * RATIO


async def test_a_dead_node_is_met_once_not_by_each_request(tmp_path: Path) -> None:
    refusing = f"http://127.0.0.1:{free_port()}"
    async with home_node() as (home, got), far_node(tmp_path, [refusing, home]) as (url, key):
        before = retries_made()
        for _ in range(40):
            assert await post(url, key) == (201, None)
        assert (retries_made() - before, len(got)) == (1, 40)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("deadline_ms", [300, 5_000])
async def test_when_no_node_takes_a_connection_nothing_was_done_and_the_answer_says_so(
    tmp_path: Path, deadline_ms: int
) -> None:
    with frozen_node() as one, frozen_node() as other:
        async with far_node(tmp_path, [one, other], deadline_ms=deadline_ms) as (url, key):
            assert await post(url, key) == (503, "shard_unavailable")


@asynccontextmanager
async def dying_node(*, hangs_up: bool) -> AsyncGenerator[tuple[str, list[bytes]]]:
    """A node that takes a request and then answers nothing any more, and the heads it got."""
    sent: list[bytes] = []
    over = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.readuntil(b"\r\n\r\n"))
        if not hangs_up:
            await over.wait()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent
        over.set()


async def test_a_command_without_a_key_that_was_sent_and_not_answered_is_sent_to_nobody_else(tmp_path: Path) -> None:
    async with dying_node(hangs_up=True) as (dying, sent), home_node() as (home, got):
        async with far_node(tmp_path, [dying, home]) as (url, key):
            assert await post(url, key) == (503, "unknown_outcome")
        assert ([head.split(b" ")[0] for head in sent if b"/livez" not in head], got) == ([b"POST"], [])


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_a_command_with_a_key_that_met_a_dying_node_is_answered_by_the_next(
    tmp_path: Path, *, hangs_up: bool
) -> None:
    """Whether it breaks off or just falls silent (SIGSTOP): long before the deadline."""
    async with dying_node(hangs_up=hangs_up) as (dying, sent), home_node() as (home, got):
        async with far_node(tmp_path, [dying, home], deadline_ms=600_000) as (url, key):
            for _ in range(3):
                assert await post(url, key, **{"Idempotency-Key": "k"}) == (201, None)
        commands = [head for head in sent if b"/livez" not in head]
        assert (len(commands), len(got)) == (1, 3)
        assert b"Idempotency-Key: k\r\n" in commands[0]


async def test_who_may_have_done_it_before_it_died_is_never_said_to_have_done_nothing(tmp_path: Path) -> None:
    refusing = f"http://127.0.0.1:{free_port()}"
    async with dying_node(hangs_up=True) as (dying, _), far_node(tmp_path, [dying, refusing]) as (url, key):
        assert await post(url, key, **{"Idempotency-Key": "k"}) == (503, "unknown_outcome")


async def test_what_the_next_node_cannot_do_may_have_been_done_by_the_one_that_died(tmp_path: Path) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"code": "shard_unavailable"}, status=503)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with dying_node(hangs_up=True) as (dying, _), TestServer(app) as server:
        refusing = str(server.make_url("")).rstrip("/")
        async with far_node(tmp_path, [dying, refusing]) as (url, key):
            assert await post(url, key, **{"Idempotency-Key": "k"}) == (503, "unknown_outcome")


async def test_a_node_that_stops_gets_no_more_and_one_that_is_back_is_asked_again(tmp_path: Path) -> None:
    stopping = asyncio.Event()
    stopping.set()

    async def first(_request: web.Request) -> web.Response:
        answer = web.json_response({}, status=200)
        if stopping.is_set():
            answer.force_close()
        return answer

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", first)
    async with TestServer(app) as server, home_node() as (home, got):
        async with far_node(tmp_path, [str(server.make_url("")).rstrip("/"), home]) as (url, key):
            assert [(await post(url, key))[0] for _ in range(4)] == [200, 201, 201, 201]
            stopping.clear()
            async with asyncio.timeout(10):
                while (await post(url, key))[0] != 200:
                    pass
        assert len(got) >= 3


@pytest.mark.parametrize(("code", "answers"), [("shard_unavailable", 201), ("unknown_outcome", 503)])
async def test_who_did_nothing_and_wants_others_to_be_asked_is_passed_over(
    tmp_path: Path, code: str, answers: int
) -> None:
    async def decline(_request: web.Request) -> web.Response:
        answer = web.Response(status=503, body=f'{{"code":"{code}"}}'.encode(), content_type="application/json")
        answer.force_close()
        return answer

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", decline)
    async with TestServer(app) as server, home_node() as (home, got):
        declining = str(server.make_url("")).rstrip("/")
        async with far_node(tmp_path, [declining, home]) as (url, key):
            assert (await post(url, key))[0] == answers
        assert len(got) == (answers == 201)
        async with far_node(tmp_path, [declining]) as (url, key):
            assert await post(url, key) == (503, code)


async def test_what_a_stranger_says_about_forwarding_is_nothing(tmp_path: Path) -> None:
    """Neither a mark of nobody, nor one of another key, nor one of another request."""
    asked: list[web.Request] = []
    async with home_node(asked) as (home, got), far_node(tmp_path, [home]) as (url, key):
        assert await post(url, key) == (201, None)
        seen = {"Loyalty-Forwarded": asked[0].headers["Loyalty-Forwarded"], "Request-Id": "another"}
        for headers in (seen, *({"Loyalty-Forwarded": mark} for mark in ("us", "us;", "us;x", f"us;{'0' * 64}"))):
            assert await post(url, key, **headers) == (201, None)
        assert len(got) == 6


async def test_what_a_node_of_ours_has_forwarded_is_not_passed_on_again(tmp_path: Path) -> None:
    asked: list[web.Request] = []
    async with home_node(asked) as (home, got), far_node(tmp_path, [home]) as (url, key):
        assert await post(url, key) == (201, None)
        headers = {name: asked[0].headers[name] for name in ("Loyalty-Forwarded", "Request-Id")}
        assert await post(url, key, **headers) == (503, "shard_unavailable")
        assert len(got) == 1


@pytest.mark.parametrize("deadline_ms", [1, 999_999_99])
async def test_a_deadline_that_comes_along_can_only_shorten(tmp_path: Path, deadline_ms: int) -> None:
    asked: list[web.Request] = []
    async with home_node(asked) as (home, _), far_node(tmp_path, [home]) as (url, key):
        status, _ = await post(url, key, **{"Loyalty-Deadline-Ms": str(deadline_ms)})
        assert {int(request.headers["Loyalty-Deadline-Ms"]) <= min(deadline_ms, 5_000) for request in asked} <= {True}
        assert status in ({201} if deadline_ms > 1 else {201, 503})


@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_an_absolute_target_is_forwarded_as_a_path(tmp_path: Path, method: str) -> None:
    asked: list[web.Request] = []
    async with home_node(asked) as (home, _), far_node(tmp_path, [home]) as (url, key):
        port = int(url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"{method} http://elsewhere:1/v1/adjustments?a=%2Fb%20c HTTP/1.1\r\nHost: node\r\nConnection: close\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 201"), answer
        assert answer.endswith(b"\r\n\r\n" if method == "HEAD" else b"{}")
        assert b"\r\nContent-Length: 2\r\n" in answer
        assert [(request.method, request.raw_path) for request in asked] == [
            ("GET" if method == "HEAD" else "POST", "/v1/adjustments?a=%2Fb%20c")
        ]


async def test_id_trace_and_coding_of_a_request_go_along_and_the_answer_comes_back_as_it_is(tmp_path: Path) -> None:
    """What is packed at home is not unpacked and packed again on the way."""
    asked: list[web.Request] = []
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    given = {"Request-Id": "till-7", "traceparent": trace, "Accept-Encoding": "gzip;q=0.7"}
    async with home_node(asked) as (home, _), far_node(tmp_path, [home]) as (url, key):
        async with (
            ClientSession(auto_decompress=False) as session,
            session.get(f"{url}?long", headers={"Authorization": f"Bearer {key}"} | given) as answer,
        ):
            assert answer.headers.get("Content-Encoding") == "gzip"
            assert gzip.decompress(await answer.read()) == LONG
            assert answer.headers["Request-Id"] == "till-7"
        assert {name: asked[0].headers[name] for name in given} == given


async def test_what_a_refusal_asks_for_comes_back_too(tmp_path: Path) -> None:
    """A 401 without WWW-Authenticate is no answer of HTTP (RFC 9110, 15.5.2), whichever region refuses."""
    async with (
        home_node() as (home, _),
        far_node(tmp_path, [home]) as (url, key),
        ClientSession() as session,
        session.get(f"{url}?closed", headers={"Authorization": f"Bearer {key}"}) as answer,
    ):
        assert (answer.status, answer.headers.get("WWW-Authenticate")) == (401, "Bearer")
