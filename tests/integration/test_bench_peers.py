"""What stands beside ours in a benchmark is measured on servers with users, and a failure is told in its row."""

import pytest

from benchmarks.ratio import Peers, find_pgbench, measure_pgbench, measure_valkey, told
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
        per_s, _ = await measure_valkey(peers, duration_s=0.2)
    assert per_s > 0


async def test_pgbench_leaves_nothing_behind(postgres_server: PostgresServer) -> None:
    peers = Peers(postgres_server.url, None, find_pgbench())
    per_s, how = await measure_pgbench(peers, duration_s=1)
    assert per_s > 0
    assert "synchronous_commit on" in how


async def test_a_peer_that_is_not_there_has_a_row_that_says_why() -> None:
    row = await told(measure_valkey(NOTHING, duration_s=1), "the cache", of="ours")
    assert (row.per_s, row.how) == (0.0, "not measured: LookupError: no Valkey at hand")
    gone = Peers(None, "redis://127.0.0.1:1/0", None)
    row = await told(measure_valkey(gone, duration_s=1), "the cache", of="ours")
    assert row.how.startswith("not measured: ConnectionError")
