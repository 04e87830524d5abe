"""The benchmark's client, verdict and page; and the history files a replay reads."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.board import Board
from benchmarks.course import Stage
from benchmarks.deployment import Deployment
from benchmarks.history import HistoryError, Purchase, read_json_lines
from benchmarks.load import Run, Samples
from benchmarks.ratio import Row, with_ratios
from benchmarks.replay import Replay, ReplayPlan, Window
from benchmarks.report import document, judge, judge_answers, markdown, write_report
from benchmarks.scenario import Targets
from benchmarks.screen import sparkline
from benchmarks.wire import Answer, Client, WireError
from benchmarks.witness import Witness
from cluster.cli_load import plain_errors
from cluster.errors import ClusterError
from tests.raw_server import listening

TARGETS = Targets(p99_ms={"command": 60, "query": 15, "visible": 250}, busy_max=0.65)
BODY = b'{"code": "overloaded"}'


@asynccontextmanager
async def answering(*pieces: bytes, close: bool = False) -> AsyncGenerator[str]:
    """A server that reads a request head and writes these pieces, each in its own segment."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                break

    async with listening(serve) as url:
        yield url


def head(status: str, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


async def test_an_answer_in_pieces_is_put_together() -> None:
    start = head("503 Service Unavailable", "Retry-After: 1", f"Content-Length: {len(BODY)}")
    async with answering(start[:20], start[20:] + BODY[:4], BODY[4:]) as url:
        client = Client(url, "key")
        answer = await client.get("/")
        client.close()
    assert (answer.status, answer.body, answer.code) == (503, BODY, "overloaded")
    assert answer.header("retry-after") == "1"
    assert answer.header("ETag") is None


async def test_a_connection_is_used_again() -> None:
    async with answering(head("304 Not Modified", 'ETag: W/"7"')) as url:
        client = Client(url, "key", connections_max=1)
        answers = [await client.get("/") for _ in range(3)]
        client.close()
    assert [answer.header("ETag") for answer in answers] == ['W/"7"'] * 3


@asynccontextmanager
async def hanging_up(*, answers: int) -> AsyncGenerator[str]:
    """A server that answers so many requests of a connection, and closes it when the next one comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(answers):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head("200 OK", "Content-Length: 2") + b"ok")
        await reader.readuntil(b"\r\n\r\n")

    async with listening(serve) as url:
        yield url


async def test_a_kept_connection_that_the_node_has_closed_costs_nobody_an_answer() -> None:
    async with hanging_up(answers=1) as url:
        client = Client(url, "key")
        assert [(await client.get("/")).body for _ in range(3)] == [b"ok"] * 3
        assert client.sent_again == 2
        client.close()


async def test_a_new_connection_that_the_node_closes_is_an_error_at_once() -> None:
    async with hanging_up(answers=0) as url:
        with pytest.raises(WireError, match="disconnected"):
            await Client(url, "key").get("/")


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [((), "disconnected"), ((head("200 OK", "Transfer-Encoding: chunked"),), "protocol")],
)
async def test_no_answer_is_an_error_that_says_why(pieces: tuple[bytes, ...], kind: str) -> None:
    async with answering(*pieces, close=True) as url:
        with pytest.raises(WireError) as raised:
            await Client(url, "key").get("/")
    assert raised.value.kind == kind


async def test_a_silent_server_is_a_timeout() -> None:
    async with answering() as url:
        client = Client(url, "key")
        with pytest.raises(WireError) as raised:
            await client.send(client.request("GET", "/", {}), timeout_s=0.05)
    assert raised.value.kind == "timeout"


async def test_nobody_there_is_a_connect_error() -> None:
    async with answering() as url:
        pass
    with pytest.raises(WireError) as raised:
        await Client(url, "key").get("/")
    assert (raised.value.kind, raised.value.reason) == ("connect", "connect ECONNREFUSED")


async def test_every_node_of_a_region_has_its_turn() -> None:
    nodes = {"command_nodes": ["http://c1", "http://c2"], "query_nodes": ["http://q1", "http://q2", "http://q3"]}
    eu = Deployment.of_status({"keys": {"admin": "key"}, "regions": {"eu": nodes}}).regions["eu"]
    assert [eu.command.base_url for _ in range(3)] == ["http://c1", "http://c2", "http://c1"]
    assert {eu.query.base_url for _ in range(3)} == set(nodes["query_nodes"])
    eu.close()


def test_an_answer_without_a_problem_document_is_named_by_its_status() -> None:
    assert Answer(502, b"", b"<html>").code == "http_502"
    assert Answer(201, b"", b"").code == "ok"


def stage(*, query_ms: float, errors: int = 0) -> Stage:
    run = Run(10.0)
    for name, latency_ms in (("command", 5.0), ("query account", query_ms), ("visible", 20.0)):
        samples = run.samples[name] = Samples()
        for number in range(1000):
            samples.record(scheduled_ns=number * 10_000_000, lateness_ns=0, latency_ns=int(latency_ms * 1_000_000))
        for _ in range(errors):
            samples.record(scheduled_ns=0, lateness_ns=0, latency_ns=0, code="timeout")
    return Stage("mixed", {"command": 100.0, "query": 100.0}, run, targets=TARGETS)


def test_targets_met_and_missed() -> None:
    assert all(finding.met for finding in judge([stage(query_ms=3)]))
    missed = [finding.text for finding in judge([stage(query_ms=16)]) if not finding.met]
    assert missed == ["mixed: query p99 16.0 ms (target 15 ms)"]
    assert sum(not finding.met for finding in judge([stage(query_ms=3, errors=5)])) == 2


def test_a_group_without_a_single_answer_misses_its_target() -> None:
    nothing = Stage("mixed", {"command": 1.0, "query": 1.0}, Run(1.0), targets=TARGETS)
    assert [finding.met for finding in judge([nothing])] == [False] * 5 + [True]  # nothing ran, so nothing was busy


def test_the_report_loads_nothing_from_elsewhere_and_names_what_was_missed(tmp_path: Path) -> None:
    stages = [stage(query_ms=16)]
    ratios = with_ratios(
        [Row("ours", 200.0, "HTTP"), Row("other", 100.0, "how", of="ours"), Row("absent", 0, "-", "ours")]
    )
    report = document(stages, judge(stages), settings={"seed": 1}, ratios=ratios)
    write_report(tmp_path, report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "missed: mixed: query p99" in page
    assert not any(word in page for word in ("http://", "https://", "src=", "@import", "<script"))
    assert "**MISSED**: mixed: query p99" in markdown(report)
    assert [row["ratio"] for row in ratios] == ["-", "2.00 x", "-"]


def test_a_busy_machine_misses_its_target_and_a_wrong_answer_fails_the_run() -> None:
    busy = stage(query_ms=3)
    busy.run.system_cpu = 0.66
    assert [finding.text for finding in judge([busy]) if not finding.met] == ["mixed: machine 66% busy (target 65%)"]
    assert judge_answers("mixed", Witness(checked=9)).met
    wrong = Witness(checked=9)
    wrong.read("m", 1, source="cache", before={}, token=2)
    assert not judge_answers("mixed", wrong).met
    assert not judge_answers("mixed", Witness(unread=1)).met


def test_the_page_draws_the_targets_and_no_percentile_of_few(tmp_path: Path) -> None:
    few = stage(query_ms=3)
    report = document([few], judge([few]), settings={}, ratios=[])
    write_report(tmp_path, report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('class="limit"') == 2 * len(TARGETS.p99_ms)
    assert "p99 ms" in page
    assert "p99.9 ms" not in page  # of 1,000
    assert "| - |" in markdown(report)


def test_a_history_file_gives_the_same_keys_each_time_and_names_a_broken_line(tmp_path: Path) -> None:
    line = (
        b'{"member": {"card": "1"}, "store": "3", "till": "1", "receipt": "9", "occurred_at": "2026-01-01T00:00:00Z"}\n'
    )
    path = tmp_path / "purchases.jsonl"
    path.write_bytes(line + b"\n" + line)
    first, second = read_json_lines([path])
    assert first == second
    path.write_bytes(line + b'{"store": "330"}\n')
    with pytest.raises(HistoryError, match="line 2"):
        list(read_json_lines([path]))


def test_a_history_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.jsonl"):
        with pytest.raises(HistoryError, match=path.name):
            list(read_json_lines([path]))


def test_what_one_of_many_met_is_told_in_its_words() -> None:
    met = ExceptionGroup("two tasks", [ExceptionGroup("one task", [HistoryError("a.jsonl, line 2: no purchase")])])
    with pytest.raises(ClusterError, match=r"^a\.jsonl, line 2: no purchase$"), plain_errors():
        raise met
    with pytest.raises(ExceptionGroup), plain_errors():
        raise ExceptionGroup("a fault of ours", [KeyError("x")])


async def test_the_window_halves_once_and_grows_slowly() -> None:
    window = Window(size=16, size_max=64)
    window.overloaded()
    window.overloaded()
    assert window.size == 8
    for _ in range(8):
        window.succeeded()
    assert 8.9 < window.size < 9.1


async def test_the_window_grows_fast_until_it_is_too_large_for_the_first_time() -> None:
    window = Window(size=16, size_max=64)
    for _ in range(100):
        window.succeeded()
    assert window.size == 64


@asynccontextmanager
async def shop(answered: Callable[[str], Awaitable[None]]) -> AsyncGenerator[Deployment]:
    """A node of one region that accepts every purchase, once `answered` returns for its key."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            start = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = dict(line.split(": ", 1) for line in start.split("\r\n")[1:-2])
            await reader.readexactly(int(lines.get("Content-Length", 0)))
            await answered(lines.get("Idempotency-Key", ""))
            body = b'{"points_earned":1,"purchase_id":"p","account":{"member_id":"m","version":1}}'
            writer.write(head("201 Created", "Loyalty-Region: eu", f"Content-Length: {len(body)}") + body)

    async with listening(serve) as url:
        nodes = {"command_nodes": [url], "query_nodes": [url]}
        deployment = Deployment.of_status({"keys": {"admin": "key"}, "regions": {"eu": nodes}})
        try:
            yield deployment
        finally:
            deployment.regions["eu"].close()


async def test_nobody_waits_for_another_shopper_and_each_posts_in_order() -> None:
    posted: list[str] = []
    ben_came = asyncio.Event()

    async def answered(key: str) -> None:
        posted.append(key.removeprefix("replay-"))
        if key == "replay-ben-0":
            ben_came.set()
        await ben_came.wait()

    shoppers = ["ada"] * 200 + ["ben"] * 3
    events = [
        Purchase(shopper, "330", f"{shopper}-{number % 200}", {"member": {"card": shopper}})
        for number, shopper in enumerate(shoppers)
    ]
    async with shop(answered) as deployment, asyncio.timeout(60):
        board = Board(["eu"], None)
        plan = ReplayPlan(stores={}, homes={}, read_share=0.0, probe_share=0.0)
        await Replay(deployment, plan, board).run(events)
    for shopper, count in (("ada", 200), ("ben", 3)):
        own = [key for key in posted if key.startswith(shopper)]
        assert own == [f"{shopper}-{number}" for number in range(count)]
    assert board.purchases == board.baskets == 203


@pytest.fixture
def clock() -> Callable[[], float]:
    times = iter(range(100, 200))
    return lambda: float(next(times))


def test_the_board_knows_who_was_forwarded(clock: Callable[[], float]) -> None:
    board = Board(["eu", "us"], None, clock)
    board.posted("eu", 0.010, decided_in="eu")
    board.posted("eu", 0.020, decided_in="us")
    assert board.regions["eu"].forwarded_share == 0.5
    assert board.regions["us"].forwarded_share == 0.0
    assert board.regions["eu"].rates(104.0)[-3:] == [1, 1, 0]


def test_a_sparkline_leaves_gaps_where_nothing_was() -> None:
    assert sparkline([0, 1, 8], top=8) == " ▁█"
