"""A real Envoy before stand-in nodes: it does what the decision says, and goes elsewhere when a region dies."""

import asyncio
import io
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from cluster.door import found_well
from cluster.files import write_json
from edge.decision import Door, make_door
from edge.envoy import CLUSTERS, Listening, render_dynamic, render_envoy
from edge.reply import Pages
from shard_router.errors import PROBLEMS
from tests.conftest import eventually
from tests.edge_world import NUMBERS, card_of, member_of, topology
from tests.engine import free_port
from tests.http_node import Answer, connection, read_answer

BESIDE_PYTHON = Path(sys.executable).parent
ENVOY = os.environ.get("LOYALTY_ENVOY") or shutil.which("envoy") or shutil.which("envoy", path=BESIDE_PYTHON)
pytestmark = pytest.mark.skipif(
    ENVOY is None, reason="no Envoy: install the extra `edge`, or name one in LOYALTY_ENVOY"
)
GEO_HEADERS = {"CF-IPCountry": "JP", "Loyalty-Country": "JP", "X-Geo-Country": "JP", "X-Forwarded-For": "127.0.3.9"}
TRIES = {"X-Envoy-Retry-On": "5xx", "X-Envoy-Max-Retries": "9", "X-Envoy-Upstream-Rq-Timeout-Ms": "1"}
NETWORKS = {"127.0.1.0/24": "DE", "127.0.2.0/24": "US", "127.0.3.0/24": "JP"}


@dataclass(slots=True)
class StandIn:
    """A node that tells who it is and what it heard; `break_off` cuts each call once it was heard."""

    region: str
    side: str
    url: str
    break_off: bool = False
    asked: int = 0
    stop: Callable[[], Any] = field(default=lambda: None)


@dataclass(frozen=True, slots=True)
class Front:
    """The running door, its nodes by region and side, and its folder."""

    door: Door
    url: str
    nodes: dict[tuple[str, str], StandIn]
    folder: Path
    admin_port: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ask(self, method: str, path: str, *, source: str = "127.0.0.1", **headers: str) -> Any:
        """Who answered; the client's address is `source`, and no connection is used twice."""
        _, told = await self.ask_whole(method, path, source=source, headers=headers)
        return f"{told['side']} {told['region']}"

    async def ask_whole(
        self,
        method: str,
        path: str | URL,
        *,
        source: str = "127.0.0.1",
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> tuple[aiohttp.ClientResponse, Any]:
        connector = aiohttp.TCPConnector(local_addr=(source, 0), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method, path if isinstance(path, URL) else self.url + path, headers=headers, **more
            ) as response,
        ):
            return response, await response.json(content_type=None)


