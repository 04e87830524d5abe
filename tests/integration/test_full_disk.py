"""A full disk: a projector whose log cannot be written ends all the same, and a command is told to come back."""

import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from command.migrate import create_slot
from tests import engine
from tests.cdc_node import SLOT_OF_TESTS, cdc_node
from tests.command_node import running_command_node
from tests.conftest import eventually
from tests.pair_world import fill, small_disk

DISK_MB = 256
ATTEMPTS_MAX = 2_000

TERMINATE = """
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
@pytest.mark.parametrize("source", ["debezium", "pgoutput"])
async def test_a_projector_whose_log_cannot_be_written_ends_with_its_stream(
    tmp_path: Path, database: str, valkey_url: str, source: str
) -> None:
    await create_slot(database, SLOT_OF_TESTS)
    async with cdc_node(tmp_path, source=source, database=database, valkey=valkey_url) as node:
        await node.start()
        assert node.process is not None
        full = (tmp_path / "cdc.log").stat().st_size
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (full, full))
        client = await asyncpg.connect(database)

        async def terminated() -> bool:
            return bool(await client.fetchval(TERMINATE, SLOT_OF_TESTS))

        await eventually(terminated)
        assert await node.ended() == 1
        assert (tmp_path / "cdc.log").stat().st_size == full
        await client.close()


@pytest.mark.skipif(engine.engine_name() != "embedded", reason="a container's disk is out of reach")
async def test_the_first_answer_of_a_full_disk_is_to_come_back_and_the_same_key_is_done_when_there_is_room(
    tmp_path: Path,
) -> None:
    folder_of_servers: list[Path] = []

    @contextmanager
    def place() -> Generator[Path]:
        with small_disk(DISK_MB) as folder:
            folder_of_servers.append(folder)
            yield folder

    async with (
        engine.embedded_postgres(place=place()) as server,
        running_command_node(await server.create_database(), tmp_path) as node,
    ):
        member = await node.enrol()
        ballast = fill(folder_of_servers[0])
        replies = []
        for number in range(ATTEMPTS_MAX):
            body = {"member": {"member_id": member["member_id"]}, "points": 1, "reason": "x" * 200}
            replies.append(await node.post("/v1/adjustments", body, key=f"full-{number}"))
            if replies[-1].status != 201:
                break
        refused = replies[-1]
        assert (refused.status, refused.code, refused.json["retryable"]) == (503, "shard_unavailable", True)
        assert refused.headers["Retry-After"]
        ballast.unlink()
        again = await node.post("/v1/adjustments", body, key=f"full-{len(replies) - 1}")
        assert again.status == 201
        assert again.json["account"]["balance"]["available"] == len(replies)
