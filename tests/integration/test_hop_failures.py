"""What goes wrong with a question that was handed on quickly is met as on the usual way: over real sockets."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from query.node import NODE
from query.quick import QuickRead
from service import link
from service.health import DRAINING
from service.retry import RETRIES
from service.settings import SETTINGS
from service.web import UNDER_WAY
from shard_router.member_id import format_member_id
from tests.conftest import eventually, so
from tests.engine import free_port
from tests.hop_world import (
    BOB,
    VIEW,
    Step,
    answer,
    ask,
    asking,
    home,
    linked,
    listed,
    node_process,
    port_of,
    says,
    until_linked,
)
from tests.http_node import connection, quickly_taken, read_answer
from tests.query_servers import OwnValkey
from tests.query_world import ShardPlace, World, member, open_world, project

NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]


@pytest.fixture
async def world(tmp_path: Path, killable: OwnValkey) -> AsyncGenerator[World]:
    shards = {name: ShardPlace(NOWHERE, killable.url) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards) as opened:
        await project(killable.url, BOB, 1, 2, 3)
        yield opened


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each plain request was taken by the quick way, of either node."""
    return quickly_taken(monkeypatch, QuickRead)


async def test_a_connection_that_was_closed_as_it_was_used_is_no_reason_to_leave_the_node_alone(world: World) -> None:
    async with home(world, says(hangs_up=True)) as node:
        before = retries_made()
        reply = await ask(world)
        assert (reply.status, reply.headers["Loyalty-Region"], node.quick) == (200, "us", [True, False])
        assert retries_made() - before == 1
        await until_linked(world, node)


def retries_made() -> float:
    (family,) = RETRIES.collect()
    return sum(one.value for one in family.samples if one.name.endswith("_total") and one.labels["result"] == "made")


async def test_one_that_was_closed_for_being_idle_is_not_used(world: World) -> None:
    async with home(world) as node:
        for writer in node.writers:
            writer.close()
        assert (await ask(world)).headers["Loyalty-Region"] == "us"
        await until_linked(world, node)


async def test_who_asks_nothing_for_long_is_left_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "IDLE_S", 0.1)
    monkeypatch.setattr(link, "LOOK_S", 0.05)
    async with home(world) as node:
        await ask(world)
        await eventually(so(node.is_left))


async def test_what_nobody_asked_for_is_no_answer_to_the_next(world: World) -> None:
    async with home(world) as node:
        node.writers[node.heads[-1][0] if node.heads else -1].write(answer(b"{}", version=9))
        for _ in range(3):
            assert (await ask(world)).body == VIEW


async def test_a_node_that_ends_in_the_middle_of_an_answer_is_left_alone(world: World) -> None:
    for begin in (answer()[:40], answer()[:-1]):
        async with listed(world, 2) as (first, second):
            first.steps[:] = [says(begin, hangs_up=True)]
            first.is_dead = True
            before = retries_made()
            assert [(await ask(world)).body for _ in range(3)] == [VIEW] * 3
            assert (len(first.heads), len(second.heads), retries_made() - before) == (1, 3, 1)


async def test_without_another_node_it_is_read_here(world: World) -> None:
    async with home(world, says(answer()[:40], hangs_up=True)) as node:
        node.is_dead = True
        for _ in range(2):
            assert (reply := await ask(world)).status == 200
            assert (reply.body, reply.headers["Loyalty-Region"]) == (VIEW, "eu")
        assert len(node.heads) == 1


async def never(_: asyncio.StreamWriter) -> None:
    """Take a request and answer nothing."""
    await asyncio.Event().wait()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("step", [never, says(answer()[:-1])], ids=["at once", "before the last byte"])
async def test_who_falls_silent_is_found_within_a_second_and_the_next_is_asked(world: World, step: Step) -> None:
    async with listed(world, 2) as (first, second):
        first.steps[:], first.is_dead = [step], True
        async with asyncio.timeout(5):  # of its ten seconds
            assert (await ask(world)).body == VIEW
        assert (len(first.heads), len(second.heads)) == (1, 1)
        await eventually(so(first.is_left))


async def test_who_lives_and_is_slow_is_waited_for(world: World) -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await eventually(so(lambda: first.probes > 0))
        writer.write(answer())

    async with listed(world, 2) as (first, second):
        first.steps[:] = [slowly]
        assert (await ask(world)).headers["Loyalty-Region"] == "us"
        assert (first.quick, second.heads) == ([True], [])
        assert (await ask(world)).status == 200
        assert first.quick == [True, True]
        assert first.heads[0][0] == first.heads[1][0], "its connection is as good as before"


async def test_when_it_takes_too_long_there_is_time_left_to_read_it_here(world: World) -> None:
    async with home(world, never) as node:
        reply = await ask(world, "Loyalty-Deadline-Ms: 4000")
        assert (reply.status, reply.headers["Loyalty-Region"]) == (200, "eu")
        assert len(node.heads) == 1
        await eventually(so(node.is_left))
        assert (await ask(world)).headers["Loyalty-Region"] == "us"


