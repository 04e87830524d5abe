"""Valkey lets in two users, each for their work; it runs as nobody important and leaves nothing on the disk."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from query.valkey import ValkeyConnection
from query.views import VISIBLE_CHANNEL
from shard_router.login import ValkeyRole
from shard_router.pool import ShardServers
from tests import engine
from tests.query_servers import OwnValkey, own_valkey
from verify.view import _ghosts

pytestmark = pytest.mark.skipif(engine.engine_name() != "embedded", reason="the users are those of our own servers")

DANGEROUS = (
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET dir",
    "CONFIG SET dir /tmp",
    "SAVE",
    "BGSAVE",
    "SHUTDOWN",
    "DEBUG SLEEP 0",
    "KEYS *",
    "MONITOR",
    "ACL LIST",
    "ACL SETUSER me on",
    "REPLICAOF 127.0.0.1 1",
    "MODULE LIST",
    "CLIENT LIST",
    "CLIENT KILL ID 1",
    "CLIENT PAUSE 1",
    "EVAL return 1 0",
    "FUNCTION FLUSH",
    "FUNCTION DELETE loyalty",
    "SLOWLOG RESET",
    "MIGRATE 127.0.0.1 1 a 0 1",
    "SET other 1",
    "PUBLISH other 1",
)
QUERY = {"GET a:1": None, "MGET a:1 i:card:1": [None, None], "ZRANGE e:1 0 -1": []}
WRITES = ("SET a:1 1", "DEL a:1", "ZADD e:1 1 x", "PUBLISH visible 1:1", "FCALL loyalty_complete 1 projector:eu-1 1")


@pytest.fixture(scope="module")
async def server() -> AsyncGenerator[OwnValkey]:
    async with own_valkey() as started:
        yield started


def as_user(server: OwnValkey, role: ValkeyRole) -> Redis:
    return Redis.from_url(engine.as_valkey_user(server.url, role))


async def test_without_a_password_nobody_gets_in(server: OwnValkey) -> None:
    place = server.url.rpartition("@")[2]
    for login in ("", "default:@", "default:test@", "query:wrong@", "projector:@"):
        async with Redis.from_url(f"redis://{login}{place}") as client:
            with pytest.raises((AuthenticationError, ResponseError)):
                await client.get("a:1")


@pytest.mark.parametrize("role", ["query", "projector"])
@pytest.mark.parametrize("command", DANGEROUS)
async def test_nobody_may_stop_save_empty_or_configure_it(server: OwnValkey, role: ValkeyRole, command: str) -> None:
    async with as_user(server, role) as client:
        with pytest.raises(ResponseError, match=r"permission|not allowed"):
            await client.execute_command(*command.split(" "))


async def test_query_nodes_read_views_and_write_nothing(server: OwnValkey) -> None:
    async with as_user(server, "query") as client:
        for command, answer in QUERY.items():
            assert await client.execute_command(*command.split(" ")) == answer
        for command in (*WRITES, "GET projector:eu-1", "GET gone:i:card:1"):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command.split(" "))
        async with client.pubsub() as channel:
            await channel.subscribe(VISIBLE_CHANNEL)
            heard = await channel.get_message(timeout=5)
            assert heard is not None
            assert heard["type"] == "subscribe"


@pytest.mark.skipif(os.geteuid() != 0, reason="it would run as us anyway")
async def test_verify_finds_views_of_nobody_by_the_projectors_login(server: OwnValkey, database: str) -> None:
    servers = ShardServers("eu-1", [database], size_max=2, statement_timeout_ms=10_000)
    client = ValkeyConnection(engine.as_valkey_user(server.url, "projector"), timeout_s=10)
    await client.ask_one("SET", "m:777", "x")
    found = await _ghosts(servers, client, {b"m:777", b"m:778", b"i:card:1"})
    await client.ask_one("UNLINK", "m:777")
    await client.close()
    await servers.close()
    assert [*found] == ["m:777"]


async def test_it_does_not_run_as_root(server: OwnValkey) -> None:
    assert server.child is not None
    assert psutil.Process(server.child.pid).uids().real != 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a process works")
async def test_it_leaves_nothing_on_the_disk_and_its_password_to_nobody() -> None:
    async with own_valkey() as server:
        async with as_user(server, "projector") as client:
            await client.set("a:1", b"personal")
        assert server.child is not None
        process = psutil.Process(server.child.pid)
        folder = Path(process.cwd())
        assert folder.parent == server.spec.log.parent
        assert {mode & 0o077 for mode in (await asyncio.to_thread(modes, folder)).values()} == {0}
        assert "test" not in " ".join(process.cmdline()).split(" ")
        server.send(signal.SIGTERM)
        await server.child.wait()
        assert set(await asyncio.to_thread(modes, folder)) == {folder.name, "users.acl", "valkey.conf"}


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode for path in (folder, *folder.iterdir())}
