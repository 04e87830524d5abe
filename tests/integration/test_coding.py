"""Bodies of more than a kilobyte travel compressed to whoever takes it."""

import gzip
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.http_node import Node, running_node

LONG = "/thing?a=" + "x" * 2_000
SHORT = "/thing?a=x"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncGenerator[Node]:
    async with running_node(tmp_path) as running:
        yield running


@pytest.mark.parametrize("accepted", ["gzip", "GZIP", "br;q=1.0, gzip;q=0.8, *;q=0.1", "*", "deflate,gzip"])
async def test_a_long_answer_is_compressed(node: Node, accepted: str) -> None:
    plain = await node.send(node.request(b"", method="GET", target=LONG))
    packed = await node.send(node.request(b"", f"Accept-Encoding: {accepted}", method="GET", target=LONG))
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 4
    assert gzip.decompress(packed.body) == plain.body
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip; q=0.000, *", "*;q=0", "gzip;q=0.0,br"])
async def test_whoever_does_not_take_it_gets_it_plain(node: Node, accepted: str) -> None:
    answer = await node.send(node.request(b"", f"Accept-Encoding: {accepted}", method="GET", target=LONG))
    assert "Content-Encoding" not in answer.headers
    assert answer.json["query"]["a"] == "x" * 2_000


async def test_a_short_answer_stays_plain(node: Node) -> None:
    answer = await node.send(node.request(b"", "Accept-Encoding: gzip", method="GET", target=SHORT))
    assert answer.json == {"query": {"a": "x"}}
    assert "Vary" not in answer.headers


async def test_head_has_the_length_of_what_get_would_send(node: Node) -> None:
    given = "Accept-Encoding: gzip"
    got = await node.send(node.request(b"", given, method="GET", target=LONG))
    head = await node.send(node.request(b"", given, method="HEAD", target=LONG), bodiless=True)
    assert head.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.body))
