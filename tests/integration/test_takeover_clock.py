"""A standby takes over with a clock that is off from the old primary's: no member goes back in time."""

import os
import re
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from benchmarks import chaos_clock
from cluster import postgres
from tests.command_node import RunningNode, running_command_node
from tests.conftest import eventually
from tests.engine import PostgresServer, embedded_postgres, engine_name, in_database, server_folder
from tests.integration.test_clock import told
from tests.long import long


@dataclass
class Takeover:
    """A pair whose servers go by the clock of a file."""

    server: PostgresServer
    clock: Path

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

    def set(self, off_s: int) -> None:
        self.clock.write_text(f"{off_s:+d}\n", encoding="ascii")


@pytest.fixture
async def takeover(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Takeover]:
    if engine_name() != "embedded":
        pytest.skip("only embedded servers go by the clock of a file")
    if not (library := chaos_clock.library()):
        pytest.skip("this machine has no libfaketime")
    with server_folder() as folder:
        clock = folder / "clock"
        environment = postgres.server_environment() | dict(chaos_clock.environment(clock, library))
        monkeypatch.setattr(postgres, "server_environment", lambda: environment)
        async with embedded_postgres(standby=True) as server:
            yield Takeover(server, clock)


async def gives(node: RunningNode, member: str) -> bool:
    return (await node.give(member, 1)).status == 201


@pytest.mark.parametrize("off_s", [*(pytest.param(off_s, marks=long) for off_s in (-5, 5, -60, 3600)), 60, -3600])
async def test_no_member_goes_back_in_time_when_a_server_with_another_clock_takes_over(
    takeover: Takeover, tmp_path: Path, off_s: int
) -> None:
    database = await takeover.server.create_database()
    assert takeover.server.standby_url
    standby = in_database(takeover.server.standby_url, database.rpartition("/")[2])
    async with running_command_node(database, tmp_path, standby=standby) as node, node.inner.pools.watched():
        member = (await node.enrol())["member_id"]
        assert await gives(node, member)
        hold = (await node.post("/v1/holds", {"member": {"member_id": member}, "points": 1})).json["hold_id"]
        await takeover.happen(off_s)

        async def noticed() -> bool:
            words = (await told(node, "/readyz?verbose"))[1]
            found = re.search(r"clock: ([+-][0-9.]+) s from the primary of eu-1", words)
            return found is not None and abs(float(found[1]) + off_s) < 1

        server = await asyncpg.connect(standby)
        before = await server.fetchval("SELECT count(*) FROM journal")
        await eventually(noticed)
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
