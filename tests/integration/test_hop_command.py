"""A plain command for a member of another region is handed on quickly: done once, whatever goes wrong on the way."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from command.quick import QuickCommand
from service.handed import FORWARDED_HEADER
from shard_router.member_id import parse_member_id, slot_of
from tests.command_node import RunningNode, basket, running_regions, value
from tests.conftest import eventually
from tests.engine import PostgresServer, free_port
from tests.hop_world import Home, answer, homes, node_process, says
from tests.http_node import Answer, connection, quickly_taken, read_answer

USUAL = "TE: trailers"
PURCHASES, HOLDS, ADJUSTMENTS = "/v1/purchases", "/v1/holds", "/v1/adjustments"
DONE = answer(b'{"done":true}', "Consistency-Token: v1.x.3", status="201 Created")
Nodes = dict[str, RunningNode]


@pytest.fixture
async def nodes(postgres_server: PostgresServer, tmp_path: Path) -> AsyncGenerator[Nodes]:
    dsns = {region: await postgres_server.create_database() for region in ("eu", "us")}
    async with running_regions(dsns, tmp_path) as running:
        yield running
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


@pytest.fixture
async def bob(nodes: Nodes) -> dict[str, Any]:
    made = await nodes["us"].enrol()
    await nodes["us"].give(made["member_id"], 100)
    return made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each plain request was taken by the quick way, of either node."""
    return quickly_taken(monkeypatch, QuickCommand)


async def post(node: RunningNode, path: str, body: Any, *lines: str, key: str, role: str = "service") -> Answer:
    content = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: node", f"Authorization: Bearer {node.keys[role]}", *lines]
    head += [f"Idempotency-Key: {key}", "Content-Type: application/json", f"Content-Length: {len(content)}", "", ""]
    async with connection(int(node.url.rpartition(":")[2])) as (reader, writer), asyncio.timeout(20):
        writer.write("\r\n".join(head).encode() + content)
        return await read_answer(reader)


def seen(reply: Answer) -> tuple[int, dict[str, str], bytes]:
    left_out = ("date", "idempotent-replayed")
    return reply.status, {n.lower(): v for n, v in reply.headers.items() if n.lower() not in left_out}, reply.body


async def give(node: RunningNode, bob: dict[str, Any], *lines: str, key: str) -> Answer:
    body = {"member": {"member_id": bob["member_id"]}, "points": 1, "reason": "x"}
    return await post(node, ADJUSTMENTS, body, *lines, key=key)


async def linked(nodes: Nodes, bob: dict[str, Any], is_linked: Callable[[], bool]) -> None:
    """The next command for Bob to the node of eu finds a link to his."""

    async def asked() -> bool:
        body = {"member": {"member_id": bob["member_id"]}, "points": 10**9}
        await post(nodes["eu"], HOLDS, body, key="link")
        return is_linked()

    await eventually(asked)


CASES: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str, tuple[str, ...], int, bool]] = {
    "by id": (PURCHASES, lambda bob: basket({"member_id": bob["member_id"]}, "1"), "pos", (), 201, True),
    "by card": (PURCHASES, lambda bob: basket({"card": bob["card"]}, "1"), "service", (), 201, True),
    "a hold": (HOLDS, lambda bob: {"member": {"card": bob["card"]}, "points": 5}, "pos", (), 201, True),
    "too large a hold": (HOLDS, lambda bob: {"member": {"card": bob["card"]}, "points": 10**9}, "pos", (), 422, True),
    "points given": (
        ADJUSTMENTS,
        lambda bob: {"member": {"member_id": bob["member_id"]}, "points": 5, "reason": "x"},
        "service",
        ("Accept-Encoding: gzip", "Connection: keep-alive"),
        201,
        True,
    ),
    "an unknown store": (
        PURCHASES, lambda bob: basket({"card": bob["card"]}, "1", store="999"), "pos", (), 422, True
    ),
    "in a hurry": (
        PURCHASES, lambda bob: basket({"card": bob["card"]}, "1"), "pos", ("Loyalty-Deadline-Ms: 590",), 201, False
    ),
    "said to be handed on": (
        PURCHASES, lambda bob: basket({"card": bob["card"]}, "1"), "pos", ("Loyalty-Forwarded: eu;x",), 201, False
    ),
    "no basket": (PURCHASES, lambda bob: {"member": {"card": bob["card"]}}, "pos", (), 400, False),
    "another store's till": (
        PURCHASES, lambda bob: basket({"card": bob["card"]}, "1", store="331"), "till330", (), 403, False
    ),
}  # fmt: skip


