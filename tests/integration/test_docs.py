"""The page at /docs: served by the node itself, complete without any other host, on both nodes."""

import asyncio
import gzip
import shutil
from collections.abc import AsyncGenerator
from html import unescape
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.command_node import running_command_node
from tests.query_world import ShardPlace, open_world

BOTH = ("commands/openapi.json", "openapi.json")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
async def urls(tmp_path: Path, database: str, valkey_url: str) -> AsyncGenerator[dict[str, str]]:
    folders = [tmp_path / name for name in ("command", "query")]
    for folder in folders:
        folder.mkdir()
    async with (
        running_command_node(database, folders[0]) as command,
        open_world(folders[1], {"eu-1": ShardPlace([database], valkey_url)}) as query,
    ):
        yield {"Enrol a member": command.url, "What a basket would bring, and why": query.nodes["eu"]}


async def test_every_node_serves_the_page_and_its_script_without_a_credential(urls: dict[str, str]) -> None:
    async with ClientSession(auto_decompress=False) as session:
        for url in urls.values():
            async with session.get(f"{url}/", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (302, "docs")
                assert "/openapi.json" in await answer.text()
            async with session.get(f"{url}/docs") as answer:
                page = await answer.text()
                assert (answer.status, answer.content_type) == (200, "text/html")
                assert "default-src 'none'; script-src 'self'" in answer.headers["Content-Security-Policy"]
            assert "http" not in page
            async with session.get(f"{url}/docs/scalar.js") as answer:
                script = gzip.decompress(await answer.read())
                assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip")
            assert b"scalar" in script[:100_000].lower()
            kept = {"If-None-Match": answer.headers["ETag"]}
            async with session.get(f"{url}/docs/scalar.js", headers=kept) as answer:
                assert answer.status == 304


async def test_the_document_is_packed_once_for_all_who_take_it_so(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no credential: packed for each, a thousand strangers had a node killed as silent."""
    packed: list[int] = []
    compress = gzip.compress

    def note(data: bytes, level: int = 9, *, mtime: float | None = None) -> bytes:
        packed.append(len(data))
        return compress(data, level, mtime=mtime)

    monkeypatch.setattr(gzip, "compress", note)
    async with ClientSession(auto_decompress=False) as session:

        async def get(url: str, accepted: str) -> tuple[str | None, bytes]:
            async with session.get(f"{url}/openapi.json", headers={"Accept-Encoding": accepted}) as answer:
                assert (answer.status, answer.headers["Vary"]) == (200, "Accept-Encoding")
                return answer.headers.get("Content-Encoding"), await answer.read()

        for url in urls.values():
            packed.clear()
            answers = set(await asyncio.gather(*(get(url, accepted) for accepted in ("gzip", "identity") * 10)))
            assert len(packed) == 1
            assert {coding: body if coding is None else gzip.decompress(body) for coding, body in answers} == {
                "gzip": (plain := next(body for coding, body in answers if coding is None)),
                None: plain,
            }


async def test_a_page_that_is_asked_through_a_door_names_the_documents_of_both_sides(urls: dict[str, str]) -> None:
    async with ClientSession(headers={"Loyalty-Door": "1"}) as session:
        for url in urls.values():
            async with session.get(f"{url}/docs") as answer:
                page = unescape(await answer.text())
                assert [page.count(f'"url":"{path}"') for path in BOTH] == [1, 1]
            async with session.get(f"{url}/", allow_redirects=False) as answer:
                words = await answer.text()
                assert all(f"/{path}" in words for path in BOTH)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
async def test_a_browser_that_reaches_no_other_host_shows_every_call(urls: dict[str, str], tmp_path: Path) -> None:
    for summary, url in urls.items():
        dom = await shown(f"{url}/docs", tmp_path)
        assert summary in dom
        assert "Document" in dom  # of "Download OpenAPI Document": the page was drawn, not only its noscript


async def shown(url: str, folder: Path) -> str:
    """What a headless browser makes of a page."""
    process = await asyncio.create_subprocess_exec(
        CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'browser'}",
        "--virtual-time-budget=20000", "--dump-dom", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(90):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode()
