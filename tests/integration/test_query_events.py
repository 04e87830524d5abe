"""Event streams: every version once, resumable, bounded, over regions."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from query import events, views
from query.node import NODE
from service.credential import mint_member_token
from service.health import DRAINING
from service.web import STREAMS
from shard_router.member_id import format_member_id
from shard_router.token import format_token
from tests.conftest import eventually
from tests.engine import ValkeyServer
from tests.event_stream import Stream, streaming
from tests.query_world import ShardPlace, World, entry, member, open_world, project

ADA, BOB, EVE = member(1), member(2, region="us"), member(3)
USUAL_RECHECK_S = events._RECHECK_S
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]


@pytest.fixture
async def world(tmp_path: Path, valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    monkeypatch.setattr(events, "_RECHECK_S", 0.1)  # a node that is to close waits so long for streams nobody reads
    shards = {name: ShardPlace(NOWHERE, await valkey_server.fresh_url()) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards, stream_comment_s=0.1, streams_max=8) as opened:
        yield opened


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


@pytest.fixture
def at_usual_pace(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(events, "_RECHECK_S", USUAL_RECHECK_S)
    return world


async def test_a_deadline_is_that_of_a_streams_beginning(at_usual_pace: World) -> None:
    world = at_usual_pace
    await project(world.shards["eu-1"].valkey, ADA, 1)
    url = f"{world.nodes['eu']}/v1/members/{format_member_id(ADA)}/events"
    headers = {"Authorization": f"Bearer {world.member_token(ADA)}", "Loyalty-Deadline-Ms": "1000"}
    async with world.session.get(url, headers=headers) as response:
        stream = Stream(response)
        assert (await stream.event())["id"] == "1"
        for _ in range(3):  # a comment a second
            assert await stream.block() == {"": "still here"}


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


@pytest.mark.parametrize("member_id", [ADA, BOB])
async def test_a_stream_begins_with_the_state_its_token_demands(
    tmp_path: Path, valkey_server: ValkeyServer, member_id: int
) -> None:
    region = "eu" if member_id == ADA else "us"
    shards = {name: ShardPlace(NOWHERE, await valkey_server.fresh_url()) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards, token_wait_ms=9_000, stream_comment_s=0.1) as world:
        valkey, reader = shards[f"{region}-1"].valkey, world.apps[region][NODE].readers[f"{region}-1"]
        await project(valkey, member_id, 3)
        await asyncio.wait_for(reader.visible.subscribed.wait(), 10)
        url = f"{world.nodes['eu']}/v1/members/{format_member_id(member_id)}/events"
        headers = {"Authorization": f"Bearer {world.member_token(member_id)}"}
        opening = asyncio.create_task(
            world.session.get(url, headers=headers | {"Consistency-Token": format_token(member_id, 4)})
        )

        async def waits() -> bool:
            assert not opening.done()
            return reader.visible.waiting > 0

        await eventually(waits)
        await project(valkey, member_id, 4)
        async with await opening as response:
            assert response.headers["Loyalty-Source"] == "cache"
            assert (await Stream(response).event())["id"] == "4"
        async with world.session.get(url, headers=headers | {"Consistency-Token": format_token(EVE, 1)}) as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (400, "malformed")


async def test_what_is_no_id_resumes_nothing(world: World) -> None:
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
        last = await asyncio.wait_for(stream.response.content.read(), 10)
        assert last.endswith(b"retry: 100\nevent: moving\ndata: {}\n\n")


def shares(folder: Path, **percents: int) -> None:
    """What the door gives regions, replaced in one step as the door's keeper does."""
    (folder / "new.json").write_text(json.dumps({"url": "http://door", "shares": percents}))
    (folder / "new.json").replace(folder / "door.json")


