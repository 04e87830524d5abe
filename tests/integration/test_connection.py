"""Sockets that ask nothing: they are closed after a while, and sooner when others need the room."""

import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from service.health import DRAINING
from tests.conftest import eventually, so
from tests.engine import free_port
from tests.http_node import MUCH_BYTES, Node, connection, read_answer, running_node, until_read
from tests.project import PROJECT

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n"
HALF = b"GET /livez HTTP/1.1\r\nHost: no"
END_S = 10


async def end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the node closes the connection."""
    return await asyncio.wait_for(reader.read(), END_S)


@asynccontextmanager
async def impatient(folder: Path, **settings: float) -> AsyncGenerator[Node]:
    async with running_node(folder, **({"head_timeout_s": 0.2, "idle_timeout_s": 60.0} | settings)) as node:
        yield node


@pytest.mark.parametrize("sent", [b"", b"G", HALF, LIVEZ[:-1]])
async def test_who_never_sends_a_whole_head_is_left(tmp_path: Path, sent: bytes) -> None:
    async with impatient(tmp_path) as node, connection(node.port) as (reader, writer):
        writer.write(sent)
        assert await end(reader) == b""


async def test_a_head_byte_by_byte_is_no_whole_one_either(tmp_path: Path) -> None:
    async with impatient(tmp_path) as node, connection(node.port) as (reader, writer):
        writer.write(HALF)
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=0.02)
        with suppress(ConnectionError):  # what it sent last was not read
            assert await ended == b""


async def test_who_has_asked_may_be_silent_for_longer_but_not_begin_and_stop(tmp_path: Path) -> None:
    async with impatient(tmp_path) as node, connection(node.port) as (reader, writer):
        writer.write(LIVEZ)
        assert (await read_answer(reader)).status == 200
        async with connection(node.port) as (silent, _):
            assert await end(silent) == b""
        writer.write(LIVEZ)
        assert (await read_answer(reader)).status == 200
        writer.write(HALF)
        assert await end(reader) == b""


async def test_a_connection_is_idle_for_so_long(tmp_path: Path) -> None:
    async with impatient(tmp_path, idle_timeout_s=0.2) as node, connection(node.port) as (reader, writer):
        writer.write(LIVEZ)
        assert (await read_answer(reader)).status == 200
        assert await end(reader) == b""


@pytest.mark.parametrize("target", ["/quick", "/bytes"])
async def test_what_has_come_when_the_time_is_over_is_answered(tmp_path: Path, target: str) -> None:
    """Timers come before sockets: after a long turn of the loop a request lies in the socket of who is late."""
    async with impatient(tmp_path) as node, connection(node.port) as (reader, writer):
        writer.write(LIVEZ)
        assert (await read_answer(reader)).status == 200
        assert node.runner.server is not None
        served: Any = next(iter(node.runner.server.connections))
        method = "GET" if target == "/quick" else "POST"
        request = node.request(b"{}" if method == "POST" else b"", target=target, method=method)
        writer.write(request)  # it is in the socket, and nobody has read it yet
        served._next_keepalive_close_time = 0.0  # the time is over
        served._process_keepalive()
        if target == "/quick":

            async def asked() -> bool:
                return bool(node.asked)

            await eventually(asked)
            node.asked[0].answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await read_answer(reader)).status == 200


async def test_a_client_that_takes_nothing_of_its_answer_is_left(tmp_path: Path) -> None:
    async with impatient(tmp_path, idle_timeout_s=0.3) as node, connection(node.port) as (reader, writer):
        writer.write(node.request(b"", method="GET", target="/much"))
        await writer.drain()

        async def seen() -> bool:
            return node.connections == 1

        async def left() -> bool:
            return node.connections == 0

        await eventually(seen)
        await eventually(left)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(MUCH_BYTES), END_S)


async def test_who_has_the_node_work_is_never_closed(tmp_path: Path) -> None:
    async with impatient(tmp_path, idle_timeout_s=0.2) as node, connection(node.port) as (reader, writer):
        writer.write(node.request(b"{}", target="/wait"))
        async with connection(node.port) as (silent, _):
            assert await end(silent) == b""
        node.let_go.set()
        assert (await read_answer(reader)).status == 200


async def test_strangers_make_room_for_who_asks_and_for_who_has_asked(tmp_path: Path) -> None:
    async with running_node(tmp_path, connections_max=16) as node, AsyncExitStack() as stack:
        reader, writer = await stack.enter_async_context(connection(node.port))
        writer.write(LIVEZ)
        assert (await read_answer(reader)).status == 200
        for _ in range(100):
            _, stranger = await stack.enter_async_context(connection(node.port))
            stranger.write(HALF)
        for _ in range(5):
            assert (await node.send(node.request(b"{}"))).status == 200
        writer.write(LIVEZ)
        assert (await read_answer(reader)).status == 200


async def test_where_all_are_at_work_one_more_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_node(tmp_path, connections_max=4) as node, AsyncExitStack() as stack:
        asking = [asyncio.create_task(node.send(node.request(b"{}", target="/wait"))) for _ in range(4)]

        async def at_work() -> bool:
            return node.waiting == 4

        await eventually(at_work)
        reader, _ = await stack.enter_async_context(connection(node.port))
        assert await end(reader) == b""
        node.let_go.set()
        assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
        assert (await node.send(node.request(b"{}"))).status == 200
    gc.collect()  # a fault of a task is told when the task goes
    assert not [record.getMessage() for record in caplog.records]


async def test_who_sends_more_after_a_refusal_makes_room_too(tmp_path: Path) -> None:
    """Else strangers, each with the begin of a long body, keep all others out."""
    async with running_node(tmp_path, connections_max=16) as node, AsyncExitStack() as stack:
        for _ in range(40):
            reader, writer = await stack.enter_async_context(connection(node.port))
            writer.write(node.request(b"{", "Content-Length: 2000", credential="x"))
            assert (await asyncio.wait_for(read_answer(reader), END_S)).status == 401
        assert (await node.send(node.request(b"{}"))).status == 200


async def test_who_takes_no_answer_makes_room_when_nobody_else_does(tmp_path: Path) -> None:
    async with impatient(tmp_path, connections_max=4) as node, AsyncExitStack() as stack:
        for _ in range(4):
            _, writer = await stack.enter_async_context(connection(node.port))
            writer.write(node.request(b"", method="GET", target="/much"))

        async def has_room() -> bool:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                return (await node.send(node.request(b"{}"))).status == 200
            return False

        await eventually(so(lambda: node.connections == 4))
        await eventually(has_room)


@asynccontextmanager
async def process(folder: Path, *, soft: int, hard: int, grace_s: float = 0.0) -> AsyncGenerator[tuple[int, int]]:
    """A node of its own with so many files: its process id and port."""
    port = free_port()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.idle_node", str(folder), str(port), str(grace_s)),
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )

    async def serves() -> bool:
        try:
            async with connection(port):
                return True
        except ConnectionError:
            return False

    try:
        await eventually(serves, deadline_s=30)
        yield child.pid, port
    finally:
        child.send_signal(signal.SIGTERM)
        await asyncio.wait_for(child.wait(), END_S)


async def test_eleven_hundred_silent_connections_stop_no_node_of_256_files(tmp_path: Path) -> None:
    async with process(tmp_path, soft=256, hard=256) as (_, port), AsyncExitStack() as stack:
        for _ in range(1_100):
            await stack.enter_async_context(connection(port))
        for _ in range(20):
            async with connection(port) as (reader, writer):
                writer.write(LIVEZ)
                assert (await asyncio.wait_for(read_answer(reader), END_S)).status == 200


def limits_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/limits").read_text().splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of another process are read from /proc")
async def test_a_process_may_open_as_many_files_as_the_system_allows_it(tmp_path: Path) -> None:
    async with process(tmp_path, soft=64, hard=4_096) as (pid, _):
        limits = limits_of(pid)
        assert [line.split()[3:5] for line in limits if line.startswith("Max open files")] == [["4096", "4096"]]


async def test_a_node_told_to_stop_says_so_and_serves_on_for_a_while(tmp_path: Path) -> None:
    async def unready() -> bool:
        async with connection(port) as (reader, writer):
            writer.write(LIVEZ.replace(b"livez", b"readyz"))
            answer = await read_answer(reader)
            return (answer.status, answer.headers.get("Connection")) == (503, "close")

    async with process(tmp_path, soft=64, hard=256, grace_s=60.0) as (pid, port), connection(port) as (reader, writer):
        writer.write(LIVEZ)
        assert "Connection" not in (await read_answer(reader)).headers
        os.kill(pid, signal.SIGTERM)
        await eventually(unready)
        writer.write(LIVEZ)
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["Connection"], await end(reader)) == (200, "close", b"")


ANSWER = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("answer", [ANSWER, None], ids=["quickly", "the usual way"])
async def test_who_stops_answers_first_what_is_asked(tmp_path: Path, answer: bytes | None) -> None:
    async with impatient(tmp_path) as node, connection(node.port) as (reader, writer):
        writer.write(node.request(b"", method="GET", target="/quick"))
        await eventually(so(lambda: bool(node.asked)))
        stopping = asyncio.create_task(node.runner.cleanup())
        await eventually(so(lambda: not node.runner.sites))
        node.app[DRAINING].set()
        node.asked[0].answer(answer)
        told = await read_answer(reader)
        assert (told.status, told.headers["Connection"]) == (204 if answer else 200, "close")
        assert await end(reader) == b""
        await stopping


async def test_who_is_to_stop_says_so_with_the_answer_to_what_it_was_asked_before(tmp_path: Path) -> None:
    """Else the next request meets a connection that is closed just then, and nobody knows what became of it."""
    async with impatient(tmp_path) as node, connection(node.port) as (reader, writer):
        writer.write(node.request(b"", method="GET", target="/quick"))
        await eventually(so(lambda: bool(node.asked)))
        node.app[DRAINING].set()
        node.asked[0].answer(ANSWER)
        assert (await read_answer(reader)).headers["Connection"] == "close"
        assert await end(reader) == b""


async def test_what_follows_a_head_in_pieces_is_answered_quickly(tmp_path: Path) -> None:
    """Else one such head would cost a proxy's connection, which lasts for days, the quick way for good."""
    async with running_node(tmp_path) as node, connection(node.port) as (reader, writer), asyncio.timeout(END_S):
        request = node.request(b"{}", method="GET", target="/quick")
        for piece in (request[:1], request[1:40], request[40:-1], request[-1:]):
            writer.write(piece)
            await until_read()
        assert (await read_answer(reader)).status == 200
        assert not node.asked
        writer.write(request)
        await eventually(so(lambda: bool(node.asked)))
        node.asked[0].answer(ANSWER)
        assert (await read_answer(reader)).status == 204


async def test_an_answer_may_be_the_last(tmp_path: Path) -> None:
    async with impatient(tmp_path) as node, connection(node.port) as (reader, writer):
        writer.write(node.request(b"", method="GET", target="/quick"))
        await eventually(so(lambda: bool(node.asked)))
        node.asked[0].answer(ANSWER, closes=True)
        assert await end(reader) == ANSWER
