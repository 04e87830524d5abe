"""Every answer's Request-Id is in a log line of the node that did the work; callers may bring their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.http_node import Answer, Node, running_node

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def lines_of(captured: str) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in captured.splitlines()]
    return {line["request_id"]: line for line in lines if line["event"] == "answered"}


async def ask(node: Node, target: str = "/thing", *headers: str, method: str = "GET") -> Answer:
    return await node.send(node.request(b"", *headers, method=method, target=target))


async def test_each_answer_has_its_line_whatever_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running_node(tmp_path) as node:
        answers = {
            ("GET", "/thing", 200): await ask(node),
            ("GET", "none", 404): await ask(node, "/v1/members/4711/nothing"),
            ("DELETE", "none", 405): await ask(node, method="DELETE"),
            ("GET", "/thing", 400): await ask(node, "/thing?secret=1"),
            ("GET", "/thing", 401): await node.send(b"GET /thing HTTP/1.1\r\nHost: node\r\n\r\n"),
            ("UNKNOWN", "none", 400): await node.send(b"GARBAGE\r\n\r\n"),
        }
        probe = await node.send(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n")
    captured = capfd.readouterr().err
    lines = lines_of(captured)
    for (method, route, status), answer in answers.items():
        assert answer.status == status
        line = lines[answer.headers["Request-Id"]]
        assert (line["method"], line["route"], line["status"], line["region"]) == (method, route, status, "eu")
    assert lines[answers["GET", "/thing", 200].headers["Request-Id"]]["credential"] in node.keys["service"]
    assert probe.headers["Request-Id"] not in lines
    assert not {"4711", "secret", node.keys["service"]} & set(captured.replace("/", '"').split('"'))


async def test_a_members_line_does_not_name_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running_node(tmp_path) as node:
        answer = await node.send(node.request(b"", method="GET", target="/thing", credential=node.member_token(1)))
    assert lines_of(capfd.readouterr().err)[answer.headers["Request-Id"]]["credential"] == "member"


@pytest.mark.parametrize(
    ("headers", "request_id", "trace_id"),
    [
        (["Request-Id: 2f6d1a1c-0b5e-4c5c-9d3f-1b2a3c4d5e6f"], "2f6d1a1c-0b5e-4c5c-9d3f-1b2a3c4d5e6f", None),
        ([f"traceparent: {TRACEPARENT}"], TRACE, TRACE),
        (["Request-Id: till-7:431", f"traceparent: {TRACEPARENT}"], "till-7:431", TRACE),
        (["Request-Id: a b"], None, None),
        (["Request-Id: " + "a" * 65], None, None),
        (['Request-Id: "},{"'], None, None),
        (["traceparent: 00-" + "0" * 32 + "-00f067aa0ba902b7-01"], None, None),
        (["traceparent: rubbish"], None, None),
    ],
)
async def test_a_callers_own_id_and_trace_are_taken_over(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    headers: list[str],
    request_id: str | None,
    trace_id: str | None,
) -> None:
    async with running_node(tmp_path) as node:
        answer = await ask(node, "/thing", *headers)
    answered = answer.headers["Request-Id"]
    assert answered == request_id if request_id else answered not in " ".join(headers)
    assert lines_of(capfd.readouterr().err)[answered].get("trace_id") == trace_id


async def test_more_lines_than_are_held_are_all_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running_node(tmp_path) as node:
        answers = [await ask(node) for _ in range(300)]
    lines = lines_of(capfd.readouterr().err)
    assert {answer.headers["Request-Id"] for answer in answers} <= set(lines)


async def test_a_node_that_logs_warnings_only_writes_no_such_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_node(tmp_path, log_level="warning") as node:
        await ask(node)
    assert capfd.readouterr().err == ""
