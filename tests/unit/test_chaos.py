"""The parts of a campaign: one seed, one order; every command; weather between tills and nodes; and books that see."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chaos_action
from benchmarks.chaos import Result, schedule
from benchmarks.chaos_client import BUCKETS, Customer, Log, Till, points_of
from benchmarks.chaos_clock import environment, library
from benchmarks.chaos_fault import CLOCKS, FAULTS
from benchmarks.chaos_proxy import Proxy
from cluster.campaign import begun_with
from cluster.run_file import Identity, RunRecord
from command.operation import OPERATIONS
from tests.project import PROJECT

ASKED, ANSWERED = b"ask\n", b"ask!\n"


def test_a_seed_gives_the_same_faults_in_the_same_order() -> None:
    assert schedule(7, 100) == schedule(7, 100)
    assert schedule(7, 100) != schedule(8, 100)


def test_every_kind_comes_once_before_any_comes_twice() -> None:
    assert len(FAULTS) >= 60
    assert set(schedule(1, len(FAULTS))) == set(FAULTS)


def test_the_docs_tell_how_many_kinds_there_are() -> None:
    assert f"breaks it in {len(FAULTS)} ways" in (PROJECT / "docs" / "operate.md").read_text(encoding="utf-8")


def test_clocks_are_left_alone_where_the_machine_has_no_libfaketime(tmp_path: Path) -> None:
    assert library((tmp_path,)) is None
    assert environment(tmp_path / "clock", None) == {}
    assert CLOCKS.isdisjoint(schedule(1, len(FAULTS), without=CLOCKS))
    assert set(schedule(1, len(FAULTS))) >= CLOCKS


@pytest.mark.skipif(library() is None, reason="no libfaketime on this machine")
def test_a_process_goes_by_the_clock_of_its_file_and_by_the_true_monotonic_one(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    preloaded = environment(file, library())
    file.write_text("+3600\n")
    told = "import time; print(time.time(), time.monotonic())"
    env = {"PATH": os.environ["PATH"], **preloaded}
    begun = time.monotonic()
    wall, monotonic = map(float, subprocess.check_output([sys.executable, "-c", told], env=env).split())
    assert wall - time.time() > 3_000
    assert begun <= monotonic <= time.monotonic()


WAITING = """
import threading, time
cpu_s, began_s = time.thread_time(), time.monotonic()
for _ in range(5):
    holder = threading.Thread(target=sum, args=(range(1_000_000),))
    holder.start()
    holder.join()
print(time.thread_time() - cpu_s, time.monotonic() - began_s)
"""
"""What it costs to wait for a thread that does not let go of the interpreter."""


@pytest.mark.skipif(library() is None, reason="no libfaketime on this machine")
def test_a_thread_that_waits_for_another_rests_under_libfaketime_too(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], **environment(tmp_path / "clock", library())}
    cpu_s, waited_s = map(float, subprocess.check_output([sys.executable, "-c", WAITING], env=env).split())
    assert cpu_s < waited_s / 5  # to start five threads costs some of it; who spins takes all


def test_the_first_divergence_is_what_a_till_saw() -> None:
    result = Result(Log(divergences=["seen"]), failures=["found later"])
    assert result.first == "seen"
    assert Result(Log()).first is None


def test_tills_send_every_kind_of_command() -> None:
    source = Path(chaos_action.__file__).read_text(encoding="utf-8")
    assert len(set(re.findall(r"insist\(\s*\"(\w+)\"", source))) == len(OPERATIONS)


def till(**balance: int) -> tuple[Till, dict[str, Any]]:
    """A till whose guest has these points by our books, and an answer that says the same."""
    one = Till("t", [], [], "s", Log())
    one.guest = Customer("m")
    one.guest.move(balance)
    return one, {"account": {"balance": dict.fromkeys(BUCKETS, 0) | balance}}


@pytest.mark.parametrize(
    ("told", "sent", "diverges"),
    [
        ({}, 0, False),
        ({"available": 9}, 0, True),
        ({"available": 11}, 0, True),
        ({"debt": 1}, 0, True),
        ({"held": 3}, 0, True),
        ({"held": 3}, 3, False),
        ({"held": 4}, 3, True),
        ({"held": -1}, 3, True),
    ],
)
def test_a_balance_that_the_books_do_not_give_is_seen(told: dict[str, int], sent: int, *, diverges: bool) -> None:
    one, reply = till(available=10)
    one.guest.sent = sent
    reply["account"]["balance"] |= told
    one.compare(reply)
    assert bool(one.log.divergences) is diverges


def test_what_a_refused_command_would_have_done_is_not_booked() -> None:
    one, reply = till(available=10)
    assert not one.expect({"refused": "insufficient_points"}, {"available": -5})
    assert one.expect(reply, {})
    assert one.log.divergences == []


def test_points_given_for_a_reason_are_counted_and_those_taken_back() -> None:
    postings = [
        {"from": "program", "to": "available", "points": 10, "reason": "base"},
        {"from": "available", "to": "program", "points": 4, "reason": "base"},
        {"from": "program", "to": "available", "points": 100, "reason": "referral"},
    ]
    assert [points_of({"postings": postings}, reason) for reason in ("base", "referral", "tier")] == [6, 100, 0]


@asynccontextmanager
async def linked() -> AsyncGenerator[tuple[Proxy, list[bytes]]]:
    """A proxy to a node that answers each line, and the lines that reached it."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            got.append(line)
            writer.write(ANSWERED)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        proxy = Proxy(server.sockets[0].getsockname()[1])
        await proxy.open()
        try:
            yield proxy, got
        finally:
            await proxy.close()


async def ask(proxy: Proxy) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        async with asyncio.timeout(5):
            writer.write(ASKED)
            return await reader.readline()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_in_clear_weather_and_in_bits_everything_passes() -> None:
    async with linked() as (proxy, got):
        assert await ask(proxy) == ANSWERED
        proxy.change(delay_s=0.001, bytes_at_once=1)
        assert await ask(proxy) == ANSWERED
        assert got == [ASKED, ASKED]


async def test_a_lost_answer_is_of_a_request_that_arrived() -> None:
    async with linked() as (proxy, got):
        proxy.change(loses_answers=True)
        assert (await ask(proxy), got) == (b"", [ASKED])
        proxy.change()
        assert await ask(proxy) == ANSWERED


async def test_in_silence_nothing_arrives() -> None:
    async with linked() as (proxy, got):
        proxy.change(is_silent=True)
        asking = asyncio.create_task(ask(proxy))
        done, _ = await asyncio.wait((asking,), timeout=0.2)
        assert (done, got) == (set(), [])
        await proxy.close()
        assert await asking == b""


async def test_what_is_refused_is_taken_again_on_the_same_port() -> None:
    async with linked() as (proxy, _):
        await proxy.close()
        with pytest.raises(ConnectionRefusedError):
            await ask(proxy)
        await proxy.open()
        assert await ask(proxy) == ANSWERED


def test_what_runs_is_brought_up_again_as_it_was_begun(tmp_path: Path) -> None:
    """Else a system with two standbys comes back with one, or none at its port."""
    flags = ("--data", "elsewhere", "--standbys", "2")
    command = (sys.executable, "-c", "input()", "up", *flags)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as supervisor:
        RunRecord(Identity.of(supervisor.pid)).save(tmp_path)
        assert begun_with(tmp_path) == flags
        supervisor.communicate(b"\n")
