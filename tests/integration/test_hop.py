"""A plain question about a member of another region is handed on quickly, and whatever goes wrong is met as usual."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from query import views
from query.quick import QuickRead
from service import link
from service.access import ACCESS
from service.handed import FORWARDED_HEADER
from service.web import CREDENTIALS
from shard_router.member_id import format_member_id
from tests.hop_world import ACCOUNT, BOB, VIEW, answer, ask, home, linked, says
from tests.http_node import Answer, quickly_taken
from tests.query_servers import OwnValkey
from tests.query_world import ShardPlace, World, member, open_world, project, put_view

EVE = member(3, region="us")
NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]
USUAL = "TE: trailers"
BELOW = ("", "/account", "/activity")


@pytest.fixture
async def world(tmp_path: Path, killable: OwnValkey) -> AsyncGenerator[World]:
    shards = {name: ShardPlace(NOWHERE, killable.url) for name in ("eu-1", "us-1")}
    async with open_world(tmp_path, shards) as opened:
        await project(killable.url, BOB, 1, 2, 3)
        await project(killable.url, EVE, 3)
        await put_view(killable.url, views.profile_key(EVE), 3, b'{"erased":true}')
        yield opened


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each plain request was taken by the quick way, of either node."""
    return quickly_taken(monkeypatch, QuickRead)


def seen(reply: Answer) -> tuple[int, dict[str, str], bytes]:
    headers = {name.lower(): value for name, value in reply.headers.items() if name.lower() != "date"}
    return reply.status, headers, reply.body


TOKEN = f"Consistency-Token: v1.{format_member_id(BOB)}."
CASES = {
    "staff": (BOB, "service", (), 200, True),
    "a till": (BOB, "pos", (), 200, True),
    "the member": (BOB, BOB, (), 200, True),
    "kept alive": (BOB, "pos", ("Connection: keep-alive", "Accept-Encoding: gzip", "Accept: */*"), 200, True),
    "the version that is known": (BOB, "pos", ('If-None-Match: W/"3"',), 304, True),
    "the version known before": (BOB, "pos", ('If-None-Match: W/"2"',), 200, True),
    "any of several versions": (BOB, "pos", ('If-None-Match: W/"2", W/"3"',), 304, True),
    "with some time": (BOB, "pos", ("Loyalty-Deadline-Ms: 4000",), 200, True),
    "in a hurry": (BOB, "pos", ("Loyalty-Deadline-Ms: 300",), 200, False),
    "said to be handed on": (BOB, "pos", ("Loyalty-Forwarded: us;x",), 200, False),
    "a trace": (BOB, "pos", (f"traceparent: 00-{'1' * 32}-{'2' * 16}-01",), 200, False),
    "another member": (BOB, EVE, (), 404, False),
    "an erased member to staff": (EVE, "service", (), 200, True),
    "an erased member to themselves": (EVE, EVE, (), 404, True),
    "no credential": (BOB, "x", (), 401, False),
    "a token": (BOB, "pos", (TOKEN + "3",), 200, True),
    "a token of another": (BOB, "pos", (f"Consistency-Token: v1.{format_member_id(EVE)}.3",), 400, False),
    "no token": (BOB, "pos", ("Consistency-Token: v1",), 400, False),
}


@pytest.mark.parametrize("below", BELOW)
@pytest.mark.parametrize("case", CASES)
async def test_both_ways_give_the_same_answer(world: World, taken: list[bool], case: str, below: str) -> None:
    member_id, who, lines, status, is_quick = CASES[case]
    credential = world.member_token(who) if isinstance(who, int) else world.keys.get(who, who)
    path = f"/v1/members/{format_member_id(member_id)}{below}"
    await linked(world, taken)
    more = (*lines, "Request-Id: the-same")
    quick = await ask(world, *more, path=path, credential=credential)
    assert taken[0] is is_quick
    usual = await ask(world, *more, USUAL, path=path, credential=credential)
    assert seen(quick) == seen(usual)
    if below == "/account":
        assert quick.status == status
    if is_quick:
        assert quick.headers["Loyalty-Region"] == "us"


async def test_a_home_node_takes_it_quickly_too(world: World, taken: list[bool]) -> None:
    for below in BELOW:
        await linked(world, taken)
        assert (await ask(world, path=ACCOUNT.replace("/account", below))).status == 200
        assert taken == [True, True], below


async def test_a_long_body_comes_back_as_it_was_packed(world: World, killable: OwnValkey, taken: list[bool]) -> None:
    await put_view(killable.url, views.profile_key(BOB), 3, b'{"name":"%b"}' % (b"Bob" * 10_000))
    await linked(world, taken)
    path = ACCOUNT.replace("/account", "")
    for accepted in ("Accept-Encoding: gzip", "Accept-Encoding: gzip;q=0", "Accept: anything"):
        quick = await ask(world, accepted, "Request-Id: the-same", path=path)
        assert seen(quick) == seen(await ask(world, accepted, "Request-Id: the-same", USUAL, path=path))
        assert quick.headers.get("Content-Encoding") == ("gzip" if accepted.endswith("gzip") else None)