@pytest.fixture
async def shared_out(tmp_path: Path, valkey_server: ValkeyServer) -> AsyncGenerator[World]:
    """A world whose nodes know what the door gives each region."""
    shards = {name: ShardPlace(NOWHERE, await valkey_server.fresh_url()) for name in ("eu-1", "us-1")}
    shares(tmp_path)
    async with open_world(tmp_path, shards, stream_comment_s=0.1, door_state=tmp_path / "door.json") as opened:
        yield opened


@pytest.mark.parametrize(
    ("member_id", "moved_by"),
    [(ADA, [{"eu": 0}]), (BOB, [{"eu": 0}]), (BOB, [{"us": 0}, {"us": 100}]), (BOB, [{"us": 0}, {}])],
    ids=["evacuated", "carrier evacuated", "home restored", "home restored by silence"],
)
async def test_a_stream_moves_once_when_the_door_sends_its_member_elsewhere(
    shared_out: World, tmp_path: Path, member_id: int, moved_by: list[dict[str, int]]
) -> None:
    """The client speaks to a node of eu. What comes back all the same stays."""
    valkey = shared_out.shards["eu-1" if member_id == ADA else "us-1"].valkey
    await project(valkey, member_id, 3)
    async with streaming(shared_out, member_id) as stream:
        assert (await stream.event())["id"] == "3"
        for version, percents in enumerate(
            moved_by[:-1], 4
        ):  # the home is evacuated: its own nodes carry on for others
            shares(tmp_path, **percents)
            for _ in range(3):
                assert await stream.block() == {"": "still here"}  # a comment a second
            await project(valkey, member_id, version)
            assert (await stream.event())["id"] == str(version)
        shares(tmp_path, **moved_by[-1])
        last = await asyncio.wait_for(stream.response.content.read(), 10)
        assert last.endswith(b"retry: 100\nevent: moving\ndata: {}\n\n")
    await project(valkey, member_id, 8)
    async with streaming(shared_out, member_id, last="7") as again:
        assert (await again.event())["id"] == "8"
        for _ in range(3):
            assert await again.block() == {"": "still here"}


async def test_a_relayed_stream_of_a_stopping_node_moves_at_once(world: World) -> None:
    """However seldom its home says something."""
    world.apps["us"][NODE].settings.stream_comment_s = 1_000.0
    await project(world.shards["us-1"].valkey, BOB, 1)
    async with streaming(world, BOB) as stream:
        await stream.event()
        world.apps["eu"][DRAINING].set()
        last = await asyncio.wait_for(stream.response.content.read(), 10)
        assert last.endswith(b"event: moving\ndata: {}\n\n")


@pytest.mark.parametrize("member_id", [ADA, BOB])
async def test_a_stream_whose_client_has_left_holds_no_place(world: World, member_id: int) -> None:
    """However seldom something is said: a phone that comes back ten times is not refused for its former streams."""
    for app in world.apps.values():
        app[NODE].settings.stream_comment_s = 1_000.0
    await project(world.shards["eu-1" if member_id == ADA else "us-1"].valkey, member_id, 1)
    async with streaming(world, member_id) as stream:
        await stream.event()
        assert sum(app[STREAMS].taken for app in world.apps.values()) == (1 if member_id == ADA else 2)

    async def all_are_left() -> bool:
        return not any(app[STREAMS].taken for app in world.apps.values())

    await eventually(all_are_left)


async def test_a_version_that_is_announced_and_not_there_is_not_asked_for_again_and_again(
    at_usual_pace: World,
) -> None:
    world = at_usual_pace
    valkey = world.shards["eu-1"].valkey
    await project(valkey, ADA, 3)
    reader = world.apps["eu"][NODE].readers["eu-1"]
    await asyncio.wait_for(reader.visible.subscribed.wait(), 10)
    async with streaming(world, ADA) as stream, Redis.from_url(valkey) as client:
        await stream.event()
        before = await world.metric("loyalty_query_answers_total")
        async with asyncio.timeout(10):
            for _ in range(200):
                await client.publish(views.VISIBLE_CHANNEL, f"{ADA}:4")
                await stream.block() if _ % 50 == 49 else await asyncio.sleep(0)
        assert await world.metric("loyalty_query_answers_total") - before < 20
        await project(valkey, ADA, 4)
        assert (await stream.event())["id"] == "4"


