"""Views that a node has kept are shown only as long as Valkey shows nothing else, as far as that can be known."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from cdc.sink import Operations, Position, Session
from query import views
from query.announcement import Announcements
from query.cache import Cache
from shard_router.ending import end
from shard_router.member_id import format_member_id
from shard_router.token import format_token
from tests.conftest import eventually, so
from tests.partition import linked
from tests.query_servers import OwnValkey
from tests.query_world import ShardPlace, World, entry, member, open_world, project, put_view, reader_of, version_in

ADA = member(1)
BELOW = ("/account", "")
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]


def path_of(below: str) -> str:
    return f"/v1/members/{format_member_id(ADA)}{below}"


@pytest.fixture
async def world(tmp_path: Path, killable: OwnValkey) -> AsyncGenerator[World]:
    async with open_world(tmp_path, {"eu-1": ShardPlace(NOWHERE, killable.url)}, near_members_max=100) as opened:
        await project(killable.url, ADA, 1)
        yield opened


async def near(world: World) -> float:
    return await world.metric("loyalty_query_near_total")


async def warmed(world: World, below: str) -> None:
    """Return when an answer came from what the node had kept."""
    before = await near(world)

    async def kept() -> bool:
        await world.get(path_of(below))
        return await near(world) > before

    await eventually(kept)


@pytest.mark.parametrize("below", BELOW)
async def test_what_is_kept_is_answered_like_what_is_read(world: World, killable: OwnValkey, below: str) -> None:
    first = await world.get(path_of(below))
    await warmed(world, below)
    again = await world.get(path_of(below))
    own = {"Request-Id", "Date"}
    assert (again.status, again.body) == (first.status, first.body)
    assert {name: value for name, value in again.headers.items() if name not in own} == {
        name: value for name, value in first.headers.items() if name not in own
    }
    await project(killable.url, ADA, 2)

    async def shows_two() -> bool:
        return version_in(await world.get(path_of(below))) == 2

    await eventually(shows_two)


@pytest.mark.parametrize("below", BELOW)
async def test_a_token_of_what_is_not_heard_yet_is_obeyed(world: World, killable: OwnValkey, below: str) -> None:
    await warmed(world, below)
    await project(killable.url, ADA, 2, announce=False)
    reply = await world.get(path_of(below), headers={"Consistency-Token": format_token(ADA, 2)})
    assert (version_in(reply), reply.headers["Loyalty-Source"]) == (2, "cache")
    reply = await world.get(path_of(below))
    assert version_in(reply) == 2, "no less than was shown"


async def test_who_was_erased_sees_nothing_of_what_was_kept(world: World, killable: OwnValkey) -> None:
    credential = world.member_token(ADA)
    for below in BELOW:
        await warmed(world, below)
    await put_view(killable.url, views.profile_key(ADA), 2, b'{"erased":true}')
    await put_view(killable.url, views.account_key(ADA), 2, views.account_view(entry(ADA, 2)))
    async with Redis.from_url(killable.url) as client:
        await client.publish(views.VISIBLE_CHANNEL, f"{ADA}:2")

    async def hidden() -> bool:
        replies = [await world.get(path_of(below), credential=credential) for below in BELOW]
        return all(reply.status != 200 for reply in replies)

    await eventually(hidden)


async def test_whatever_a_rebuild_writes_or_takes_out_is_read_anew(world: World, killable: OwnValkey) -> None:
    """Of a repair, of views taken back and of damaged ones taken out nobody is told member by member."""
    session = await asyncio.to_thread(lambda: Session(killable.url, "projector:eu-1").open(Position("system", 0)))
    await project(killable.url, ADA, 1)
    key, account = views.account_key(ADA), views.account_view(entry(ADA, 1))
    try:
        kept_of = reader_of(world).visible

        async def has_kept() -> bool:
            await world.get(path_of("/account"))
            return len(kept_of.near) > 0

        async def forgot() -> bool:
            return len(kept_of.near) == 0

        value = views.header(1) + account
        ways = (
            lambda: session.refill(Operations(views={key: value})),
            lambda: session.lower({key: b""}, {key: value}),
            lambda: session.discard([key]),
            lambda: Session(killable.url, "projector:eu-1").open(Position("system", 0)).close(),
        )
        for number, way in enumerate(ways):
            if number == 2:
                await put_view(killable.url, key, 1, account)
            await eventually(has_kept)
            if number == 2:
                await put_view(killable.url, key, 1, b"damaged")
            await asyncio.to_thread(way)
            await eventually(forgot)
            await put_view(killable.url, key, 1, account)
    finally:
        session.close()


@asynccontextmanager
async def running(visible: Announcements) -> AsyncGenerator[None]:
    task = asyncio.create_task(visible.run())
    try:
        await asyncio.wait_for(visible.subscribed.wait(), 10)
        yield
    finally:
        await end(task)


async def test_what_is_kept_is_not_shown_while_announcements_may_be_on_their_way(killable: OwnValkey) -> None:
    await project(killable.url, ADA, 1)
    async with linked(killable.url) as (link, url):
        visible = Announcements(url, waiters_max=1)
        cache = Cache(killable.url, deadline_ms=10_000, batch_keys_max=10, near=visible.near)
        try:
            async with running(visible):

                async def certain() -> bool:
                    await cache.get(views.account_key(ADA))
                    return visible.near.get(ADA) is not None

                await eventually(certain)
                link.cut()
                await project(killable.url, ADA, 2)
                await eventually(so(lambda: visible.near.get(ADA) is None))
                assert len(visible.near) == 1, "it is there, and not certain"
                link.heal()
                await eventually(certain)
                kept = visible.near.get(ADA)
                assert kept is None or kept.account.version == 2
        finally:
            await cache.close()


async def test_a_lost_subscription_and_another_valkey_leave_nothing(killable: OwnValkey) -> None:
    await project(killable.url, ADA, 1)
    visible = Announcements(killable.url, waiters_max=1)
    cache = Cache(killable.url, deadline_ms=10_000, batch_keys_max=10, near=visible.near)
    try:
        async with running(visible):
            await cache.get(views.account_key(ADA))
            assert len(visible.near) == 1
            await killable.stop()
            await eventually(so(lambda: len(visible.near) == 0 and visible.near.ticket is None))
            await killable.start()
            await project(killable.url, ADA, 1)
            await eventually(so(visible.subscribed.is_set))

            async def kept() -> bool:
                await cache.get(views.account_key(ADA))
                return len(visible.near) == 1

            await eventually(kept)
            before = visible.near
            visible.move(killable.url)
            assert (len(before), before.ticket, len(visible.near)) == (0, None, 0)
    finally:
        await cache.close()
