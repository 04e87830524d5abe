"""Whoever sends a command to a query node, or asks a command node, is told so: a till with a wrong address sees it."""

from pathlib import Path

import pytest

from tests.command_node import running_command_node
from tests.engine import ValkeyServer
from tests.query_world import ShardPlace, open_world

NOWHERE = ["postgresql://nobody:x@127.0.0.1:1/none"]


async def test_a_command_node_names_the_nodes_that_answer_queries(database: str, tmp_path: Path) -> None:
    async with running_command_node(database, tmp_path) as node:
        reply = await node.post("/v1/evaluations", {})
        assert (reply.status, reply.code) == (404, "not_found")
        assert "query nodes" in reply.json["detail"]
        unknown = await node.post("/v1/evaluation", {})
        assert (unknown.status, unknown.json["detail"]) == (404, "Not Found")


@pytest.mark.parametrize("path", ["/v1/purchases", "/v1/holds/hld_1/capture"])
async def test_a_query_node_names_the_nodes_that_take_commands(
    path: str, valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    async with open_world(tmp_path, {"eu-1": ShardPlace(NOWHERE, await valkey_server.fresh_url())}) as world:
        reply = await world.post(path, {})
        assert reply.status == 404
        assert "command nodes" in reply.json["detail"]
