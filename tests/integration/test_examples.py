"""The examples of the documents do what they say: a till that sends again, a page of another origin."""

import asyncio
import runpy
import shutil
import sys
from asyncio import StreamWriter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from shard_router.member_id import format_member_id
from shard_router.token import format_token, parse_token
from tests.command_node import running_command_node
from tests.conftest import eventually
from tests.engine import ValkeyServer, free_port
from tests.project import PROJECT
from tests.query_world import ShardPlace, World, member, open_world, project

EXAMPLES = PROJECT / "docs" / "examples"
ADA = member(1)
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


async def output_of(*command: str) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(child.communicate(), 90)
    return child.returncode or 0, output.decode()


async def test_whoever_starts_a_till_without_words_is_told_which_it_takes() -> None:
    code, told = await output_of(sys.executable, str(EXAMPLES / "till.py"), "--help")
    assert (code, told.splitlines()[-1].endswith("till.py NODE KEY CARD STORE [NODE ...]")) == (1, True)


@pytest.mark.parametrize("name", ["till.py", "page.html"])
def test_an_example_can_be_read_at_a_glance(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 45


async def test_the_till_sells_though_its_first_node_is_gone(database: str, tmp_path: Path) -> None:
    async with running_command_node(database, tmp_path) as node:
        card = (await node.enrol(name="Ada"))["card"]
        gone = f"http://127.0.0.1:{free_port()}"
        till = (sys.executable, str(EXAMPLES / "till.py"), gone, node.keys["service"], card, "330", node.url)
        code, output = await output_of(*till)
        assert (code, output.split()[0]) == (0, "201"), output
        assert parse_token(output.split()[-1]).version == 2  # what a page that is opened now must show


async def test_the_till_asks_a_node_last_that_gave_no_answer(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = runpy.run_path(str(EXAMPLES / "till.py"))
    monkeypatch.setitem(till["post"].__globals__, "TIMEOUT_S", 0.3)
    asked: list[StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: asked.append(writer), "127.0.0.1", 0)
    async with running_command_node(database, tmp_path) as node, silent:
        nodes = [f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}", node.url]
        member = await node.enrol(name="Ada")
        body = {"member": {"card": member["card"]}, "points": 5, "reason": "Kulanz"}
        for key in ("one", "two"):
            status, answer = await asyncio.to_thread(
                till["post"], nodes, node.keys["admin"], "/v1/adjustments", body, key
            )
            assert status == 201, answer
        assert answer["account"]["balance"]["available"] == 10
        assert len(asked) == 1
        for writer in asked:
            writer.close()


HTML = b"Content-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
FAULT = b'Content-Length: 56\r\n\r\n{"code":"internal","retryable":true,"detail":"a fault"  }'
NO_ANSWERS = {
    "a balancer without a node": b"HTTP/1.1 502 Bad Gateway\r\n" + HTML,
    "a gateway that waited too long": b"HTTP/1.1 504 Gateway Timeout\r\n" + HTML,
    "a fault of the node": b"HTTP/1.1 500 Internal Server Error\r\n" + FAULT,
    "half of a no": b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 99\r\n\r\n{"code"',
    "half of a yes": b'HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{"purchase_id"',
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("sent", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_the_till_takes_nothing_for_an_answer_that_is_none(database: str, tmp_path: Path, sent: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        writer.close()

    broken = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running_command_node(database, tmp_path) as node, broken:
        card = (await node.enrol(name="Ada"))["card"]
        first = f"http://127.0.0.1:{broken.sockets[0].getsockname()[1]}"
        till = (sys.executable, str(EXAMPLES / "till.py"), first, node.keys["service"], card, "330", node.url)
        code, output = await output_of(*till)
        assert (code, output.split()[0]) == (0, "201"), output


@pytest.fixture
async def world(tmp_path: Path, valkey_server: ValkeyServer, page: str) -> AsyncGenerator[World]:
    shards = {name: ShardPlace(NOWHERE, await valkey_server.fresh_url()) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards, cors_origins=(page,)) as opened:
        yield opened


@pytest.fixture
async def page() -> AsyncGenerator[str]:
    """The origin that serves the example's page, another than the nodes'."""
    app = web.Application()
    app.router.add_static("/", EXAMPLES)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_the_page_of_another_origin_shows_points_and_hears_of_new_ones(
    world: World, page: str, tmp_path: Path
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    for version in (1, 2, 3):
        await project(world.shards["eu-1"].valkey, ADA, version)
    seen = format_token(ADA, 3)
    at = f"queries={world.nodes['eu']}&member={format_member_id(ADA)}&seen={seen}"
    url = f"{page}/page.html?{at}#{world.member_token(ADA)}"
    async with opened(browser, url, tmp_path / "profile") as shown:

        async def live() -> bool:
            return await shown("live") == "live"

        await eventually(live, deadline_s=60)
        assert await shown("points") == "30 points"
        await project(world.shards["eu-1"].valkey, ADA, 4)

        async def heard() -> bool:
            return await shown("points") == "40 points"

        await eventually(heard, deadline_s=30)


IN_NODE = """
const elements = {}, page = require("fs").readFileSync(process.argv[1], "utf8");
const made = (id) => (elements[id] ??= { textContent: "", append() {} });
const account = (version, available) => ({ version, balance: { available }, tier: { name: "Basic", next: null } });
const answers = { account: account(5, 50), activity: { items: [] }, "stream-tickets": { ticket: "t" } };
globalThis.document = { getElementById: made, createElement: () => ({}) };
globalThis.location = { search: "?member=m&queries=q&seen=v1.m.5", hash: "#token" };
globalThis.fetch = async (url) => ({
  ok: true, status: 200, headers: { get: () => "" }, json: async () => answers[url.match(/[a-z-]+(?=$|[?])/)[0]],
});
globalThis.EventSource = class {
  addEventListener(_kind, heard) {
    for (const [version, points] of [[4, 40], [6, 60]]) {
      heard({ data: JSON.stringify(account(version, points)) });
      console.log(made("points").textContent);
    }
  }
};
new Function(page.match(/<script type="module">(.*)<.script>/s)[1])();
"""
"""The page's script among stand-ins of a browser: a stream first tells an older state than the page shows."""


async def test_a_page_shows_nothing_older_than_before() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js on this machine")
    assert await output_of(node, "-e", IN_NODE, str(EXAMPLES / "page.html")) == (0, "50 points\n60 points\n")


@asynccontextmanager
async def opened(browser: str, url: str, profile: Path) -> AsyncGenerator[Callable[[str], Awaitable[str]]]:
    """A page in a headless browser, spoken to by the DevTools protocol; asks for the text of an element by its id."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}")
    child = await asyncio.create_subprocess_exec(
        browser, *flags, url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        port_file = profile / "DevToolsActivePort"

        async def listening() -> bool:
            return port_file.exists() and port_file.read_text().strip() != ""

        await eventually(listening, deadline_s=60)
        port = port_file.read_text().splitlines()[0]
        async with ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = await answer.json(content_type=None)
            target = next(one for one in pages if one["type"] == "page")["webSocketDebuggerUrl"]
            async with session.ws_connect(target) as devtools:

                async def shown(element: str) -> str:
                    script = {"expression": f"document.getElementById('{element}')?.textContent ?? ''"}
                    await devtools.send_json({"id": 1, "method": "Runtime.evaluate", "params": script})
                    return (await devtools.receive_json(timeout=20))["result"]["result"]["value"]

                yield shown
    finally:
        child.kill()
        await child.wait()
