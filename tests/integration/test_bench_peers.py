"""What stands beside ours in a benchmark is measured on servers with users, and a failure is told in its row."""

import os
import shutil

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.cpu import BACKEND
from benchmarks.peer import Peers, find_pgbench, measure_naive, measure_pgbench, measure_valkey, measure_wrk
from benchmarks.ratio import told
from benchmarks.wire import Client
from tests import engine
from tests.engine import PostgresServer
from tests.query_servers import own_valkey

NOTHING = Peers(None, None, None)


@pytest.mark.parametrize("role", ["query", "projector"])
async def test_valkey_is_asked_for_what_its_users_may_read(role: engine.ValkeyRole) -> None:
    if engine.engine_name() != "embedded":
        pytest.skip("the users are those of our own servers")
    async with own_valkey() as server:
        peers = Peers(None, engine.as_valkey_user(server.url, role), None)
        peak = await measure_valkey(peers, duration_s=1)
    assert peak.per_s > 0


async def test_pgbench_leaves_nothing_behind(postgres_server: PostgresServer) -> None:
    peers = Peers(postgres_server.url, None, find_pgbench())
    peak = await measure_pgbench(peers, duration_s=1)
    assert peak.per_s > 0
    assert "synchronous_commit on" in peak.how
    connection = await asyncpg.connect(postgres_server.url)
    assert await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname LIKE 'loyalty_bench%'") == 0
    await connection.close()


async def test_the_naive_service_answers_every_purchase(postgres_server: PostgresServer) -> None:
    peak = await measure_naive(Peers(postgres_server.url, None, None, os.getpid()), duration_s=0.5)
    assert peak.per_s > 0
    assert peak.how.endswith("connections")  # else it names what failed
    assert peak.cpu_us["node"] > 0
    assert BACKEND in peak.cpu_us


async def test_wrk_shows_the_credential_to_the_server() -> None:
    if shutil.which("wrk") is None:
        pytest.skip("no wrk on the PATH")
    seen: set[str] = set()

    async def answer(request: web.Request) -> web.Response:
        seen.add(request.headers.get("Authorization", ""))
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/account", answer)
    async with TestServer(app) as server:
        client = Client(str(server.make_url("")).rstrip("/"), "the-key")
        peak = await measure_wrk(client, "/account", duration_s=1)
    assert peak.per_s > 0
    assert seen == {"Bearer the-key"}


async def test_a_peer_that_is_not_there_has_a_row_that_says_why() -> None:
    row = await told(measure_valkey(NOTHING, duration_s=30), "the cache", of="ours")
    assert (row.per_s, row.how) == (0.0, "not measured: LookupError: no Valkey at hand")
    gone = Peers(None, "redis://127.0.0.1:1/0", None)
    row = await told(measure_valkey(gone, duration_s=30), "the cache", of="ours")
    assert row.how.startswith("not measured: ConnectionError")
