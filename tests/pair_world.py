"""The servers of a shard under a guard, without nodes: each on a disk of its own where a test breaks disks."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from cluster import postgres
from cluster.failover import Guard
from cluster.fence import fence
from cluster.login import secure
from cluster.pair import Pair
from cluster.plan import ServerPlan
from cluster.reading import MOST_PAUSE_S
from cluster.run_file import Identity, RunRecord
from cluster.supervisor import READY, Supervisor
from shard_router.server import SERVER_ERRORS
from tests.conftest import eventually
from tests.engine import PASSWORD, PASSWORDS, free_port, server_folder

DEADLINE_S = 60.0
SHARD = "eu-1"


@contextmanager
def small_disk(megabytes: int) -> Generator[Path]:
    """A folder on a file system of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small file system")
    with server_folder() as folder:
        mount = subprocess.run(
            [
                shutil.which("mount") or "mount",
                *("-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if mount.returncode:
            pytest.skip(f"this root may not mount: {mount.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run([shutil.which("umount") or "umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no room."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    return ballast


@dataclass
class GuardedPair:
    """A pair that a guard watches, and what was told of it."""

    pair: Pair
    supervisor: Supervisor
    told: list[tuple[str, str]]
    guard: Guard | None = None
    watching: asyncio.Task[None] | None = None
    written: list[int] = field(default_factory=list[int])

    def pid(self, server: ServerPlan) -> int:
        return self.supervisor.kept[server.name].child.pid

    def said(self, words: str) -> int:
        """How often a state with these words was told."""
        return sum(words in state for _, state in self.told)

    async def until_said(self, words: str, times: int = 1) -> None:
        """Return when a state with these words has been told so often."""

        async def said() -> bool:
            return self.said(words) == times

        await eventually(said, deadline_s=DEADLINE_S)

    @asynccontextmanager
    async def session(
        self, server: ServerPlan | None = None, database: str = "postgres"
    ) -> AsyncGenerator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.pair.url(server or self.pair.primary, database), timeout=5)
        try:
            yield connection
        finally:
            connection.terminate()

    async def write(self) -> None:
        """Return when a row has been acknowledged by the primary and a standby."""
        number = len(self.written) + 1

        async def done() -> bool:
            with suppress(*SERVER_ERRORS):
                async with asyncio.timeout(5), self.session() as server:
                    await server.execute("INSERT INTO book VALUES ($1) ON CONFLICT DO NOTHING", number)
                    return True
            return False

        await eventually(done, deadline_s=DEADLINE_S)
        self.written.append(number)

    async def whole(self) -> None:
        """Return when all its servers are ready and a write goes through; nothing written is missing anywhere."""

        async def ready() -> bool:
            kept = [self.supervisor.kept.get(server.name) for server in self.pair.servers]
            covered = self.guard is None or self.guard.is_covered
            return covered and all(one is not None and one.record.state == READY for one in kept)

        await eventually(ready, deadline_s=DEADLINE_S)
        await self.write()
        async with self.session() as server:
            assert [row["n"] for row in await server.fetch("SELECT n FROM book ORDER BY n")] == self.written


@asynccontextmanager
async def guarded_pair(
    *, standbys: int = 1, disks_mb: tuple[int, ...] = (), reading_pause_s: float = MOST_PAUSE_S
) -> AsyncGenerator[GuardedPair]:
    """A primary and its standbys, the first of them on small disks."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(server_folder())
        places = [stack.enter_context(small_disk(size)) for size in disks_mb]
        places += [folder] * (standbys + 1 - len(places))
        tools = postgres.find_tools(None, folder)
        servers = [
            ServerPlan(
                name=f"{SHARD}-postgres-{number}",
                folder=place / f"postgres-{number}",
                port=free_port(),
                standby="standby" if standbys == 1 else f"standby_{number}",
            )
            for number, place in enumerate(places, 1)
        ]
        told: list[tuple[str, str]] = []
        supervisor = Supervisor(
            folder, RunRecord(Identity.of(os.getpid())), on_change=lambda name, state: told.append((name, state))
        )
        pair = Pair(SHARD, servers, tools, PASSWORDS, lambda name: folder / f"{name}.log", supervisor)
        await postgres.create_primary(tools, pair.primary, PASSWORD)
        await pair.run_primary()
        await secure(pair.url(pair.primary), PASSWORDS)
        async with GuardedPair(pair, supervisor, told).session() as server:  # copies have it too
            await server.execute("ALTER SYSTEM SET fsync = off")
            await server.execute("SELECT pg_reload_conf()")
        await postgres.keep_for_standby(pair.url(pair.primary), *(one.standby for one in pair.standbys))
        for standby in pair.standbys:
            await pair.copy(standby)
        world = GuardedPair(pair, supervisor, told)
        async with world.session() as server:
            await server.execute("CREATE TABLE book (n integer PRIMARY KEY)")
        guard = world.guard = Guard(pair, supervisor, f"{SHARD}-cdc", lambda _: reading_pause_s)
        watching = world.watching = asyncio.create_task(guard.run())
        try:
            yield world
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            for server in pair.servers:
                if kept := await supervisor.release(server.name):
                    await fence(kept.child, server.folder)