@pytest.mark.parametrize("member_id", [ADA, BOB])
async def test_a_stream_ends_with_its_token(world: World, member_id: int) -> None:
    await project(world.shards[f"{'eu' if member_id == ADA else 'us'}-1"].valkey, member_id, 1)
    token = mint_member_token(world.signing_key, member_id, lifetime_s=2)
    async with streaming(world, member_id, credential=token) as stream:
        await stream.event()
        await asyncio.wait_for(stream.response.content.read(), 10)
    async with streaming(world, member_id, credential=token) as again:
        assert again.response.status == 401


async def test_a_stream_ends_with_its_key(world: World, tmp_path: Path) -> None:
    await project(world.shards["eu-1"].valkey, ADA, 1)
    async with streaming(world, ADA, credential=world.keys["service"]) as stream:
        await stream.event()
        (tmp_path / "credentials.json").write_text('{"keys": []}')
        await asyncio.wait_for(stream.response.content.read(), 10)


async def test_one_credential_never_has_all_streams(tmp_path: Path, valkey_server: ValkeyServer) -> None:
    places = {"eu-1": ShardPlace(NOWHERE, await valkey_server.fresh_url())}
    async with open_world(tmp_path, places, streams_max=8, streams_per_member_max=2) as world, AsyncExitStack() as kept:
        for one in (ADA, EVE):
            await project(places["eu-1"].valkey, one, 1)
        statuses: list[tuple[int, int]] = []
        for credential, asked in ((world.member_token(ADA), 3), (world.member_token(EVE), 1), (world.keys["pos"], 4)):
            opened = [
                await kept.enter_async_context(streaming(world, EVE if asked == 1 else ADA, credential=credential))
                for _ in range(asked)
            ]
            statuses += [(asked, stream.response.status) for stream in opened]
        assert statuses == [(3, 200), (3, 200), (3, 429), (1, 200), (4, 200), (4, 200), (4, 429), (4, 429)]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"no HTTP at all\r\n\r\n", None])
