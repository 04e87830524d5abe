"""Schemathesis finds nothing on either node: every check of its own, on the document as published.

`make test` gives it some seconds, one seed and an admin's key; `make fuzz` gives every role minutes. Members and
purchases of the examples exist, so that answers are held to their schemas too.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.shape import MEMBER_EXAMPLE
from shard_router.member_id import parse_member_id
from tests.command_node import RunningNode, basket, running_command_node
from tests.query_world import ShardPlace, World, open_world

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
SECONDS = int(os.environ.get("LOYALTY_CAMPAIGN_S", "8"))
ROLES = ("admin",) if SECONDS < 30 else ("admin", "service", "pos", "till330", "member")
WHO_EXAMPLE = '{"phone":"+4930123456"}'

pytestmark = [
    pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="Schemathesis is not installed here"),
    pytest.mark.timeout(SECONDS * 3 + 120),
]


@dataclass(frozen=True, slots=True)
class Nodes:
    """Both nodes on one database, and what exists there in place of the examples."""

    command: RunningNode
    query: World
    existing: dict[str, str]
    doomed: str


@pytest.fixture
async def nodes(tmp_path: Path, database: str, valkey_url: str) -> AsyncGenerator[Nodes]:
    folders = [tmp_path / "command", tmp_path / "query"]
    for folder in folders:
        folder.mkdir()
    async with (
        running_command_node(database, folders[0]) as command,
        open_world(folders[1], {"eu-1": ShardPlace([database], valkey_url)}) as query,
    ):
        member, doomed = await command.enrol(name="Ada"), await command.enrol()
        await command.give(member["member_id"], 7_000)
        bought = (await command.post("/v1/purchases", basket({"card": member["card"]}, "1"))).json
        existing = {
            f"pur_{MEMBER_EXAMPLE}-7": bought["purchase_id"],
            MEMBER_EXAMPLE: member["member_id"],
            WHO_EXAMPLE: f'{{"card":"{member["card"]}"}}',
            "berlin-mitte": "330",
        }
        yield Nodes(command, query, existing, doomed["member_id"])


@pytest.mark.parametrize("role", ROLES)
async def test_schemathesis_finds_nothing_on_a_command_node(nodes: Nodes, tmp_path: Path, role: str) -> None:
    member_token = nodes.command.as_member(nodes.existing[MEMBER_EXAMPLE])
    await campaign(nodes, nodes.command.url, nodes.command.keys[member_token if role == "member" else role], tmp_path)


@pytest.mark.parametrize("role", ROLES)
async def test_schemathesis_finds_nothing_on_a_query_node(nodes: Nodes, tmp_path: Path, role: str) -> None:
    key = (
        nodes.query.member_token(parse_member_id(nodes.existing[MEMBER_EXAMPLE]))
        if role == "member"
        else nodes.query.keys[role]
    )
    await campaign(nodes, nodes.query.nodes["eu"], key, tmp_path)


async def campaign(nodes: Nodes, url: str, key: str, folder: Path) -> None:
    """Run Schemathesis against a node and show what it found."""
    document = folder / "openapi.json"
    document.write_text(json.dumps(await published(nodes, url)))
    process = await asyncio.create_subprocess_exec(
        str(SCHEMATHESIS), "run", str(document), "--url", url, "--header", f"Authorization: Bearer {key}",
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--continue-on-failure", "--no-color",
        "--max-time", str(SECONDS), "--max-examples", str(SECONDS), "--seed", "1", "--warnings", "off",
        "--generation-database", "none", "--exclude-operation-id", "stream_account",  # its answer does not end
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.openapi_campaign", "PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()[-12_000:]


async def published(nodes: Nodes, url: str) -> dict[str, Any]:
    """The document of a node with examples that exist; the membership that is ended is not that of the others."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/openapi.json") as answer:
        text = await answer.text()
    for example, one in nodes.existing.items():
        text = text.replace(example, one)
    document = json.loads(text)
    for parameter in document["paths"].get("/v1/members/{member_id}", {}).get("delete", {}).get("parameters", []):
        if parameter["name"] == "member_id":
            parameter["schema"]["examples"] = [nodes.doomed]
    return document