@asynccontextmanager
async def stand_in(region: str, side: str) -> AsyncGenerator[StandIn]:
    node = StandIn(region, side, f"http://127.0.0.1:{free_port()}")

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/readyz":
            return web.Response(text="ok")
        node.asked += 1
        if node.break_off and request.transport:
            request.transport.close()
        heard = {
            "region": region,
            "side": side,
            "path": request.path,
            "headers": {k.lower(): v for k, v in request.headers.items()},
        }
        return web.json_response(heard, headers={"Loyalty-Region": region})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(node.url.rpartition(":")[2])).start()
    node.stop = runner.cleanup
    try:
        yield node
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running_front(folder: Path, geoip: Path | None = None, **bounds: int) -> AsyncGenerator[Front]:
    assert ENVOY is not None
    async with AsyncExitStack() as stack:
        sides = [(region, side) for region in NUMBERS for side in ("command", "query")]
        nodes = {pair: await stack.enter_async_context(stand_in(*pair)) for pair in sides}
        door = make_door(topology({pair: node.url for pair, node in nodes.items()}))
        log = folder / "access.log"
        pages = Pages((PAGE,), "Request-Id, Allow")
        listening = Listening(folder, free_port(), free_port(), geoip=geoip, access_log=log, pages=pages, **bounds)
        for name, document in render_envoy(door, listening).items():
            write_json(folder / name, document)
        told = (folder / "envoy.log").open("wb")
        stack.callback(told.close)
        words = ("-c", str(folder / "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning")
        envoy = await asyncio.create_subprocess_exec(ENVOY, *words, stdout=told, stderr=told)
        stack.push_async_callback(end, envoy)
        front = Front(door, f"http://127.0.0.1:{listening.port}", nodes, folder, listening.admin_port)

        async def ready() -> bool:
            assert envoy.returncode is None, (folder / "envoy.log").read_text()
            return await serves_everywhere(front)

        await eventually(ready, deadline_s=20)
        yield front


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def serves_everywhere(front: Front) -> bool:
    """Whether each side of each region is known to be well, and so answers for its own members."""
    try:
        return all(
            [
                await front.ask(method, f"/v1/members/{member_of(region)}") == f"{side} {region}"
                for method, side in (("GET", "query"), ("DELETE", "command"))
                for region in NUMBERS
            ]
        )
    except (aiohttp.ClientError, KeyError):
        return False


@pytest.fixture(scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Front]:
    """One door for the tests that break nothing."""
    async with running_front(tmp_path_factory.mktemp("door")) as running:
        yield running


@pytest.mark.parametrize("region", NUMBERS)
async def test_what_names_a_member_reaches_their_home(front: Front, region: str) -> None:
    member = member_of(region)
    assert await front.ask("GET", f"/v1/members/{member.lower()}/account") == f"query {region}"
    assert await front.ask("GET", f"/v1/purchases/pur_{member}-7") == f"query {region}"
    assert await front.ask("GET", f"/v1/lookup?card={card_of(region)}") == f"query {region}"
    assert await front.ask("POST", f"/v1/holds/hld_{member}-7/capture") == f"command {region}"
    assert await front.ask("POST", "/v1/purchases", **{"Loyalty-Member": member}) == f"command {region}"
    assert await front.ask("POST", "/v1/evaluations", **{"Loyalty-Member": card_of(region)}) == f"query {region}"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
async def test_commands_and_queries_reach_their_nodes(front: Front, method: str) -> None:
    side = "query" if method in {"GET", "HEAD"} else "command"
    response, _ = await front.ask_whole(method, "/v1/rewards")
    asked = front.nodes["eu", side].asked
    response, _ = await front.ask_whole(method, "/v1/rewards")
    assert response.status == 200
    assert front.nodes["eu", side].asked == asked + 1


@pytest.mark.parametrize("key", ['"."', '".."', "a/../b"])
async def test_a_key_in_a_path_reaches_its_node_whole(front: Front, key: str) -> None:
    _, told = await front.ask_whole("GET", URL(f"{front.url}/v1/commands/{quote(key, safe='')}", encoded=True))
    assert (told["side"], told["path"]) == ("query", f"/v1/commands/{key}")


async def test_a_page_at_the_door_has_the_documents_of_both_sides(front: Front) -> None:
    _, commands = await front.ask_whole("GET", "/commands/openapi.json")
    assert (commands["side"], commands["path"]) == ("command", "/openapi.json")
    _, queries = await front.ask_whole("GET", "/openapi.json")
    assert (queries["side"], queries["path"]) == ("query", "/openapi.json")
    for path in ("/", "/docs"):
        _, page = await front.ask_whole("GET", path, headers={"Loyalty-Door": "x"})
        assert (page["side"], page["headers"]["loyalty-door"]) == ("query", "1")


async def test_what_strangers_say_of_their_place_is_taken_off(front: Front) -> None:
    response, told = await front.ask_whole("GET", "/v1/rewards", source="127.0.1.7", headers={**GEO_HEADERS, **TRIES})
    assert response.headers["Loyalty-Region"] == "eu"
    lower = {name.lower() for name in {**GEO_HEADERS, **TRIES}}
    assert lower & told["headers"].keys() == {"x-forwarded-for"}
    assert told["headers"]["x-forwarded-for"] == "127.0.1.7"


async def test_what_nodes_tell_the_house_is_not_told_the_world(front: Front) -> None:
    response, told = await front.ask_whole("GET", "/metrics")
    assert (response.status, told["code"]) == (404, "not_found")


async def test_a_body_beyond_the_bound_is_refused_in_the_words_of_the_contract(front: Front) -> None:
    response, told = await front.ask_whole("POST", "/v1/purchases", data=io.BytesIO(b" " * 1_048_577))
    assert (response.status, told["code"], told["status"]) == (413, "too_large", 413)
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("member", [member_of("us"), "x"])
async def test_a_wrong_method_is_told_those_of_both_sides(front: Front, method: str, member: str) -> None:
    response, told = await front.ask_whole(method, f"/v1/members/{member}?a=b", data=b"{}")
    assert (response.status, told["code"], response.headers["Allow"]) == (405, "method_not_allowed", "DELETE,GET,HEAD")
    assert response.headers["Request-Id"] == told["request_id"]


PAGE = "https://app.example"
POST = b"POST /v1/holds HTTP/1.1\r\nHost: door\r\n"
NEVER_PASSED_ON = {
    "no HTTP": (b"GARBAGE\r\n\r\n", "malformed"),
    "no host": (b"GET /v1/tiers HTTP/1.1\r\n\r\n", "malformed"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "malformed"),
    "an encoding nobody speaks": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "malformed"),
    "NUL in the path": (b"GET /v1/tiers%00 HTTP/1.1\r\nHost: door\r\n\r\n", "malformed"),
    "too many headers": (b"GET /v1/tiers HTTP/1.1\r\nHost: door\r\n" + b"A: a\r\n" * 200 + b"\r\n", "malformed"),
    "too large": (POST + b"Content-Length: 2000000\r\n\r\n" + b" " * 1_100_000, "too_large"),
    "hidden": (b"GET /metrics HTTP/1.1\r\nHost: door\r\n\r\n", "not_found"),
}


