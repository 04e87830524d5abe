"""The examples of the documents do what they say: a till that sends again, a page of another origin."""

import asyncio
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shard_router.member_id import format_member_id
from tests.command_node import running_command_node
from tests.engine import ValkeyServer, free_port
from tests.query_world import ShardPlace, World, member, open_world, project

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
ADA = member(1)
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


async def output_of(*command: str) -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(child.communicate(), 90)
    return child.returncode or 0, output.decode()


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


async def test_the_page_of_another_origin_shows_points_and_hears_of_new_ones(world: World, page: str) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    for version in (1, 2, 3):
        await project(world.shards["eu-1"].valkey, ADA, version)
    url = f"{page}/page.html?queries={world.nodes['eu']}&member={format_member_id(ADA)}#{world.member_token(ADA)}"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--dump-dom")
    code, document = await output_of(browser, *flags, url)
    assert code == 0, document
    assert ('<h1 id="points">30 points</h1>' in document, '<p id="live">live</p>' in document) == (True, True), document
