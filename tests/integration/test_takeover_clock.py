"""A standby takes over with a clock that is off from the old primary's: no member goes back in time."""

import json
import os
import re
import signal
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from benchmarks import chaos_clock
from cluster import postgres
from cluster.plan import ServerPlan
from cluster.postgres import PostgresTools
from cluster.process import ProcessSpec
from command.program import apply_program
from query.replica import Server
from shard_router.directory import Directory
from shard_router.errors import ProblemError
from shard_router.member_id import new_member_id
from shard_router.pool import ShardPools, ShardServers
from shard_router.topology import TopologyWatch
from tests.command_node import GOLD, SILVER, RunningNode, basket, running_command_node, told
from tests.conftest import eventually
from tests.engine import PostgresServer, embedded_postgres, engine_name, in_database, server_folder
from tests.long import long

PRIMARY, STANDBY = SERVERS = ("postgres-1", "postgres-2")


@dataclass
class Takeover:
    """A pair whose servers go by the clocks of two files."""

    server: PostgresServer
    clocks: Path

    async def database(self) -> tuple[str, str]:
        """A new database, at the primary and at the standby."""
        database = await self.server.create_database()
        assert self.server.standby_url
        return database, in_database(self.server.standby_url, database.rpartition("/")[2])

    async def happen(self, off_s: int) -> None:
        """Kill the primary; the standby takes over, its clock off."""
        assert self.server.standby_url
        primary = await asyncpg.connect(self.server.url)
        folder = await primary.fetchval("SHOW data_directory")
        os.kill(int((Path(folder) / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        primary.terminate()
        self.set(off_s)
        standby = await asyncpg.connect(self.server.standby_url)
        await standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        assert await standby.fetchval("SELECT pg_promote()")
        await standby.close()

    def set(self, off_s: int, *servers: str) -> None:
        """Have the clocks of these servers be off, or of both."""
        for server in servers or SERVERS:
            chaos_clock.set_server(self.clocks, server, off_s)


PHONE = ("phone", "+4930123456")
FAR_S = 9
"""Within what a node corrects: one server ahead and the next one behind are 18 s apart."""


@pytest.fixture
async def takeover(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Takeover]:
    if engine_name() != "embedded":
        pytest.skip("only embedded servers go by the clock of a file")
    if not (library := chaos_clock.library(name=chaos_clock.OF_ONE_THREAD)):
        pytest.skip("this machine has no libfaketime")
    with server_folder() as folder:
        plain = postgres.postgres_process

        def by_its_clock(tools: PostgresTools, server: ServerPlan, **given: Any) -> ProcessSpec:
            spec = plain(tools, server, **given)
            return replace(spec, env={**spec.env, **chaos_clock.environment(folder / server.name, library)})

        monkeypatch.setattr(postgres, "postgres_process", by_its_clock)
        async with embedded_postgres(standby=True) as server:
            yield Takeover(server, folder)


async def server_is(url: str, off_s: int) -> None:
    """Wait until a server's clock is off by so much: it reads the file once a second."""

    async def is_off() -> bool:
        server = await asyncpg.connect(url)
        now = await server.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        await server.close()
        return abs(now - time.time() - off_s) < 1

    await eventually(is_off)


async def node_says(node: RunningNode, off_s: int) -> None:
    """Wait until a node has noticed that the primary's clock is off by so much."""

    async def noticed() -> bool:
        words = (await told(node, "/readyz?verbose"))[1]
        found = re.search(r"clock: ([+-][0-9.]+) s from the primary of eu-1", words)
        return found is not None and abs(float(found[1]) + off_s) < 1

    await eventually(noticed)


async def gives(node: RunningNode, member: str) -> bool:
    return (await node.give(member, 1)).status == 201


@pytest.mark.parametrize("off_s", [*(pytest.param(off_s, marks=long) for off_s in (-5, 5, -60, 3600)), 60, -3600])
async def test_no_member_goes_back_in_time_when_a_server_with_another_clock_takes_over(
    takeover: Takeover, tmp_path: Path, off_s: int
) -> None:
    database, standby = await takeover.database()
    async with running_command_node(database, tmp_path, standby=standby) as node, node.inner.pools.watched():
        member = (await node.enrol())["member_id"]
        assert await gives(node, member)
        hold = (await node.post("/v1/holds", {"member": {"member_id": member}, "points": 1})).json["hold_id"]
        await takeover.happen(off_s)

        server = await asyncpg.connect(standby)
        before = await server.fetchval("SELECT count(*) FROM journal")
        await node_says(node, off_s)
        if abs(off_s) > 10:
            refused = await node.give(member, 1)
            assert (refused.status, refused.code, refused.json["retryable"]) == (503, "shard_unavailable", True)
            assert "clock" in refused.json["detail"]
            assert await server.fetchval("SELECT count(*) FROM journal") == before
            takeover.set(0)
        await eventually(lambda: gives(node, member))
        voided = await node.post(f"/v1/holds/{hold}/void")
        assert voided.status in {200, 201}, voided.body
        times = [row["recorded_at"] for row in await server.fetch("SELECT recorded_at FROM journal ORDER BY version")]
        assert times == sorted(times)
        assert len(times) == before + 2
        await server.close()


@pytest.mark.parametrize(
    ("before_s", "after_s", "code"),
    [(-FAR_S, FAR_S, "in_progress"), pytest.param(0, 3600, "shard_unavailable", marks=long)],
)
async def test_a_phone_that_is_leased_is_nobody_elses_when_a_server_with_another_clock_takes_over(
    takeover: Takeover, tmp_path: Path, before_s: int, after_s: int, code: str
) -> None:
    """The command that leased it may be about to create its member: a second one must not."""
    takeover.set(before_s)
    await server_is(takeover.server.url, before_s)
    database, standby = await takeover.database()
    regions = {"eu": {"number": 1, "command": [], "query": []}}
    shard = {"region": "eu", "slots": [[0, 4095]], "servers": [database, standby], "valkey": "redis://none"}
    file = tmp_path / "topology.json"
    file.write_text(json.dumps({"epoch": 1, "regions": regions, "shards": {"eu-1": shard}}))
    watch = TopologyWatch(file)
    pools = ShardPools(watch, size_max=5, statement_timeout_ms=500)
    directory = Directory(watch, pools)
    assert await directory.lease([PHONE], new_member_id(1, 1)) == []
    await takeover.happen(after_s)
    await server_is(takeover.server.standby_url, after_s)
    refusals: list[str] = []

    async def refused() -> bool:
        with pytest.raises(ProblemError) as problem:
            await directory.lease([PHONE], new_member_id(1, 2))
        refusals.append(f"{problem.value.code}: {problem.value.detail}")
        return refusals[-1].startswith(code) and ("clock" in refusals[-1] or code == "in_progress")

    await eventually(refused)
    await pools.close()


async def test_lots_tiers_and_the_program_stay_as_they_were_when_a_server_that_is_behind_takes_over(
    takeover: Takeover, tmp_path: Path
) -> None:
    takeover.set(FAR_S)
    await server_is(takeover.server.url, FAR_S)
    database, standby = await takeover.database()
    async with (
        running_command_node(database, tmp_path, program=SILVER, standby=standby) as node,
        node.inner.pools.watched(),
    ):
        await node_says(node, FAR_S)
        member = {"member_id": (await node.enrol())["member_id"]}
        primary = await asyncpg.connect(database)
        now = await primary.fetchval("SELECT now()")
        await apply_program([database], GOLD, now)
        soon = (now + timedelta(seconds=1)).isoformat()
        for times in ({"pending_until": soon}, {"expires_at": soon}):
            given = await node.post("/v1/adjustments", {"member": member, "points": 50, "reason": "test"} | times)
            assert given.status == 201, given.body
        for receipt in ("1", "2"):
            bought = await node.post("/v1/purchases", basket(member, receipt))
        assert bought.json["account"]["tier"]["code"] == "gold"
        kinds = "SELECT count(*) FROM journal WHERE kind IN ('points_activated', 'points_expired')"

        async def over() -> bool:
            assert await gives(node, member["member_id"])
            return await primary.fetchval(kinds) == 2

        await eventually(over)
        given = await primary.fetchval("SELECT count(*) FROM journal WHERE kind = 'points_adjusted'") - 2
        primary.terminate()
        await takeover.happen(-FAR_S)
        await node_says(node, -FAR_S)
        bought = await node.post("/v1/purchases", basket(member, "3"))
        account = bought.json["account"]
        assert account["tier"]["code"] == "gold"
        assert (account["balance"]["available"], account["balance"]["pending"]) == (3 * 13 + 50 + given, 0)


@pytest.mark.parametrize("off_s", [FAR_S, -FAR_S])
async def test_how_far_a_standby_is_behind_is_told_by_the_primarys_clock(takeover: Takeover, off_s: int) -> None:
    url, standby_url = takeover.server.url, takeover.server.standby_url
    assert standby_url
    takeover.set(off_s, STANDBY)
    await server_is(standby_url, off_s)
    servers = ShardServers("eu-1", [url, standby_url], size_max=2, statement_timeout_ms=500)
    primary, standby = await asyncpg.connect(url), await asyncpg.connect(standby_url)
    replica = Server(servers, "replica", lag_ms_max=0, timeout_ms=500)

    async def is_behind() -> bool:
        await replica._measure()
        return replica._lag_ms != 0

    async def replayed_at() -> Any:
        return await standby.fetchval("SELECT pg_last_xact_replay_timestamp()")

    async def age_ms() -> float:
        question = "SELECT extract(epoch FROM clock_timestamp() - $1)::float8"
        return 1_000 * await primary.fetchval(question, await replayed_at())

    await primary.execute("CREATE TABLE replayed ()")
    await eventually(replayed_at)
    await standby.execute("SELECT pg_wal_replay_pause()")
    try:
        await primary.execute("CREATE TABLE not_replayed ()")
        await servers.look_again()
        await eventually(is_behind)
        before_ms = await age_ms()
        await is_behind()
        assert before_ms - 1_000 < replica._lag_ms < await age_ms() + 1_000
    finally:
        await standby.execute("SELECT pg_wal_replay_resume()")
        await primary.close()
        await standby.close()
        await servers.close()