async def test_an_answer_that_shows_less_is_not_believed_and_not_asked_for_again(world: World) -> None:
    async with home(world, says(answer(version=2))) as node:
        reply = await ask(world)
        assert (reply.headers["ETag"], reply.headers["Loyalty-Region"], len(node.heads)) == ('W/"3"', "eu", 1)


async def test_what_was_shown_is_not_taken_back_here(world: World) -> None:
    async with home(world, says(answer(version=4))) as node:
        assert (await ask(world)).headers["ETag"] == 'W/"4"'
        node.steps.append(says(answer(version=3)))
        assert (await ask(world)).status == 503  # the views here have 3, and no server answers


async def test_a_refusal_by_a_node_that_lives_is_the_answer(world: World) -> None:
    refusal = b'{"code":"not_yet_visible"}'
    async with home(world, says(answer(refusal, "Retry-After: 1", status="503 Service Unavailable"))):
        reply = await ask(world)
        assert (reply.status, reply.body, reply.headers["Retry-After"]) == (503, refusal, "1")


@pytest.mark.parametrize(("code", "asked"), [("overloaded", 1), ("not_yet_visible", 0)])
async def test_a_node_that_stops_gets_no_more_and_may_leave_it_to_the_next(world: World, code: str, asked: int) -> None:
    async with listed(world, 2) as (first, second):
        refusal = answer(b'{"code":"%b"}' % code.encode(), "Connection: close", status="503 Service Unavailable")
        first.steps[:], first.is_dead = [says(refusal, hangs_up=True)], True
        assert (await ask(world)).status == (200 if asked else 503)
        assert (await ask(world)).status == 200
        assert (len(first.heads), len(second.heads)) == (1, asked + 1)


async def test_a_region_that_is_full_gets_no_more_and_the_rest_is_read_here(world: World) -> None:
    places = world.apps["eu"][SETTINGS].in_flight_max // 4
    async with home(world) as node:
        await asyncio.gather(*(ask(world) for _ in range(8)))
        node.steps[:] = [never] * 1000
        asking_ = [asyncio.create_task(ask(world, credential=world.keys["admin"])) for _ in range(places)]
        await eventually(so(lambda: len(node.heads) >= places))
        before = len(node.heads)
        assert (await ask(world, credential=world.keys["admin"])).headers["Loyalty-Region"] == "eu"
        assert len(node.heads) == before
        node.steps[:] = []
        replies = await asyncio.gather(*asking_)
        assert {reply.status for reply in replies} == {200}


async def test_who_leaves_meanwhile_holds_nothing_and_spoils_no_connection(world: World) -> None:
    goes_on = asyncio.Event()

    async def later(writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        writer.write(answer(b"{}", version=3))

    async with home(world, later) as node:
        async with connection(port_of(world)) as (_, writer):
            writer.write(asking(world))
            await eventually(so(lambda: len(node.heads) == 1))
            writer.transport.abort()
        goes_on.set()
        assert (await ask(world)).body == VIEW
        await eventually(lambda: nothing_is_held(world))


async def nothing_is_held(world: World) -> bool:
    return await world.metric("loyalty_overload_under_way{") == 0 and world.apps["eu"][UNDER_WAY].taken == 0


async def test_what_comes_meanwhile_is_answered_afterwards(world: World, taken: list[bool]) -> None:
    async with home(world) as node, connection(port_of(world)) as (reader, writer), asyncio.timeout(20):
        del node
        own = asking(world, path=f"/v1/members/{format_member_id(member(9))}/account")
        writer.write(asking(world) + own + asking(world, 'If-None-Match: W/"3"'))
        statuses = [(await read_answer(reader)).status for _ in range(3)]
        assert (statuses[0], statuses[2], taken[-1]) == (200, 200, True)
    await eventually(lambda: nothing_is_held(world))


async def test_a_node_that_stops_answers_what_it_has_handed_on(world: World) -> None:
    goes_on = asyncio.Event()

    async def later(writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        writer.write(answer())

    async with home(world, later) as node, connection(port_of(world)) as (reader, writer), asyncio.timeout(20):
        writer.write(asking(world))
        await eventually(so(lambda: len(node.heads) == 1))
        world.apps["eu"][DRAINING].set()
        goes_on.set()
        assert (await read_answer(reader)).body == VIEW


async def test_a_node_of_its_own_process_that_is_frozen_and_killed(
    world: World, tmp_path: Path, taken: list[bool]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with node_process("query", tmp_path, url) as process:
        world.apps["eu"][NODE].topology.current.document.regions["us"].query[:] = [url]
        await linked(world, taken)
        for number, left in ((signal.SIGSTOP, signal.SIGCONT), (signal.SIGKILL, None)):
            process.send_signal(number)
            replies = [await ask(world) for _ in range(4)]
            assert {(reply.status, reply.headers["Loyalty-Region"]) for reply in replies} == {(200, "eu")}
            if left:
                process.send_signal(left)
                await eventually(lambda: is_home_again(world))
                await linked(world, taken)


async def is_home_again(world: World) -> bool:
    return (await ask(world)).headers["Loyalty-Region"] == "us"
