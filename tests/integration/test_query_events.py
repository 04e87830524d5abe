"""Event streams: every version once, resumable, bounded, over regions."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from query import views
from query.node import NODE
from shard_router.member_id import format_member_id
from shard_router.web import DRAINING
from tests.engine import ValkeyServer
from tests.query_world import ShardPlace, World, entry, member, open_world, project

ADA, BOB = member(1), member(2, region="us")
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]


class Stream:
    """The events of a response, read one by one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def block(self) -> dict[str, str]:
        lines = (await asyncio.wait_for(self.response.content.readuntil(b"\n\n"), 10)).decode().splitlines()
        return dict(line.split(": ", 1) for line in lines if line)

    async def event(self) -> dict[str, str]:
        while "event" not in (block := await self.block()):
            pass
        return block


@pytest.fixture
async def world(tmp_path: Path, valkey_server: ValkeyServer) -> AsyncGenerator[World]:
    shards = {name: ShardPlace(NOWHERE, await valkey_server.fresh_url()) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards, stream_comment_s=0.1, streams_max=2) as opened:
        yield opened


@asynccontextmanager
async def streaming(world: World, member_id: int, *, last: str | None = None) -> AsyncGenerator[Stream]:
    headers = {"Authorization": f"Bearer {world.member_token(member_id)}"}
    if last is not None:
        headers["Last-Event-ID"] = last
    url = f"{world.nodes['eu']}/v1/members/{format_member_id(member_id)}/events"
    async with world.session.get(url, headers=headers) as response:
        yield Stream(response)


@pytest.mark.parametrize(("member_id", "shard"), [(ADA, "eu-1"), (BOB, "us-1")])
async def test_the_account_comes_at_once_and_with_every_change(world: World, member_id: int, shard: str) -> None:
    valkey = world.shards[shard].valkey
    await project(valkey, member_id, 3)
    async with streaming(world, member_id) as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert (await stream.block()).keys() == {"retry"}
        first = await stream.event()
        assert (first["event"], first["id"]) == ("account", "3")
        assert first["data"].encode() == views.account_view(entry(member_id, 3))
        for version in (4, 6):
            await project(valkey, member_id, version)
            assert (await stream.event())["id"] == str(version)


async def test_a_stream_resumes_after_the_last_event(world: World) -> None:
    valkey = world.shards["eu-1"].valkey
    await project(valkey, ADA, 3)
    async with streaming(world, ADA, last="3") as stream:
        await stream.block()
        assert "event" not in await stream.block()
        await project(valkey, ADA, 4)
        assert (await stream.event())["id"] == "4"
    async with streaming(world, ADA, last="2") as stream:
        assert (await stream.event())["id"] == "4"
    async with streaming(world, ADA, last="soon") as stream:
        assert stream.response.status == 400


async def test_streams_are_bounded_and_given_back(world: World) -> None:
    await project(world.shards["eu-1"].valkey, ADA, 1)
    async with streaming(world, ADA) as one, streaming(world, ADA) as two:
        await one.event()
        await two.event()
        async with streaming(world, ADA) as third:
            assert third.response.status == 429
            assert third.response.headers["Retry-After"] == "1"
    async with asyncio.timeout(10):
        while True:
            async with streaming(world, ADA) as again:
                if again.response.status == 200:
                    break
    assert world.apps["eu"][NODE].readers["eu-1"].visible.waiting <= 2


async def test_a_stopping_node_ends_its_streams(world: World) -> None:
    await project(world.shards["eu-1"].valkey, ADA, 1)
    async with streaming(world, ADA) as stream:
        await stream.event()
        world.apps["eu"][DRAINING].set()
        await asyncio.wait_for(stream.response.content.read(), 10)
        assert stream.response.content.at_eof()