async def sent(front: Front, request: bytes) -> Answer:
    async with connection(front.port) as (reader, writer), asyncio.timeout(10):
        writer.write(request)
        return await read_answer(reader)


@pytest.mark.parametrize("name", NEVER_PASSED_ON)
async def test_what_the_door_answers_itself_is_as_whole_as_what_a_node_answers(front: Front, name: str) -> None:
    request, code = NEVER_PASSED_ON[name]
    answer = await sent(front, request)
    told, headers = answer.json, {name.lower(): text for name, text in answer.headers.items()}
    assert (answer.status, told["status"], told["code"]) == (PROBLEMS[code].status, PROBLEMS[code].status, code)
    assert headers["content-type"] == "application/problem+json"
    assert headers["request-id"] == told["request_id"] != ""
    assert headers["loyalty-region"] == "eu"
    assert [one["pointer"] for one in told.get("errors", [])] == ([""] if code == "malformed" else [])


@pytest.mark.parametrize("origin", [PAGE, "https://app.example.org", "https://appxexample", None])
async def test_a_page_that_nodes_let_in_reads_what_the_door_answers_itself(front: Front, origin: str | None) -> None:
    headers = {"Origin": origin} if origin else {}
    for method, path in (("GET", "/metrics"), ("PUT", f"/v1/members/{member_of('us')}")):
        response, told = await front.ask_whole(method, path, headers=headers)
        assert told["code"] in {"not_found", "method_not_allowed"}
        assert response.headers.get("Access-Control-Allow-Origin") == (PAGE if origin == PAGE else None)
        exposed = response.headers.get("Access-Control-Expose-Headers")
        assert exposed == ("Request-Id, Allow" if origin == PAGE else None)
        assert response.headers["Vary"] == "Origin"


async def test_a_body_that_does_not_arrive_is_waited_for_no_longer_than_by_a_node(front: Front) -> None:
    request = POST + b"Content-Length: 100\r\n\r\n{"
    async with connection(front.port) as (reader, writer), asyncio.timeout(30):
        writer.write(request)
        answer = await read_answer(reader)
    assert (answer.status, answer.json["code"]) == (400, "malformed")
    assert "request_overall_timeout" in answer.json["detail"]


async def test_bodies_that_never_end_are_refused_before_they_take_the_memory_of_the_door(tmp_path: Path) -> None:
    """Strangers who need no credential for it, each with a body that lacks its end."""
    head = b"POST /v1/members HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    async with running_front(tmp_path, memory_bytes_max=32 << 20) as front, AsyncExitStack() as strangers:

        async def status() -> Any:
            response, told = await front.ask_whole("POST", "/v1/members")
            return response.status, told.get("code"), response.headers.get("Retry-After")

        async def is_full() -> bool:
            _, writer = await strangers.enter_async_context(connection(front.port))
            writer.write(head + bytes(900_000))
            return await status() == (503, "unknown_outcome", "2")

        await eventually(is_full)
        await strangers.aclose()

        async def is_taken() -> bool:
            return (await status())[0] == 200

        await eventually(is_taken)


