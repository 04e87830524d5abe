"""Real servers for tests: the embedded ones, or those of tests/container.py when LOYALTY_TEST_ENGINE=containers.

Databases are copied from a migrated template, so that each test has its own with real commits.
"""

import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio

from cluster import postgres, valkey
from cluster.login import SUPERUSER_NAME, address, quicken_superuser, secure
from cluster.password import FILES
from cluster.plan import ServerPlan
from cluster.process import ProcessSpec, spawn, terminate, wait_ready
from command.migrate import migrate
from shard_router.login import POSTGRES_USERS, VALKEY_USERS, PostgresRole, ValkeyRole

PASSWORD = "test"
PASSWORDS = dict.fromkeys(FILES, PASSWORD)
VALKEY_ADMIN = f"user tester on >{PASSWORD} allkeys allchannels +@all\n"
VALKEY_DATABASES = 16
# A throw-away server needs no crash safety; everything else is as in the real system.
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}


def engine_name() -> str:
    name = os.environ.get("LOYALTY_TEST_ENGINE", "embedded")
    if name not in {"embedded", "containers", "patroni"}:
        raise pytest.UsageError(f"LOYALTY_TEST_ENGINE={name}: choose embedded, containers or patroni")
    return name


def skip_where_settings_are_fixed() -> None:
    """A container has its settings on the command line, which no ALTER SYSTEM overrides."""
    if engine_name() == "containers":
        pytest.skip("the standby a commit waits for is fixed on the container's command line")


@dataclass(slots=True)
class PostgresServer:
    """A primary, and its standby if it has one. URLs name the database `postgres`."""

    url: str
    standby_url: str | None = None
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    template: str | None = None
    session: asyncpg.Connection | None = None
    """In which databases are made and dropped, thousands of them."""

    async def create_database(self) -> str:
        """A fresh migrated database; its DSN."""
        if self.template is None:
            await (await self._session()).execute("CREATE DATABASE loyalty_template")
            await migrate(in_database(self.url, "loyalty_template"))
            self.template = "loyalty_template"
        name = f"test_{next(self.numbers)}"
        sql = (
            f"CREATE DATABASE {name} TEMPLATE {self.template} STRATEGY file_copy"  # two thirds of the CPU of the usual
        )
        await (await self._session()).execute(sql)
        return in_database(self.url, name)

    async def drop_database(self, url: str) -> None:
        """Drop a database with the slots and connections that hold it."""
        name = url.rpartition("/")[2]
        connection = await self._session()
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name
        )
        await connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", name
        )
        await connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots, pg_database AS own"
            " WHERE own.datname = $1 AND slot_type = 'physical' AND slot_name ~ ('_' || own.oid || '_[0-9]+$')",
            name,
        )
        # A standby falls over when it replays a drop while it copies a slot of that database (PostgreSQL 18.4);
        # the few databases of a pair go with their servers.
        if self.standby_url is None:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _session(self) -> asyncpg.Connection:
        if self.session is None or self.session.is_closed():
            self.session = await asyncpg.connect(self.url)
        return self.session

    def close(self) -> None:
        """Let go of the server, whatever it does."""
        if self.session is not None:
            self.session.terminate()


@dataclass(slots=True)
class ValkeyServer:
    """A Valkey whose databases are handed out in turn, emptied."""

    url: str
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def fresh_url(self) -> str:
        url = f"{self.url}/{next(self.numbers) % VALKEY_DATABASES}"
        client = redis.asyncio.from_url(url)
        await client.flushdb()
        await client.aclose()
        return url


def in_database(url: str, name: str) -> str:
    """The same server, another database."""
    return f"{url.rpartition('/')[0]}/{name}"


def as_login(url: str, role: PostgresRole) -> str:
    """A server of ours as one of its logins; any other address as it is."""
    parts = urlsplit(url)
    if parts.username != SUPERUSER_NAME:
        return url
    return address(url, POSTGRES_USERS[role], PASSWORD, parts.path.lstrip("/"))


def as_superuser(url: str) -> str:
    """A server of ours as a test may use it to do what no node can."""
    return address(url, SUPERUSER_NAME, PASSWORD, urlsplit(url).path.lstrip("/"))


def as_valkey_user(url: str, role: ValkeyRole) -> str:
    """A Valkey of ours as one of its users; any other address as it is."""
    return url.replace("//tester:", f"//{VALKEY_USERS[role]}:")


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def server_folder() -> Generator[Path]:
    """A folder an unprivileged account can enter (pytest's own is closed to others)."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def running(spec: ProcessSpec) -> AsyncGenerator[None]:
    """Run a process while the block lasts."""
    child = await spawn(spec)
    try:
        await wait_ready(spec, child)
        yield
    finally:
        await terminate(spec, child)


@asynccontextmanager
async def embedded_postgres(
    *, standby: bool = False, place: AbstractContextManager[Path] | None = None
) -> AsyncGenerator[PostgresServer]:
    """A primary from the wheel, on request with a synchronous hot standby, or in a folder of its own kind."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(place or server_folder())
        tools = postgres.find_tools(None, folder)
        one, two = (ServerPlan(name=f"postgres-{n}", folder=folder / f"postgres-{n}", port=free_port()) for n in (1, 2))
        await postgres.create_primary(tools, one, PASSWORD)
        postgres.configure(tools, one, FAST | postgres.primary_settings(with_standby=standby))
        spec = postgres.postgres_process(tools, one, password=PASSWORD, log=folder / "primary.log")
        url = address(postgres.server_address(one), SUPERUSER_NAME, PASSWORD, "postgres")
        if not standby:
            await stack.enter_async_context(running(spec))
            await secure(url, PASSWORDS)
            await quicken_superuser(url, PASSWORD)
            yield stack.enter_context(closing(PostgresServer(url)))
            return
        # Entered in this order the primary stops last: its commits must not wait for a standby that went first.
        await stack.enter_async_context(running(spec))
        await secure(url, PASSWORDS)
        await quicken_superuser(url, PASSWORD)
        await postgres.keep_for_standby(url)
        await postgres.clone_standby(tools, two, one, PASSWORD)
        postgres.configure(tools, two, FAST | postgres.standby_settings(one, PASSWORD))
        spec = postgres.postgres_process(tools, two, password=PASSWORD, log=folder / "standby.log")
        await stack.enter_async_context(running(spec))
        await postgres.wait_streaming(url, "standby")
        standby_url = address(postgres.server_address(two), SUPERUSER_NAME, PASSWORD, "postgres")
        yield stack.enter_context(closing(PostgresServer(url, standby_url)))


def valkey_process(folder: Path, port: int | None = None) -> tuple[ProcessSpec, str]:
    """A Valkey with the users of a real one and `tester`, who may do everything; and the latter's address."""
    port = port or free_port()
    tools = valkey.find_tools(None, folder)
    valkey.configure(tools, folder / "valkey", port=port, acl=valkey.access_list(PASSWORDS) + VALKEY_ADMIN)
    url = f"redis://tester:{PASSWORD}@127.0.0.1:{port}"
    return valkey.valkey_process(tools, folder / "valkey", name="valkey", url=url, log=folder / "valkey.log"), url


@asynccontextmanager
async def embedded_valkey() -> AsyncGenerator[ValkeyServer]:
    """Valkey from the wheel."""
    with server_folder() as folder:
        spec, url = valkey_process(folder)
        async with running(spec):
            yield ValkeyServer(url)