async def test_a_home_node_that_begins_no_stream_is_unavailable(world: World, answer: bytes | None) -> None:
    """None: it takes the question and says nothing."""
    ended = asyncio.Event()

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await ended.wait()
        writer.write(answer or b"")
        writer.close()

    server = await asyncio.start_server(odd, "127.0.0.1", 0)
    node = world.apps["eu"][NODE]
    if answer is None:
        node.settings.deadline_ms = 1_000
    nodes = node.topology.current.document.regions["us"].query
    nodes.insert(0, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with streaming(world, BOB, last="9") as stream:
        # The next node is asked: it knows of no such member's view, and has no server to ask.
        assert (await stream.response.json(content_type=None))["code"] == "shard_unavailable"
        assert stream.response.headers["Loyalty-Region"] == "us"
    del nodes[1:]
    async with streaming(world, BOB) as stream:
        assert stream.response.status == 503
        assert (await stream.response.json(content_type=None))["code"] == "shard_unavailable"
        assert stream.response.headers["Loyalty-Region"] == "eu"
    ended.set()
    server.close()


async def ticket_of(
    world: World, member_id: int, *, credential: str | None = None, body: str | None = None
) -> aiohttp.ClientResponse:
    headers = {"Authorization": f"Bearer {credential or world.member_token(member_id)}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    return await world.session.post(f"{world.nodes['eu']}/v1/stream-tickets", headers=headers, data=body)


async def opened_with(world: World, member_id: int, ticket: str) -> aiohttp.ClientResponse:
    url = f"{world.nodes['eu']}/v1/members/{format_member_id(member_id)}/events"
    return await world.session.get(url, params={"ticket": ticket})


@pytest.mark.parametrize(("member_id", "shard"), [(ADA, "eu-1"), (BOB, "us-1")])
async def test_a_ticket_opens_one_stream_without_a_header_at_a_node_of_any_region(
    world: World, member_id: int, shard: str
) -> None:
    await project(world.shards[shard].valkey, member_id, 1)
    answer = await ticket_of(world, member_id)
    assert answer.status == 200, await answer.text()
    ticket = (await answer.json())["ticket"]
    first = await opened_with(world, member_id, ticket)
    assert first.status == 200, await first.text()
    assert (await Stream(first).event())["id"] == "1"
    second = await opened_with(world, member_id, ticket)
    assert (second.status, (await second.json(content_type=None))["code"]) == (401, "unauthenticated")
    first.close()


@pytest.mark.parametrize("member_id", [ADA, BOB])
async def test_a_ticket_is_asked_for_with_nothing_else(world: World, member_id: int) -> None:
    assert (await ticket_of(world, member_id, body="{}")).status == 200
    for body, pointer in (('{"lasts_s": 60}', "/lasts_s"), ("[]", ""), ("null", ""), ("lasts", "")):
        answer = await ticket_of(world, member_id, body=body)
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (400, "malformed"), body
        assert [one["pointer"] for one in problem["errors"]] == [pointer]


@pytest.mark.parametrize("member_id", [ADA, BOB])
async def test_what_opens_no_stream_uses_no_ticket(world: World, member_id: int) -> None:
    for shard in world.shards.values():
        await project(shard.valkey, member_id, 1)
    ticket = (await (await ticket_of(world, member_id)).json())["ticket"]
    url = f"{world.nodes['eu']}/v1/members/{format_member_id(member_id)}/events"
    demanded = {"Consistency-Token": format_token(member_id, 2)}
    async with world.session.get(url, params={"ticket": ticket}, headers=demanded) as refused:
        assert refused.status == 503
    async with world.session.head(url, params={"ticket": ticket}) as told:
        assert told.status == 200
    async with await opened_with(world, member_id, ticket) as opened:
        assert opened.status == 200
        async with await opened_with(world, member_id, ticket) as again:
            assert again.status == 401


async def test_a_ticket_is_of_its_member_alone_and_nothing_but_a_ticket_is_one(world: World) -> None:
    for member_id in (ADA, EVE):
        await project(world.shards["eu-1"].valkey, member_id, 1)
    ticket = (await (await ticket_of(world, ADA)).json())["ticket"]
    assert (await opened_with(world, EVE, ticket)).status == 404
    for forged in ("", "x", ticket + "0", ticket.replace(".eu.", ".us."), ticket.replace(".", ". "), "a.b.c.d.e.f"):
        assert (await opened_with(world, ADA, forged)).status == 401, forged
    account = f"{world.nodes['eu']}/v1/members/{format_member_id(ADA)}/account"
    assert (await world.session.get(account, params={"ticket": ticket})).status == 401


async def test_a_ticket_ends_when_its_time_is_over_and_so_does_its_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await project(world.shards["eu-1"].valkey, ADA, 1)
    monkeypatch.setattr("service.ticket.OPENS_FOR_S", -1.0)
    late = (await (await ticket_of(world, ADA)).json())["ticket"]
    assert (await opened_with(world, ADA, late)).status == 401
    monkeypatch.setattr("service.ticket.OPENS_FOR_S", 30.0)
    short = mint_member_token(world.signing_key, ADA, lifetime_s=3)
    ticket = (await (await ticket_of(world, ADA, credential=short)).json())["ticket"]
    response = await opened_with(world, ADA, ticket)
    assert (await Stream(response).event())["id"] == "1"
    while await asyncio.wait_for(response.content.readline(), 10):
        pass  # until the token's time is over


async def test_staff_get_no_ticket(world: World) -> None:
    assert (await ticket_of(world, ADA, credential=world.keys["service"])).status == 403
