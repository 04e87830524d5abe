"""The quick way and the usual way of a query about a member give the same answers, one after another."""

import asyncio
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from query import views
from query.quick import QuickRead
from service.health import DRAINING
from service.quick import Ask
from shard_router.member_id import format_member_id
from tests.conftest import eventually, so
from tests.http_node import quickly_taken
from tests.odd_request import Plain, converse, odd_request
from tests.query_servers import OwnValkey
from tests.query_world import ShardPlace, World, entry, member, open_world, project, put_view

ADA, BOB, EVE, MAX = member(1), member(2), member(3), member(4)
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]
USUAL = "TE: trailers"
END_S = 10
# What a request has, what Valkey may take, and what is less than that: all longer than a machine stands still.
PATIENT = {"deadline_ms": 60_000, "cache_deadline_ms": 30_000}
ENOUGH, HURRY = "Loyalty-Deadline-Ms: 50000", "Loyalty-Deadline-Ms: 20000"


@pytest.fixture
async def world(tmp_path: Path, killable: OwnValkey) -> AsyncGenerator[World]:
    shards = {"eu-1": ShardPlace(NOWHERE, killable.url)}
    async with open_world(tmp_path, shards, **PATIENT) as opened:
        for one in (ADA, BOB, EVE):
            await project(killable.url, one, 1, 2, 3)
        await put_view(killable.url, views.profile_key(BOB), 3, b'{"erased":true}')
        yield opened


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each plain request was taken by the quick way."""
    return quickly_taken(monkeypatch, QuickRead)


def asking(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: node", *lines, "", ""]).encode()


ACCOUNT = "/account"
BELOW = ("", ACCOUNT, "/activity")


def account_of(member_id: int, below: str = ACCOUNT) -> str:
    return f"/v1/members/{format_member_id(member_id)}{below}"


def bearer(credential: str) -> str:
    return f"Authorization: Bearer {credential}"


@asynccontextmanager
async def connected(world: World) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.nodes["eu"].rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer_from(reader: asyncio.StreamReader, *, bodiless: bool = False) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers but for the date, body."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), END_S)).decode().splitlines()
    if head[0].endswith(" 100 Continue"):
        return await answer_from(reader, bodiless=bodiless)
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    headers.pop("date", None)
    length = 0 if bodiless else int(headers.get("content-length", 0))
    return head[0], headers, await reader.readexactly(length)


async def both_ways(world: World, request: bytes) -> list[tuple[str, dict[str, str], bytes]]:
    answers: list[tuple[str, dict[str, str], bytes]] = []
    for more in ("", f"{USUAL}\r\n"):
        async with connected(world) as (reader, writer):
            writer.write(request.replace(b"\r\n\r\n", f"\r\n{more}\r\n".encode()))
            answers.append(await answer_from(reader))
    return answers


CASES = {
    "staff": (ADA, "service", (), "200", True),
    "a till": (ADA, "pos", (), "200", True),
    "the member": (ADA, ADA, (), "200", True),
    "kept alive": (ADA, "pos", ("Connection: keep-alive", "Accept-Encoding: gzip"), "200", True),
    "the version that is known": (ADA, "pos", ('If-None-Match: W/"3"',), "304", True),
    "the version known before": (ADA, "pos", ('If-None-Match: W/"2"',), "200", True),
    "any of several versions": (ADA, "pos", ('If-None-Match: W/"2", W/"3"',), "304", False),
    "two versions in two lines": (ADA, "pos", ('If-None-Match: W/"2"', 'If-None-Match: W/"3"'), "304", False),
    "any version": (ADA, "pos", ("If-None-Match: *",), "304", False),
    "handed on": (ADA, "pos", (ENOUGH, "Loyalty-Forwarded: us;x"), "200", True),
    "in a hurry": (ADA, "pos", (HURRY,), "200", False),
    "another member": (ADA, EVE, (), "404", False),
    "an erased member to staff": (BOB, "service", (), "200", True),
    "an erased member to themselves": (BOB, BOB, (), "404", True),
    "no view": (MAX, "service", (), "503", True),
    "no credential": (ADA, None, (), "401", False),
    "another key": (ADA, "loy_0_1", (), "401", False),
    "two credentials": (ADA, "pos", ("Authorization: Bearer x",), "401", False),
    "a token": (ADA, "pos", (f"Consistency-Token: v1.{format_member_id(ADA)}.3",), "200", True),
    "a token of the future": (ADA, "pos", (f"Consistency-Token: v1.{format_member_id(ADA)}.4",), "503", True),
    "two tokens": (
        ADA, "pos", tuple(f"Consistency-Token: v1.{format_member_id(ADA)}.{one}" for one in (2, 4)), "400", False
    ),
    "a token of another": (ADA, "pos", (f"Consistency-Token: v1.{format_member_id(EVE)}.3",), "400", False),
    "no token": (ADA, "pos", ("Consistency-Token: v1",), "400", False),
    "a token and the version known": (
        ADA, "pos", (f"Consistency-Token: v1.{format_member_id(ADA)}.3", 'If-None-Match: W/"3"'), "304", True
    ),
}  # fmt: skip


@pytest.mark.parametrize("below", BELOW)
@pytest.mark.parametrize("case", CASES)
async def test_both_ways_give_the_same_answer(world: World, taken: list[bool], case: str, below: str) -> None:
    member_id, who, lines, status, is_quick = CASES[case]
    credential = world.member_token(who) if isinstance(who, int) else world.keys.get(who or "", who)
    lines = (*((bearer(credential),) if credential else ()), *lines, "Request-Id: the-same")
    quick, usual = await both_ways(world, asking(account_of(member_id, below), *lines))
    assert quick == usual
    if below == ACCOUNT:
        assert quick[0].split()[1] == status
    assert taken[0] is is_quick


@pytest.mark.parametrize("below", BELOW)
async def test_what_is_in_valkey_is_answered_quickly(world: World, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    answers: list[bytes | None] = []
    monkeypatch.setattr(Ask, "answer", lambda _, answer: answers.append(answer))
    for credential in (world.keys["pos"], world.member_token(ADA)):
        async with connected(world) as (_, writer):
            writer.write(asking(account_of(ADA, below), bearer(credential)))
            await eventually(so(lambda: len(answers) == 1))
        assert (answers.pop() or b"nothing").startswith(b"HTTP/1.1 200 OK"), credential


@pytest.mark.parametrize("accepted", ["Accept-Encoding: gzip", "Accept-Encoding: gzip;q=0", "Accept: anything"])
async def test_a_long_body_is_compressed_for_whoever_takes_it(
    world: World, killable: OwnValkey, taken: list[bool], accepted: str
) -> None:
    await put_view(killable.url, views.profile_key(ADA), 3, b'{"name":"%b"}' % (b"Ada" * 1000))
    lines = (bearer(world.keys["pos"]), "Request-Id: the-same", accepted)
    quick, usual = await both_ways(world, asking(account_of(ADA, ""), *lines))
    assert quick == usual
    assert quick[1]["vary"] == "Accept-Encoding"
    assert taken[0]


@pytest.mark.parametrize("length", [10, 1_000])
async def test_what_is_known_varies_as_what_it_stands_for(
    world: World, killable: OwnValkey, taken: list[bool], length: int
) -> None:
    await put_view(killable.url, views.profile_key(ADA), 3, b'{"name":"%b"}' % (b"Ada" * length))
    lines = (bearer(world.keys["pos"]), "Request-Id: the-same")
    whole, _ = await both_ways(world, asking(account_of(ADA, ""), *lines))
    quick, usual = await both_ways(world, asking(account_of(ADA, ""), *lines, f"If-None-Match: {whole[1]['etag']}"))
    assert quick == usual
    assert quick[0].split()[1] == "304"
    assert quick[1].get("vary") == whole[1].get("vary")
    assert taken[0]


async def test_what_no_parser_takes_is_malformed(world: World, taken: list[bool]) -> None:
    for odd in ("Content-Length : 5", "X-Odd: \x01", " folded", "X Odd: 1"):
        for quick in await both_ways(world, asking(account_of(ADA), bearer(world.keys["pos"]), odd)):
            assert quick[0].split()[1] == "400", odd
    assert not any(taken)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/members/nobody/account",
        account_of(ADA) + "?a=1",
        account_of(member(1)) + "/",
        account_of(ADA, "/rewards"),
        account_of(ADA, "/activity?page_size=1"),
        account_of(member(1, region="us"), "/activity"),
    ],
)
async def test_other_targets_go_the_usual_way(world: World, taken: list[bool], target: str) -> None:
    quick, usual = await both_ways(world, asking(target, bearer(world.keys["pos"]), "Request-Id: the-same"))
    assert quick == usual
    assert not any(taken)


async def test_a_damaged_view_is_reported_and_no_answer(world: World, killable: OwnValkey, taken: list[bool]) -> None:
    await put_view(killable.url, views.account_key(ADA), 3, b"{")
    quick, usual = await both_ways(world, asking(account_of(ADA), bearer(world.keys["pos"]), "Request-Id: the-same"))
    assert (quick, taken[0]) == (usual, True)
    assert quick[0].split()[1] == "503"
    assert await world.metric("loyalty_query_damaged_views_total") > 0


async def test_what_comes_meanwhile_is_answered_afterwards(
    world: World, killable: OwnValkey, taken: list[bool]
) -> None:
    accounts = [account_of(one) for one in (ADA, EVE, MAX, ADA)]
    requests = [asking(target, bearer(world.keys["pos"])) for target in accounts]
    async with connected(world) as (reader, writer):
        writer.write(requests[0])
        await answer_from(reader)  # so that it is connected to Valkey
        killable.send(signal.SIGSTOP)
        writer.write(requests[0])
        await eventually(so(lambda: len(taken) == 2))
        writer.write(b"".join(requests[1:])[:-10])
        writer.write(requests[-1][-10:])
        killable.send(signal.SIGCONT)
        answers = [await answer_from(reader) for _ in requests]
    assert [line.split()[1] for line, _, _ in answers] == ["200", "200", "503", "200"]
    for one, (_, _, body) in zip((ADA, EVE), answers, strict=False):
        assert body == views.account_view(entry(one, 3))


async def counted(world: World) -> dict[str, float]:
    """What the node counts of requests."""
    lines = (await world.get("/metrics")).body.decode().splitlines()
    names = ("loyalty_http_request_seconds_count", "loyalty_query_answers_total", "loyalty_overload_under_way")
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name.startswith(names)}


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_sent_along_both_ways_agree(
    world: World, taken: list[bool], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance, first, port = random.Random(seed), await counted(world), int(world.nodes["eu"].rpartition(":")[2])
    plain = Plain("GET", odd_targets(), [odd_credentials(world)])
    requests = [odd_request(chance, plain) for _ in range(50)]
    quick = [await converse(port, request) for request in requests]
    second = await counted(world)
    monkeypatch.setattr(QuickRead, "__call__", lambda *_: False)
    usual = [await converse(port, request) for request in requests]
    third = await counted(world)
    for request, *both in zip(requests, quick, usual, strict=True):
        assert both[0] == both[1], request
    assert {name: third[name] - second[name] for name in third} == {
        name: second[name] - first.get(name, 0.0) for name in second
    }
    assert any(taken)


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_is_sent_along_a_node_of_another_region_agrees(
    tmp_path: Path, killable: OwnValkey, seed: int
) -> None:
    shards = {name: ShardPlace(NOWHERE, killable.url) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards) as world:
        for one in (ADA, BOB, EVE):
            await project(killable.url, one, 1, 2, 3)
        await put_view(killable.url, views.profile_key(BOB), 3, b'{"erased":true}')
        below = (*BELOW, "/rewards", "/activity?page_size=1", "/activity?page_size=x", "/account?a=1")
        targets = [account_of(one, path) for one in (ADA, BOB, EVE, MAX) for path in below]
        plain = Plain("GET", targets, [odd_credentials(world)])
        chance = random.Random(seed)
        for request in [odd_request(chance, plain) for _ in range(60)]:
            at_home, away = [await converse(int(url.rpartition(":")[2]), request) for url in world.nodes.values()]
            for _, headers, _, _ in (at_home, away):
                headers.pop("loyalty-region", None)  # of what is refused before it is handed on
            assert at_home == away, request


def odd_targets() -> list[str]:
    ada, whom = account_of(ADA), (ADA, BOB, EVE, MAX, member(1, region="us"))
    return [
        *(account_of(one, below) for one in whom for below in BELOW),
        f"{ada}?", f"{ada}?a=1", f"{ada}#here", f"{ada}/", f"/{ada}", f"http://elsewhere{ada}", ada.upper(),
        ada.replace("account", "%61ccount"), ada.replace("/v1", "/v1/."), ada.replace("members/", "members/%20"),
    ]  # fmt: skip


def odd_credentials(world: World) -> list[str]:
    pos, own = bearer(world.keys["pos"]), bearer(world.member_token(ADA))
    return [
        pos, own, own, own,
        bearer(world.member_token(EVE)), bearer(world.keys["pos"] + "x"), f"authorization: bearer {world.keys['pos']}",
        f"{pos} ", pos.replace("Bearer ", "Bearer  "), pos.replace(": ", ":"), pos.replace(": ", ":\t"),
        pos.replace("Bearer ", "Bearer\t"), pos.replace("loy_", "LOY_"), f"{pos}, Bearer x", "Accept: nothing",
    ]  # fmt: skip


async def test_hundreds_may_ask_at_once(world: World) -> None:
    """A refusal costs nearly what an answer does: where some were refused, who came again made all wait."""
    async with AsyncExitStack() as stack:
        hundreds = [await stack.enter_async_context(connected(world)) for _ in range(500)]
        for _, writer in hundreds:
            writer.write(asking(account_of(ADA), bearer(world.keys["admin"])))
        assert {(await answer_from(reader))[0] for reader, _ in hundreds} == {"HTTP/1.1 200 OK"}


async def test_a_quick_way_that_fails_keeps_no_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bool:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(QuickRead, "__call__", fail)
    async with connected(world) as (reader, writer):
        writer.write(asking(account_of(ADA), bearer(world.keys["pos"])))
        assert await asyncio.wait_for(reader.read(), END_S) == b""
    assert await world.metric("loyalty_overload_under_way{") == 0


async def test_a_connection_is_not_idle_while_it_is_answered(tmp_path: Path, killable: OwnValkey) -> None:
    shards = {"eu-1": ShardPlace(NOWHERE, killable.url)}
    async with open_world(tmp_path, shards, idle_timeout_s=0.2, cache_deadline_ms=5_000) as world:
        await project(killable.url, ADA, 3)
        async with connected(world) as (reader, writer), connected(world) as (silent, other):
            for one, to in ((reader, writer), (silent, other)):
                to.write(asking(account_of(ADA), bearer(world.keys["pos"])))
                await answer_from(one)
            killable.send(signal.SIGSTOP)
            writer.write(asking(account_of(ADA), bearer(world.keys["pos"])))
            assert await asyncio.wait_for(silent.read(), END_S) == b""  # idle since as long
            killable.send(signal.SIGCONT)
            assert (await answer_from(reader))[0] == "HTTP/1.1 200 OK"


async def test_who_leaves_meanwhile_holds_nothing(world: World, killable: OwnValkey, taken: list[bool]) -> None:
    request = asking(account_of(ADA), bearer(world.keys["pos"]))
    async with connected(world) as (reader, writer):
        writer.write(request)
        await answer_from(reader)
        killable.send(signal.SIGSTOP)
        writer.write(request)
        await eventually(so(lambda: len(taken) == 2))
        writer.transport.abort()
    killable.send(signal.SIGCONT)

    async def nothing_is_held() -> bool:
        return await world.metric("loyalty_overload_under_way{") == 0

    await eventually(nothing_is_held)
    async with connected(world) as (reader, writer):
        writer.write(request)
        assert (await answer_from(reader))[0] == "HTTP/1.1 200 OK"


async def test_a_connection_that_asked_quickly_and_asks_nothing_more_is_closed(
    tmp_path: Path, killable: OwnValkey, taken: list[bool]
) -> None:
    shards = {"eu-1": ShardPlace(NOWHERE, killable.url)}
    async with open_world(tmp_path, shards, idle_timeout_s=3.0, **PATIENT) as world:
        await project(killable.url, ADA, 3)
        async with connected(world) as (reader, writer):
            for _ in range(2):
                writer.write(asking(account_of(ADA), bearer(world.keys["pos"])))
                await answer_from(reader)
            assert await asyncio.wait_for(reader.read(), END_S) == b""
        assert taken == [True, True]


async def test_a_node_that_stops_takes_nothing_quickly_and_answers_what_it_has_taken(
    world: World, killable: OwnValkey, taken: list[bool]
) -> None:
    request = asking(account_of(ADA), bearer(world.keys["pos"]))
    async with connected(world) as (reader, writer), connected(world) as (other_reader, other):
        writer.write(request)
        await answer_from(reader)
        killable.send(signal.SIGSTOP)
        writer.write(request)
        await eventually(so(lambda: len(taken) == 2))
        world.apps["eu"][DRAINING].set()
        killable.send(signal.SIGCONT)
        assert (await answer_from(reader))[0] == "HTTP/1.1 200 OK"
        other.write(request)
        assert (await answer_from(other_reader))[1]["connection"] == "close"
    assert taken == [True, True]