@pytest.mark.parametrize("first_is_quick", [True, False], ids=["quick first", "usual first"])
@pytest.mark.parametrize("case", CASES)
async def test_both_ways_give_the_same_answer(
    nodes: Nodes, bob: dict[str, Any], taken: list[bool], case: str, *, first_is_quick: bool
) -> None:
    path, body_of, role, lines, status, is_quick = CASES[case]
    await linked(nodes, bob, lambda: taken[-2:] == [True, True])
    replies: list[Answer] = []
    for more in ((), (USUAL,)) if first_is_quick else ((USUAL,), ()):
        taken.clear()
        replies.append(
            await post(nodes["eu"], path, body_of(bob), *lines, *more, "Request-Id: mine", key="k", role=role)
        )
        assert taken[0] is (is_quick and not more)
        if is_quick:
            assert taken[1:] == [True], "the home node takes it quickly"
            assert replies[-1].headers["Loyalty-Region"] == "us"
    assert seen(replies[0]) == seen(replies[1])
    assert replies[0].status == status
    assert [reply.headers.get("Idempotent-Replayed") for reply in replies] == [
        None,
        None if status in (400, 403) else "true",
    ]


@asynccontextmanager
async def told(nodes: Nodes, bob: dict[str, Any], count: int) -> AsyncGenerator[list[Home]]:
    """So many nodes of us that do what they are told; a link to the first stands."""
    listed = nodes["eu"].inner.topology.current.document.regions["us"].command
    async with homes(listed, count, slot=slot_of(parse_member_id(bob["member_id"]))) as made:
        await linked(nodes, bob, lambda: made[0].quick[-1])
        made[0].heads.clear()
        yield made


def keys(*some: Home) -> list[bytes]:
    return [head.partition(b"Idempotency-Key: ")[2].partition(b"\r\n")[0] for one in some for _, head in one.heads]


async def test_mark_key_and_time_go_along(nodes: Nodes, bob: dict[str, Any]) -> None:
    async with told(nodes, bob, 1) as (home,):
        home.steps[:] = [says(DONE)]
        reply = await give(nodes["eu"], bob, "Request-Id: till-7", "Loyalty-Deadline-Ms: 3000", key="k")
        assert (reply.status, reply.json, reply.headers["Consistency-Token"]) == (201, {"done": True}, "v1.x.3")
        (_, head) = home.heads[-1]
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if line)
    assert fields.pop(FORWARDED_HEADER).startswith("eu;")
    assert 2_000 < int(fields.pop("Loyalty-Deadline-Ms")) <= 3_000
    assert fields.pop("Content-Length").isdigit()
    del fields["Host"], fields["Authorization"]
    assert fields == {
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "Idempotency-Key": "k",
        "Request-Id": "till-7",
    }


@pytest.mark.parametrize("begin", [b"", DONE[:40], DONE[:-1]], ids=["nothing", "half a head", "half a body"])
async def test_who_dies_before_it_has_answered_is_followed_by_the_next_with_the_same_key(
    nodes: Nodes, bob: dict[str, Any], begin: bytes
) -> None:
    async with told(nodes, bob, 2) as (first, second):
        first.steps[:], first.is_dead = [says(begin, hangs_up=True)], True
        second.steps[:] = [says(DONE)]
        assert (await give(nodes["eu"], bob, key="k")).status == 201
        assert (len(first.heads), keys(first, second)) == (1, [b"k", b"k"])


async def test_without_another_node_it_is_done_here_once(nodes: Nodes, bob: dict[str, Any]) -> None:
    async with told(nodes, bob, 1) as (home,):
        home.steps[:], home.is_dead = [says(hangs_up=True)], True
        replies = [await give(nodes["eu"], bob, key="k") for _ in range(2)]
    assert [reply.status for reply in replies] == [201, 201]
    assert [reply.headers["Loyalty-Region"] for reply in replies] == ["eu", "eu"]
    assert replies[0].body == replies[1].body
    assert replies[1].headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("first_says", [says(hangs_up=True), says(b"garbage\r\n\r\n")], ids=["died", "unreadable"])
async def test_of_what_a_node_may_have_done_nobody_says_that_nothing_was(
    nodes: Nodes, bob: dict[str, Any], first_says: Any
) -> None:
    refusal = answer(b'{"code":"shard_unavailable"}', status="503 Service Unavailable")
    async with told(nodes, bob, 2) as (first, second):
        first.steps[:] = [first_says, says(refusal)]
        second.steps[:] = [says(refusal)]
        reply = await give(nodes["eu"], bob, "Request-Id: mine", key="k")
        assert (reply.status, reply.json["code"], reply.json["retryable"]) == (503, "unknown_outcome", True)
        assert (reply.headers["Retry-After"], reply.headers["Content-Type"]) == ("2", "application/problem+json")
        assert reply.json["request_id"] == "mine"
        assert set(keys(first, second)) == {b"k"}