async def test_whoever_speaks_the_old_http_is_let_in(front: Front) -> None:
    for host in (b"", b"Host: door\r\n"):
        answer = await sent(front, b"GET /v1/rewards HTTP/1.0\r\n" + host + b"\r\n")
        assert (answer.status, answer.json["side"]) == (200, "query")


async def test_the_access_log_tells_the_region_and_why(front: Front) -> None:
    await front.ask("GET", f"/v1/lookup?card={card_of('ap')}")

    async def told() -> bool:
        lines = map(json.loads, (front.folder / "access.log").read_text().splitlines())
        return any(
            (line["path"], line["chosen"], line["region"]) == ("/v1/lookup", "query ap member", "ap") for line in lines
        )

    await eventually(told, deadline_s=30)


async def test_a_client_goes_to_the_region_nearest_to_its_country(tmp_path: Path) -> None:
    writer = pytest.importorskip("mmdb_writer").MMDBWriter(ip_version=4, database_type="GeoLite2-City")
    netaddr = pytest.importorskip("netaddr")
    for network, country in NETWORKS.items():
        writer.insert_network(netaddr.IPSet([network]), {"country": {"iso_code": country}})
    writer.to_db_file(str(tmp_path / "countries.mmdb"))
    async with running_front(tmp_path, tmp_path / "countries.mmdb") as front:
        for source, region in (("127.0.1.7", "eu"), ("127.0.2.7", "us"), ("127.0.3.7", "ap"), ("127.0.4.7", "eu")):
            assert await front.ask("GET", "/v1/rewards", source=source) == f"query {region}"
            assert await front.ask("GET", "/v1/rewards", source=source, **GEO_HEADERS) == f"query {region}"
        home = f"/v1/members/{member_of('us')}"
        assert await front.ask("GET", home, source="127.0.3.7") == "query us"


async def test_when_the_nodes_of_a_region_die_the_next_region_answers(tmp_path: Path) -> None:
    async with running_front(tmp_path) as front:
        path = f"/v1/members/{member_of('us')}"
        for side in ("query", "command"):
            await front.nodes["us", side].stop()
        answers = [await front.ask(method, path) for method in ("GET", "DELETE") * 20]
        assert set(answers) == {"query eu", "command eu"}
        assert front.door.decide(path).regions[1] == "eu"
        for region in ("eu", "ap"):
            await front.nodes[region, "command"].stop()
        response, told = await front.ask_whole("DELETE", path)
        assert (response.status, told["code"]) == (503, "shard_unavailable"), "nothing of it was sent"
        assert response.headers["Retry-After"] == str(PROBLEMS["shard_unavailable"].retry_after_s)
        assert response.headers["Request-Id"] == told["request_id"]


async def test_a_command_that_was_heard_is_not_sent_again_and_a_query_is(tmp_path: Path) -> None:
    async with running_front(tmp_path) as front:
        for node in front.nodes.values():
            node.break_off, node.asked = node.region == "us", 0
        path = f"/v1/members/{member_of('us')}"
        response, told = await front.ask_whole("DELETE", path, data=b"{}")
        assert (response.status, told["code"], told["retryable"]) == (503, "unknown_outcome", True)
        assert [node.asked for node in front.nodes.values() if node.side == "command"] == [0, 1, 0]
        assert await front.ask("GET", path) == "query eu"


async def test_a_region_is_evacuated_and_restored_without_a_failed_request(tmp_path: Path) -> None:
    async with running_front(tmp_path) as front:
        path = f"/v1/members/{member_of('us')}"
        for evacuated, region in ((["us"], "eu"), ([], "us")):
            door = make_door(front.door.topology, evacuated=evacuated)
            write_json(front.folder / CLUSTERS, render_dynamic(door)[CLUSTERS])

            async def moved(wanted: str = f"query {region}") -> bool:
                return await front.ask("GET", path) == wanted  # any answer but a node's is a KeyError

            await eventually(moved, deadline_s=30)


async def test_whoever_starts_it_hears_whether_it_has_found_every_node_well(tmp_path: Path) -> None:
    async with running_front(tmp_path) as front:
        assert await found_well(front.admin_port)
        await front.nodes["us", "query"].stop()

        async def is_missed() -> bool:
            return not await found_well(front.admin_port, deadline_s=0.1)

        await eventually(is_missed, deadline_s=20)
    assert not await found_well(front.admin_port, deadline_s=0.1)  # nobody answers
