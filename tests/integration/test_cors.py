"""Pages of configured origins may ask this node, those of others may not."""

from pathlib import Path

import pytest
from aiohttp import web

from edge.decision import MEMBER_HEADER
from service.cors import vary
from service.settings import NodeSettings
from shard_router.errors import DocumentError
from tests.http_node import Answer, Node, running_node

HOME = "https://app.example"
PREFLIGHT = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization,idempotency-key")


async def preflight(node: Node, origin: str, target: str = "/thing", *headers: str) -> Answer:
    """As a browser asks: without a credential."""
    head = [f"OPTIONS {target} HTTP/1.1", "Host: node", f"Origin: {origin}", *(headers or PREFLIGHT), "", ""]
    return await node.send("\r\n".join(head).encode(), bodiless=True)


def listed(answer: Answer, name: str) -> set[str]:
    return {item.strip().lower() for item in answer.headers.get(name, "").split(",")}


@pytest.mark.parametrize("origins", [(HOME,), ("https://other.example", HOME), ("*",)])
async def test_a_browser_is_told_what_a_page_may_send(tmp_path: Path, origins: tuple[str, ...]) -> None:
    async with running_node(tmp_path, cors_origins=origins) as node:
        answer = await preflight(node, HOME)
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == HOME
        assert listed(answer, "Access-Control-Allow-Methods") == {"get", "head"}
        assert listed(answer, "Access-Control-Allow-Headers") >= {
            "authorization", "content-type", "idempotency-key", "consistency-token", "if-none-match", "last-event-id",
            "request-id", "traceparent", "loyalty-deadline-ms", MEMBER_HEADER,
        }  # fmt: skip
        assert "origin" in listed(answer, "Vary")
        assert {"Request-Id", "Loyalty-Region"} <= set(answer.headers)


@pytest.mark.parametrize(
    ("target", "methods"),
    [
        ("/v1/transfers", {"post"}),
        ("/v1/members/042D00BFXR71NV", {"delete", "get", "head"}),
        ("/v1/holds/hld_x/void", {"post"}),
        ("/v1/evaluations", {"post"}),
    ],
)
async def test_a_page_is_told_of_the_other_sides_calls_too(tmp_path: Path, target: str, methods: set[str]) -> None:
    """A door sends what a browser asks before it sends to a query node. This node has none of these calls."""
    async with running_node(tmp_path, cors_origins=(HOME,)) as node:
        answer = await preflight(node, HOME, target)
        assert (answer.status, listed(answer, "Access-Control-Allow-Methods")) == (204, methods)


async def test_a_page_may_read_answers_and_refusals_and_their_headers(tmp_path: Path) -> None:
    async with running_node(tmp_path, cors_origins=(HOME,)) as node:
        origin = f"Origin: {HOME}"
        good = await node.send(node.request(b"", origin, method="GET", target="/thing"))
        unknown = await node.send(node.request(b"", origin, method="GET", target="/thing", credential="x"))
        missing = await node.send(node.request(b"", origin, method="GET", target="/nothing"))
        for answer, status in ((good, 200), (unknown, 401), (missing, 404)):
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == HOME
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert listed(answer, "Access-Control-Expose-Headers") >= {
                "etag", "request-id", "consistency-token", "loyalty-region", "loyalty-source", "retry-after",
                "idempotent-replayed",
            }  # fmt: skip


@pytest.mark.parametrize("origin", ["https://app.example.evil", "http://app.example", "null", "https://APP.example"])
async def test_a_page_of_another_origin_is_told_nothing(tmp_path: Path, origin: str) -> None:
    async with running_node(tmp_path, cors_origins=(HOME,)) as node:
        asked = await preflight(node, origin)
        assert asked.status == 401
        answer = await node.send(node.request(b"", f"Origin: {origin}", method="GET", target="/thing"))
        assert answer.status == 200
        for one in (asked, answer):
            assert not [name for name in one.headers if name.startswith("Access-Control")]
            assert "origin" in listed(one, "Vary")


async def test_without_origins_nobody_is_let_in(tmp_path: Path) -> None:
    async with running_node(tmp_path) as node:
        assert (await preflight(node, HOME)).status == 401
        answer = await node.send(node.request(b"", f"Origin: {HOME}", method="GET", target="/thing"))
        assert {"Access-Control-Allow-Origin", "Vary"} & set(answer.headers) == set()


@pytest.mark.parametrize(("target", "headers"), [("/nothing", ()), ("/thing", ("Accept: x",))])
async def test_what_is_no_preflight_needs_a_credential_like_everything(
    tmp_path: Path, target: str, headers: tuple[str, ...]
) -> None:
    async with running_node(tmp_path, cors_origins=(HOME,)) as node:
        assert (await preflight(node, HOME, target, *headers)).status == 401


def settings(monkeypatch: pytest.MonkeyPatch, origins: str) -> NodeSettings:
    values = {"REGION": "eu", "PORT": "1", "TOPOLOGY": "t", "CREDENTIALS": "c", "CORS_ORIGINS": origins}
    for name, value in values.items():
        monkeypatch.setenv(f"LOYALTY_{name}", value)
    return NodeSettings.load(None)


def test_origins_are_listed_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = settings(monkeypatch, "https://a.example, http://localhost:5173 *")
    assert listed.cors_origins == ("https://a.example", "http://localhost:5173", "*")


@pytest.mark.parametrize("origins", ["app.example", "https://app.example/", "https://*.example", "null"])
def test_what_is_no_origin_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    with pytest.raises(DocumentError, match="cors_origins"):
        settings(monkeypatch, origins)


def test_what_an_answer_varies_by_is_named_once() -> None:
    """A forwarded answer comes with what its home region said."""
    answer = web.Response(headers={"Vary": "Origin"})
    for name in ("Origin", "Accept-Encoding", "Origin"):
        vary(answer, name)
    assert answer.headers["Vary"] == "Origin, Accept-Encoding"
