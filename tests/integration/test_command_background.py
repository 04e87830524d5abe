"""What a command node does beside answering: settling what is due, wherever it is, and stopping without harm."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ClientError, ClientSession

from command import settler
from command.program import apply_program
from command.settler import settle_until
from service.credential import new_key
from shard_router.server import connection_to
from shard_router.topology import parse_topology
from tests.command_node import PROGRAM, running_command_node
from tests.conftest import eventually
from tests.engine import PostgresServer, free_port
from tests.project import PROJECT
from tests.sql import without_standby

OLD_ANSWER = """
INSERT INTO idempotency (key, credential, fingerprint, status, answer, answered_at)
VALUES ('old', 'x', gen_random_uuid(), 201, '{}', now() - interval '31 days')
"""
RELEASE = "INSERT INTO errand VALUES (1, 1, 'release', '{\"identifiers\": []}', 0, now())"
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'loyalty' AND wait_event = 'SyncRep'
"""
CANCELLED = WAITING.replace("count(*)", "count(pg_cancel_backend(pid))")


def write_node(folder: Path, dsn: str, port: int) -> str:
    """The files of a node of one shard; its key."""
    key, record = new_key("service")
    (folder / "credentials.json").write_text(json.dumps({"keys": [record.model_dump()]}))
    shard = {"region": "eu", "slots": [[0, 4095]], "servers": [dsn], "valkey": "redis://none"}
    regions = {"eu": {"number": 1, "command": [], "query": []}}
    (folder / "topology.json").write_text(json.dumps({"epoch": 1, "regions": regions, "shards": {"eu-1": shard}}))
    (folder / "node.toml").write_text(
        f'region = "eu"\nport = {port}\ndrain_s = 1\n'
        f'topology = "{folder}/topology.json"\ncredentials = "{folder}/credentials.json"\n'
    )
    return key


@asynccontextmanager
async def command_process(folder: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    with (folder / "log").open("wb") as log:
        node = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "command", "--config", str(folder / "node.toml"),
            cwd=PROJECT, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield node
        finally:
            if node.returncode is None:
                node.kill()
                await node.wait()


async def enrol(port: int, key: str) -> None:
    """Ask for a member with a phone as soon as the node listens; the answer does not matter."""

    async def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await eventually(listens, deadline_s=30)
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "e"}
    with suppress(ClientError):
        async with ClientSession() as session:
            await session.post(f"http://127.0.0.1:{port}/v1/members", json={"phone": "+4930123456"}, headers=headers)


async def test_a_node_that_stops_while_its_writes_wait_for_a_standby_shows_none_of_them_and_undoes_none(
    postgres_server: PostgresServer, database: str, tmp_path: Path
) -> None:
    await apply_program([database], PROGRAM)
    connection = await asyncpg.connect(database)
    await connection.execute(OLD_ANSWER)
    await connection.execute(RELEASE)

    async def state() -> tuple[int, int, int]:
        """Old answers, attempts at the errand, claims: as whoever reads sees them."""
        return (
            await connection.fetchval("SELECT count(*) FROM idempotency WHERE key = 'old'"),
            await connection.fetchval("SELECT sum(attempts) FROM errand"),
            await connection.fetchval("SELECT count(*) FROM claim"),
        )

    async def three_wait() -> bool:
        return await connection.fetchval(WAITING) == 3

    async def finished() -> bool:
        return await state() == (0, 1, 1)

    port = free_port()
    key = write_node(tmp_path, database, port)
    async with without_standby(postgres_server), command_process(tmp_path) as node:
        enrolling = asyncio.create_task(enrol(port, key))
        await eventually(three_wait, deadline_s=30)
        node.send_signal(signal.SIGTERM)
        async with asyncio.timeout(8):
            status = await node.wait()
        await enrolling
        assert (status, await state()) == (0, (1, 0, 0)), (tmp_path / "log").read_text()
    await eventually(finished)
    await connection.close()


async def test_a_commit_whose_wait_for_the_standby_was_cancelled_is_no_yes(
    postgres_server: PostgresServer, database: str, tmp_path: Path
) -> None:
    async with running_command_node(database, tmp_path) as node, asyncpg.create_pool(database, min_size=1) as pool:
        ada = await node.enrol()
        body = {"member": {"member_id": ada["member_id"]}, "points": 5, "reason": "test"}

        async def cancelled() -> bool:
            return await pool.fetchval(CANCELLED) > 0

        async with without_standby(postgres_server):
            giving = asyncio.create_task(node.post("/v1/adjustments", body, key="given"))
            await eventually(cancelled)
            reply = await giving
        assert (reply.status, reply.code) == (503, "unknown_outcome")
        again = await node.post("/v1/adjustments", body, key="given")
        assert (again.status, again.json["account"]["version"]) == (201, 2)


async def test_a_shard_that_a_new_topology_brings_is_settled_too(
    postgres_server: PostgresServer, database: str, tmp_path: Path
) -> None:
    second = await postgres_server.create_database()
    await apply_program([second], PROGRAM)
    connection = await asyncpg.connect(second)
    await connection.execute(OLD_ANSWER)
    async with running_command_node(database, tmp_path) as node:
        stop = asyncio.Event()
        settling = asyncio.create_task(settle_until(stop, node.inner))
        topology = json.loads((tmp_path / "topology.json").read_text()) | {"epoch": 2}
        half = topology["shards"]["eu-1"] | {"slots": [[0, 2047]]}
        other = half | {"slots": [[2048, 4095]], "servers": [second]}
        node.inner.topology.adopt(parse_topology(json.dumps(topology | {"shards": {"eu-1": half, "eu-2": other}})))

        async def settled() -> bool:
            return not await connection.fetchval("SELECT count(*) FROM idempotency")

        await eventually(settled)
        stop.set()
        async with asyncio.timeout(2):
            await settling
    await connection.close()
    await postgres_server.drop_database(second)


async def test_more_old_answers_than_are_forgotten_at_once_do_not_wait_for_the_next_look(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "INTERVAL_S", 0.01)
    monkeypatch.setattr(settler, "FORGET_INTERVAL_S", 3_600.0)
    monkeypatch.setattr(settler, "FORGOTTEN_AT_ONCE", 1)
    async with running_command_node(database, tmp_path) as node, connection_to(database) as connection:
        for number in range(5):
            await connection.execute(OLD_ANSWER.replace("'old'", f"'old {number}'"))
        stop = asyncio.Event()
        settling = asyncio.create_task(settle_until(stop, node.inner))

        async def forgotten() -> bool:
            return not await connection.fetchval("SELECT count(*) FROM idempotency")

        await eventually(forgotten)
        stop.set()
        await settling


@pytest.mark.parametrize("begun", [False, True])
async def test_the_settler_stops_at_once_and_finishes_what_it_has_begun(
    database: str,
    tmp_path: Path,
    begun: bool,  # noqa: FBT001
) -> None:
    async with running_command_node(database, tmp_path) as node:
        connection = await asyncpg.connect(database)
        await connection.execute(OLD_ANSWER)
        blocked = connection.transaction()
        await blocked.start()
        await connection.execute("SELECT 1 FROM idempotency WHERE key = 'old' FOR UPDATE")
        stop = asyncio.Event()
        settling = asyncio.create_task(settle_until(stop, node.inner))
        other = await asyncpg.connect(database)

        async def waits() -> bool:
            return bool(await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        if begun:
            await eventually(waits)
        stop.set()
        await blocked.rollback()
        async with asyncio.timeout(2):
            await settling
        assert await other.fetchval("SELECT count(*) FROM idempotency") == (0 if begun else 1)
        await connection.close()
        await other.close()