async def test_what_may_have_been_done_there_is_not_said_to_be_undone_here(nodes: Nodes, bob: dict[str, Any]) -> None:
    async with told(nodes, bob, 1) as (home,):
        lose_shard(nodes["eu"], home.url)
        home.steps[:], home.is_dead = [says(hangs_up=True)], True
        reply = await give(nodes["eu"], bob, key="k")
        assert (reply.status, reply.json["code"], len(home.heads)) == (503, "unknown_outcome", 1)
        reply = await give(nodes["eu"], bob, key="other")
        assert (reply.status, reply.json["code"], len(home.heads)) == (503, "shard_unavailable", 1)


def lose_shard(node: RunningNode, url: str) -> None:
    """The shard of us cannot be reached any more; `url` is still its node."""
    watch = node.inner.topology
    document = json.loads(watch.path.read_text())
    document["shards"]["us-1"]["servers"] = ["postgresql://nobody:x@127.0.0.1:1/none"]
    document["regions"]["us"]["command"], document["epoch"] = [url], document["epoch"] + 1
    watch.path.write_text(json.dumps(document))
    watch.look()


async def test_what_cannot_be_read_is_asked_again_there_with_the_same_key(nodes: Nodes, bob: dict[str, Any]) -> None:
    async with told(nodes, bob, 2) as (first, second):
        chunks = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        first.steps[:] = [says(chunks), says(DONE)]
        assert (await give(nodes["eu"], bob, key="k")).json == {"done": True}
        assert (keys(first), first.quick, second.heads) == ([b"k", b"k"], [True, False], [])


async def never(_: asyncio.StreamWriter) -> None:
    """Take a request and answer nothing."""
    await asyncio.Event().wait()


async def test_no_answer_by_the_deadline_is_an_unknown_outcome(nodes: Nodes, bob: dict[str, Any]) -> None:
    async with told(nodes, bob, 2) as (first, second):
        first.steps[:] = [never]
        reply = await give(nodes["eu"], bob, "Loyalty-Deadline-Ms: 1500", key="k")
        assert (reply.status, reply.json["code"]) == (503, "unknown_outcome")
        assert (len(first.heads), second.heads) == (1, [])


async def test_a_refusal_that_did_nothing_goes_to_the_next_when_the_node_stops(
    nodes: Nodes, bob: dict[str, Any]
) -> None:
    async with told(nodes, bob, 2) as (first, second):
        refusal = answer(b'{"code":"overloaded"}', "Connection: close", status="503 Service Unavailable")
        first.steps[:], first.is_dead = [says(refusal, hangs_up=True)], True
        second.steps[:] = [says(DONE)]
        assert (await give(nodes["eu"], bob, key="k")).status == 201
        assert (len(first.heads), len(second.heads)) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_each_command_has_one_effect_though_the_node_dies_in_the_middle(
    nodes: Nodes, tmp_path: Path, number: signal.Signals
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with node_process("command", tmp_path, url) as process:
        nodes["eu"].inner.topology.current.document.regions["us"].command[:] = [url]
        others = [await nodes["us"].enrol() for _ in range(8)]
        await asyncio.gather(*(give(nodes["eu"], one, key=f"first-{one['card']}") for one in others))
        giving = [
            asyncio.create_task(until_done(nodes["eu"], one, f"{one['card']}-{at}"))
            for at in range(6)
            for one in others
        ]
        await asyncio.wait(giving, return_when=asyncio.FIRST_COMPLETED)
        process.send_signal(number)
        await asyncio.gather(*giving)
    nodes["us"].inner.topology.current.document.regions["us"].command[:] = [nodes["us"].url]
    for one in others:
        (points,) = await value(
            nodes["us"], "SELECT available FROM account WHERE member_id = $1", parse_member_id(one["member_id"])
        )
        assert points == 7, one


async def until_done(node: RunningNode, member: dict[str, Any], key: str) -> None:
    """As a till does it: the same key until there is an answer."""

    async def done() -> bool:
        reply = await give(node, member, key=key)
        assert reply.status == 201 or reply.json["retryable"], reply.body
        return reply.status == 201

    await eventually(done)