async def test_mark_id_and_what_is_left_of_the_time_go_along(world: World) -> None:
    async with home(world) as node:
        reply = await ask(world, "Request-Id: till-7", "Accept: a/b", TOKEN + "3", "Loyalty-Deadline-Ms: 3000")
        head = node.heads[-1][1].decode()
    assert (node.quick, reply.headers["Request-Id"]) == ([True], "till-7")
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    region, _, mark = fields.pop(FORWARDED_HEADER).partition(";")
    assert world.apps["us"][CREDENTIALS].is_signed(f"{region}\nGET\n{ACCOUNT}\ntill-7", mark)
    assert 1_500 < int(fields.pop("Loyalty-Deadline-Ms")) <= 2_250  # a quarter is kept to answer here
    del fields["Host"]
    assert fields == {
        "Authorization": f"Bearer {world.keys['pos']}",
        "Accept": "a/b",
        "Accept-Encoding": "identity",
        "Consistency-Token": (TOKEN + "3").partition(": ")[2],
        "Request-Id": "till-7",
    }


async def test_it_is_counted_and_logged_as_on_the_usual_way(
    world: World, taken: list[bool], capfd: pytest.CaptureFixture[str]
) -> None:
    await linked(world, taken)
    counts: list[dict[str, float]] = []
    for more in ((), (USUAL,)):
        before = await counted(world)
        await ask(world, "Request-Id: mine", *more)
        counts.append({name: value - before.get(name, 0) for name, value in (await counted(world)).items()})
    assert counts[0] == counts[1]
    assert counts[0]['loyalty_forwarded_total{region="us"}'] == 1
    for app in world.apps.values():
        app[ACCESS].flush()
    lines = [re.sub(r'"(took_ms|timestamp)":[^,}]*', "", line) for line in capfd.readouterr().err.splitlines()]
    assert len([line for line in lines if '"request_id":"mine"' in line]) == 4  # two of each node
    assert len({line for line in lines if '"request_id":"mine"' in line}) == 1


async def counted(world: World) -> dict[str, float]:
    lines = (await world.get("/metrics")).body.decode().splitlines()
    names = ("loyalty_http_request_seconds_count", "loyalty_forward", "loyalty_overload_under_way")
    rows = (line.rpartition(" ") for line in lines if "/metrics" not in line and line.startswith(names))
    return {name: float(value) for name, _, value in rows}


PIECES = [answer()[at : at + 1] for at in range(len(answer()))]


@pytest.mark.parametrize(
    "parts",
    [
        PIECES,
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer()],
        [answer().replace(b"Content-Length", b"content-LENGTH").replace(b": ", b":\t ")],
        [answer().replace(b"200 OK", b"200 ")],
    ],
    ids=["in pieces", "after others", "in other letters", "without a phrase"],
)
async def test_an_answer_is_read_as_http_has_it(world: World, parts: list[bytes]) -> None:
    async with home(world, says(*parts)) as node:
        reply = await ask(world)
        assert (reply.status, reply.body, reply.headers["ETag"]) == (200, VIEW, 'W/"3"')
        assert reply.headers["Loyalty-Region"] == "us"
        assert (await ask(world)).status == 200
        assert (node.quick, len({number for number, _ in node.heads})) == ([True, True], 1)


HEAD = b"HTTP/1.1 200 OK\r\n"
UNREADABLE = {
    "garbage": b"SSH-2.0-OpenSSH\r\n",
    "another version": answer().replace(b"1.1", b"1.0", 1),
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a bad line": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "no length": HEAD + b"\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "no number": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
    "a long head": HEAD + b"X: %b\r\n" % (b"x" * link.HEAD_BYTES_MAX),
    "a long body": HEAD + b"Content-Length: %d\r\n\r\n" % (link.BODY_BYTES_MAX + 1),
    "more than an answer": answer() + b"HTTP",
}


@pytest.mark.parametrize("case", UNREADABLE)
async def test_what_cannot_be_read_is_asked_of_the_usual_client_there(world: World, case: str) -> None:
    async with home(world, says(UNREADABLE[case])) as node:
        for _ in range(3):
            reply = await ask(world)
            assert (reply.status, reply.body, reply.headers["Loyalty-Region"]) == (200, VIEW, "us")
        assert node.quick == [True, False, False, False]  # it is left to the usual client for a while
        assert len({number for number, _ in node.heads if number == node.heads[0][0]}) == 1
