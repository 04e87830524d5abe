"""Queries while something is down: each loss costs speed, none an answer that exists or a wrong one."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cluster.node import health
from query import replica
from query.announcement import Announcements
from shard_router.errors import ProblemError
from shard_router.member_id import format_member_id
from shard_router.pool import PROBE_TIMEOUT_S, ShardServers
from shard_router.token import format_token
from tests.conftest import DatabasePair, eventually
from tests.engine import free_port
from tests.query_servers import OwnValkey, proxy_of
from tests.query_world import (
    ShardPlace,
    World,
    add_entry,
    member,
    open_world,
    project,
    reader_of,
    replayed,
    write_member,
)
from tests.sql import replay_paused

ADA = member(1)
ACCOUNT = f"/v1/members/{format_member_id(ADA)}/account"
MEMBERS = [member(unique) for unique in range(1, 41)]


@pytest.fixture
async def world(tmp_path: Path, database_pair: DatabasePair, killable: OwnValkey) -> AsyncGenerator[World]:
    place = ShardPlace([database_pair.primary, database_pair.standby], killable.url)
    async with open_world(tmp_path, {"eu-1": place}) as opened:
        await write_member(place.primary, ADA, versions=3)
        await eventually(lambda: replayed(reader_of(opened), ADA, 3))
        yield opened


async def test_a_dead_valkey_costs_no_answer_and_comes_back_by_itself(world: World, killable: OwnValkey) -> None:
    await project(killable.url, ADA, 3)
    assert (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "cache"
    primary_reads = await world.metric("loyalty_query_primary_reads_total")
    await killable.stop()
    for _ in range(3):
        reply = await world.get(ACCOUNT)
        assert (reply.status, reply.json["version"], reply.headers["Loyalty-Source"]) == (200, 3, "replica")
    assert await world.metric("loyalty_query_breakers_open") == 1
    assert await world.metric("loyalty_query_primary_reads_total") == primary_reads
    assert (await world.get("/readyz?verbose")).status == 200
    await killable.start()
    await project(killable.url, ADA, 3)

    async def cached_again() -> bool:
        return (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "cache"

    await eventually(cached_again)
    await asyncio.wait_for(reader_of(world).visible.subscribed.wait(), 10)


async def test_a_silent_valkey_costs_one_deadline_and_mixes_no_answers_afterwards(
    world: World, killable: OwnValkey
) -> None:
    for unique, one in enumerate(MEMBERS):
        await project(killable.url, one, unique + 3, announce=False)  # the standby shows 3 of the first
    # Connected and answered once: only then can an answer arrive late on a connection in use.
    assert (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "cache"
    killable.send(signal.SIGSTOP)
    await asyncio.gather(*(world.get(path_of(one)) for one in MEMBERS))
    assert reader_of(world).cache.breaker.is_open  # so nobody waits for it again
    assert (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "replica"
    killable.send(signal.SIGCONT)

    async def closed() -> bool:
        return not reader_of(world).cache.breaker.is_open

    await eventually(closed)
    for _ in range(3):
        replies = await asyncio.gather(*(world.get(path_of(one)) for one in reversed(MEMBERS)))
        assert [reply.json["member_id"] for reply in replies] == [format_member_id(one) for one in reversed(MEMBERS)]
        assert {reply.headers["Loyalty-Source"] for reply in replies} == {"cache"}


def path_of(member_id: int) -> str:
    return f"/v1/members/{format_member_id(member_id)}/account"


async def test_a_deadline_of_the_caller_shortens_the_wait_for_a_silent_valkey(
    tmp_path: Path, database: str, killable: OwnValkey
) -> None:
    await write_member(database, ADA)
    place = ShardPlace([database], killable.url)
    async with open_world(tmp_path, {"eu-1": place}, cache_deadline_ms=60_000, deadline_ms=60_000) as world:
        await project(killable.url, ADA, 1)
        assert (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "cache"
        killable.send(signal.SIGSTOP)
        try:
            for token in ({}, {"Consistency-Token": format_token(ADA, 1)}):
                reply = await asyncio.wait_for(world.get(ACCOUNT, headers={"Loyalty-Deadline-Ms": "100"} | token), 20)
                assert (reply.status, reply.json["code"]) == (503, "shard_unavailable")
        finally:
            killable.send(signal.SIGCONT)
        assert (await world.get(ACCOUNT)).json["version"] == 1


async def test_a_waiter_is_woken_after_a_new_subscription(world: World, killable: OwnValkey) -> None:
    visible = reader_of(world).visible
    await visible.subscribed.wait()
    with visible.watch(ADA) as watch:
        assert watch
        await killable.stop()
        await killable.start()
        assert await watch.wait(9, timeout_s=10)


async def test_a_subscription_outlives_silence_and_notices_a_dead_peer(killable: OwnValkey) -> None:
    visible = Announcements(killable.url, waiters_max=1, silence_max_s=0.1)
    running = asyncio.create_task(visible.run())
    try:
        await asyncio.wait_for(visible.subscribed.wait(), 10)
        with visible.watch(ADA) as watch:
            assert watch
            assert not await watch.wait(1, timeout_s=0.5), "pings in silence must not look like a new subscription"
            await project(killable.url, ADA, 1)
            assert await watch.wait(1, timeout_s=10)
            killable.send(signal.SIGSTOP)
            await eventually(lambda: unsubscribed(visible))
            killable.send(signal.SIGCONT)
            assert await watch.wait(9, timeout_s=10)
    finally:
        running.cancel()


async def unsubscribed(visible: Announcements) -> bool:
    return not visible.subscribed.is_set()


async def test_a_token_is_kept_while_valkey_is_down(world: World, killable: OwnValkey) -> None:
    await killable.stop()
    reply = await world.get(ACCOUNT, headers={"Consistency-Token": format_token(ADA, 3)})
    assert (reply.status, reply.json["version"], reply.headers["Loyalty-Source"]) == (200, 3, "replica")
    reply = await world.get(ACCOUNT, headers={"Consistency-Token": format_token(ADA, 4)})
    assert (reply.status, reply.json["code"]) == (503, "not_yet_visible")


async def test_what_only_the_primary_has_is_read_there_and_counted(
    tmp_path: Path, database: str, valkey_url: str
) -> None:
    await write_member(database, ADA, versions=2)
    async with open_world(tmp_path, {"eu-1": ShardPlace([database], valkey_url)}) as world:
        primary_reads = await world.metric("loyalty_query_primary_reads_total")
        reply = await world.get(ACCOUNT, headers={"Consistency-Token": format_token(ADA, 2)})
        assert (reply.status, reply.headers["Loyalty-Source"]) == (200, "primary")
        assert await world.metric("loyalty_query_primary_reads_total") > primary_reads


async def test_a_standby_that_stopped_replaying_is_passed_over_for_a_demanded_version(
    world: World, database_pair: DatabasePair, killable: OwnValkey
) -> None:
    await project(killable.url, ADA, 3)
    standby = reader_of(world).standby
    await standby.fetch("measure_lag", 0.0)
    async with replay_paused(database_pair.standby):
        await add_entry(database_pair.primary, ADA, 4)
        reply = await world.get(ACCOUNT, headers={"Consistency-Token": format_token(ADA, 4)})
        assert (reply.status, reply.json["version"], reply.headers["Loyalty-Source"]) == (200, 4, "primary")


async def test_a_standby_beyond_its_budget_is_skipped(
    tmp_path: Path, database_pair: DatabasePair, valkey_url: str
) -> None:
    await write_member(database_pair.primary, ADA, versions=2)
    place = ShardPlace([database_pair.primary, database_pair.standby], valkey_url)
    async with open_world(tmp_path, {"eu-1": place}, standby_lag_ms_max=0) as world:
        await eventually(lambda: replayed(reader_of(world), ADA, 2))
        assert (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "replica"
        async with replay_paused(database_pair.standby):
            await add_entry(database_pair.primary, ADA, 3)

            async def skipped() -> bool:
                return (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "primary"

            await eventually(skipped)


async def test_with_no_server_left_the_views_still_answer(tmp_path: Path, valkey_url: str) -> None:
    nowhere = [f"postgresql://nobody:x@127.0.0.1:{free_port()}/none" for _ in range(2)]
    await project(valkey_url, ADA, 3)
    async with open_world(tmp_path, {"eu-1": ShardPlace(nowhere, valkey_url)}) as world:
        assert (await world.get(ACCOUNT)).json["version"] == 3
        assert (await world.get("/readyz")).status == 200
        reply = await world.get(path_of(member(2)))
        assert (reply.status, reply.json["code"]) == (503, "shard_unavailable")
        reply = await world.get("/v1/stores")
        assert (reply.status, reply.json["code"]) == (503, "shard_unavailable")


async def test_ready_means_that_any_server_answers(tmp_path: Path, database: str) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    await write_member(database, ADA)
    async with open_world(tmp_path, {"eu-1": ShardPlace([database], nowhere)}) as world:
        assert (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "primary"
        assert (await world.get("/readyz?verbose")).body == b"[+] shards: ok\n"
    nobody = ShardPlace([f"postgresql://nobody:x@127.0.0.1:{free_port()}/none"], nowhere)
    async with open_world(tmp_path, {"eu-1": nobody}) as world:
        for target in ("/readyz", "/readyz?verbose"):
            answer = await world.get(target)
            assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
            assert (answer.json["code"], answer.json["retryable"]) == ("shard_unavailable", True)
            assert "shards: " in answer.json["detail"]
            assert "Retry-After" in answer.headers
        (line,) = answer.json["checks"]
        assert (await health(world.nodes["eu"])).problem == line


@pytest.mark.usefixtures("impatient")
async def test_a_frozen_standby_costs_a_moment_and_no_answer(tmp_path: Path, database_pair: DatabasePair) -> None:
    await write_member(database_pair.primary, ADA, versions=2)
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    async with (
        proxy_of(database_pair.standby) as (proxy, standby),
        open_world(
            tmp_path,
            {"eu-1": ShardPlace([database_pair.primary, standby], nowhere)},
            statement_timeout_ms=200,
        ) as world,
    ):
        await eventually(lambda: replayed(reader_of(world), ADA, 2))
        assert (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "replica"
        proxy.freeze()
        for _ in range(3):
            reply = await world.get(ACCOUNT)
            assert (reply.status, reply.headers.get("Loyalty-Source")) == (200, "primary"), reply.body
        assert (await world.get("/readyz")).status == 200
        proxy.thaw()

        async def back() -> bool:
            return (await world.get(ACCOUNT)).headers["Loyalty-Source"] == "replica"

        await eventually(back)


@pytest.mark.usefixtures("impatient")
async def test_nobody_waits_for_a_standby_that_stays_frozen(
    tmp_path: Path, database_pair: DatabasePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_member(database_pair.primary, ADA, versions=2)
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    async with (
        proxy_of(database_pair.standby) as (proxy, standby),
        open_world(
            tmp_path,
            {"eu-1": ShardPlace([database_pair.primary, standby], nowhere)},
            statement_timeout_ms=200,
        ) as world,
    ):
        await eventually(lambda: replayed(reader_of(world), ADA, 2))
        monkeypatch.setattr(replica, "_REST_S", 0.05)  # so that it is looked at again many times
        proxy.freeze()
        hurry = {"Loyalty-Deadline-Ms": str(int(PROBE_TIMEOUT_S * 900))}

        async def primary_answers() -> bool:
            return (await world.get(ACCOUNT, headers=hurry)).headers.get("Loyalty-Source") == "primary"

        await eventually(primary_answers)
        for _ in range(50):
            reply = await world.get(ACCOUNT, headers=hurry)
            assert (reply.status, reply.headers.get("Loyalty-Source")) == (200, "primary"), reply.body


async def test_a_standby_that_breaks_leaves_the_primary_known(database_pair: DatabasePair) -> None:
    servers = ShardServers("eu-1", [database_pair.primary, database_pair.standby], size_max=2, statement_timeout_ms=500)
    try:
        for _ in range(2):
            with pytest.raises(ProblemError):
                async with servers.standby():
                    raise ConnectionResetError
            async with servers.primary() as connection:
                assert not await connection.fetchval("SELECT pg_is_in_recovery()")
    finally:
        await servers.close()
