"""The Postgres servers of one shard: a primary and, unless switched off, synchronous standbys that may take its place.

One configuration serves both roles, so a promotion changes no file and waits for a standby from its first commit.
Slots are per server: a promoted one makes its standbys', and keeps or makes the projector's.

Under a server's own name lies only a folder that may run as it is. What is being rewound or copied, and what a copy is
to replace, lies beside it: whenever that is cut short, or finds no room, what was there is still there.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import asyncpg

from cluster import postgres
from cluster.archive import archive_settings
from cluster.errors import ClusterError, StartFailed
from cluster.login import CONNECT_TIMEOUT_S, SUPERUSER_NAME, address
from cluster.memory import MIB, buffers, data_bytes
from cluster.password import SUPERUSER, Passwords
from cluster.plan import ServerPlan
from cluster.postgres import PostgresTools
from cluster.process import ProcessSpec
from cluster.supervisor import READY, Supervisor
from cluster.watched import ROOM_MIN_BYTES
from shard_router.server import CDC_SLOT, SERVER_ERRORS
from shard_router.statement import load_statements

STATEMENTS = load_statements(Path(__file__).with_name("pair.sql"))
PROMOTE_TIMEOUT_S = 15.0
PROMOTE_POLL_S = 0.01  # pg_promote itself looks ten times a second
CHECKPOINT_TIMEOUT_S = 5.0
REPLAY_TIMEOUT_S, REPLAY_POLL_S = 600.0, 0.05
ASK_TIMEOUT_S = 2.5


class Received(NamedTuple):
    """How far a standby has the primary's WAL on its disk, and whether it has copies of the slots to go on with."""

    position: int
    has_slots: bool


@dataclass(slots=True)
class Pair:
    """Servers, the primary first, and what it takes to run them."""

    name: str
    servers: list[ServerPlan]
    tools: PostgresTools
    passwords: Passwords
    log: Callable[[str], Path]
    supervisor: Supervisor
    archive: Path | None = None
    """Where its WAL is archived, if it is."""
    memory_share: int = 0
    """What each of its servers may take of the machine's memory for its buffers (see memory.py)."""

    @property
    def primary(self) -> ServerPlan:
        """The server that takes writes."""
        return self.servers[0]

    @property
    def standbys(self) -> list[ServerPlan]:
        """Those that copy it."""
        return self.servers[1:]

    def url(self, server: ServerPlan, database: str = "postgres") -> str:
        """The superuser's address of a server. Nobody else is between: no context for TLS is made to be refused."""
        plain = f"{postgres.server_address(server)}?sslmode=disable"
        return address(plain, SUPERUSER_NAME, self.passwords[SUPERUSER], database)

    def spec(self, server: ServerPlan) -> ProcessSpec:
        """A server as a process."""
        password = self.passwords["postgres_standby"]
        return postgres.postgres_process(self.tools, server, password=password, log=self.log(server.name))

    async def run(self, server: ServerPlan) -> None:
        """Configure a server for either role and start it."""
        self.configure(server)
        postgres.remove_stale_pid(server)
        await self.supervisor.start(self.spec(server))

    def configure(self, server: ServerPlan) -> None:
        """Write its settings, for either role and by how much data it has."""
        others = [one for one in self.servers if one is not server]  # the primary first
        settings = postgres.role_settings(server, others, self.passwords["postgres_standby"])
        archive = archive_settings(self.tools, self.archive) if self.archive else {}
        room = buffers(self.memory_share, data_bytes(server.folder))
        postgres.configure(self.tools, server, settings | archive | room)

    async def run_primary(self) -> None:
        """Run the primary; one that a backup was put in the place of, until it has recovered and takes writes."""
        primary = self.primary
        recovers = (primary.folder / "recovery.signal").exists()
        await self.run(primary)
        if recovers:
            self.supervisor.note(primary.name, "recovering from a backup")
            await postgres.wait_recovered(self.url(primary), primary.name)
            (primary.folder / postgres.RECOVERY).unlink(missing_ok=True)
            self.supervisor.note(primary.name, READY)

    async def copy(self, standby: ServerPlan, begins: Callable[[], None] = lambda: None) -> None:
        """Make the standby's folder from the primary where it is not there, run it and wait until it streams.

        `begins` is told before it runs. Once it streams, what was set aside for it is worth nothing any more.
        """
        self.supervisor.note(standby.name, "copying the primary")
        if not standby.folder.exists():
            self._check_room(standby)
        await postgres.clone_standby(self.tools, standby, self.primary, self.passwords["postgres_standby"])
        begins()
        await self.run(standby)
        await postgres.wait_streaming(self.url(self.primary), standby.name, standby.standby)
        await asyncio.to_thread(shutil.rmtree, _aside(standby), ignore_errors=True)

    def _check_room(self, standby: ServerPlan) -> None:
        """StartFailed where a copy would fill the disk, which may be the primary's too."""
        needed = data_bytes(self.primary.folder) + ROOM_MIN_BYTES
        free = shutil.disk_usage(standby.folder.parent).free
        if free < needed:
            kept = f"; what was there is kept in {_aside(standby)}" if _aside(standby).exists() else ""
            words = f"no room for a copy: {free // MIB} MB are free, {needed // MIB} MB are needed{kept}"
            raise StartFailed(standby.name, words)

    async def write_out(self) -> None:
        """Have the primary write what is only in memory, as far as that is quick: its shutdown waits for the rest."""
        with suppress(*SERVER_ERRORS):
            async with asyncio.timeout(CHECKPOINT_TIMEOUT_S), _session(self.url(self.primary)) as server:
                await server.execute(STATEMENTS["write_out"])

    async def promote(self, promoted: ServerPlan) -> None:
        """Make a standby the primary. Its first commit waits for another server, which has to follow it first."""
        async with _session(self.url(promoted)) as server:
            try:
                async with asyncio.timeout(PROMOTE_TIMEOUT_S):
                    await server.execute(STATEMENTS["promote"])
                    while await server.fetchval(STATEMENTS["is_standby"]):  # noqa: ASYNC110 - a server is asked
                        await asyncio.sleep(PROMOTE_POLL_S)
            except TimeoutError as error:
                raise ClusterError(f"{promoted.name} was not promoted in time") from error
            for other in self.servers:
                if other is not promoted:
                    await server.execute(STATEMENTS["make_standby_slot"], other.standby)
        self.servers.sort(key=lambda one: one is not promoted)

    async def outlive(self) -> None:
        """Of the standbys that a lost primary has left, make the one that has most the primary.

        Any of them may have acknowledged alone: all have to come up and tell. StartFailed where one does not.
        """
        left = [server for server in self.servers if server.folder.exists()]
        self.servers.sort(key=lambda one: one in left)  # they follow the one that is away, not each other
        found: list[tuple[Received, ServerPlan]] = []
        for standby in left:
            await self.run(standby)
            found.append((await self._all_it_has(standby), standby))
        _, furthest = max(found, key=lambda one: one[0])
        await self.supervisor.stop([standby.name for standby in left if standby is not furthest])
        await self.promote(furthest)
        if not await self.has_projector_slot():  # it has all that was acknowledged: this is no restored shard
            await self.make_projector_slot()

    async def _all_it_has(self, standby: ServerPlan) -> Received:
        """What a standby has that no primary tells anything: how far its own WAL goes, once it has come to its end."""
        async with asyncio.timeout(REPLAY_TIMEOUT_S), _session(self.url(standby)) as server:
            while not await server.fetchval(STATEMENTS["waits_for_more"]):  # noqa: ASYNC110 - a server is asked
                await asyncio.sleep(REPLAY_POLL_S)
            return await received(server)

    async def has_projector_slot(self) -> bool:
        """Whether the primary had a copy of the projector's slot, or has it by now."""
        async with _session(self.url(self.primary)) as server:
            return bool(await server.fetchval(STATEMENTS["has_projector_slot"], CDC_SLOT))

    async def make_projector_slot(self) -> None:
        """Make the slot that was not copied in time. It waits for commits under way, which wait for the standby."""
        async with _session(self.url(self.primary, "loyalty")) as database:
            await database.execute(STATEMENTS["make_projector_slot"], CDC_SLOT)

    async def turn(self, standby: ServerPlan) -> None:
        """Have a standby that runs follow the new primary."""
        self.configure(standby)
        async with _session(self.url(standby)) as server:
            await server.execute(STATEMENTS["reload"])

    async def received(self, standby: ServerPlan) -> Received | None:
        """What a standby has; None when it does not answer."""
        with suppress(*SERVER_ERRORS):
            async with asyncio.timeout(ASK_TIMEOUT_S), _session(self.url(standby)) as server:
                return await received(server)
        return None

    async def follow(self, former: ServerPlan, begins: Callable[[], None]) -> None:
        """Bring the former primary back as a standby: by the changes it missed, else as a fresh copy."""
        if self.set_aside(former):
            await self._rewind(former, _aside(former))
        await self.copy(former, begins)

    async def _rewind(self, former: ServerPlan, folder: Path) -> None:
        """Take back what the new primary does not have, and put the folder, a standby's now, in its place again.

        It is none of the folders that a start would look at until then: half of it may be of either server, with the
        history of the new timeline, and without the mark of a standby.
        """
        if not (folder / "global" / "pg_control").is_file():
            return
        (folder / "postmaster.pid").unlink(missing_ok=True)
        self.supervisor.note(former.name, "rewinding")
        source = f"host={postgres.HOST} port={self.primary.port} user={SUPERUSER_NAME} dbname=postgres"
        try:
            await postgres.rewind(self.tools, former.name, folder, source, self.passwords[SUPERUSER])
        except (StartFailed, OSError) as error:
            self.supervisor.note(former.name, f"not rewound, copied anew: {error}")
            return
        postgres.mark_standby(self.tools, folder)
        os.rename(folder, former.folder)  # noqa: PTH104 - one call of the kernel

    def set_aside(self, server: ServerPlan) -> bool:
        """Take a folder that must not run as it is out of the way, kept until a copy streams; whether there is one.

        One that was set aside before was followed by a whole copy, or there would be nothing to be set aside.
        """
        if not server.folder.exists():
            return False
        shutil.rmtree(_aside(server), ignore_errors=True)
        server.folder.rename(_aside(server))
        return True


async def received(standby: asyncpg.Connection) -> Received:
    """What the standby has that this connection goes to."""
    (row,) = await standby.fetch(STATEMENTS["received"])
    return Received(row["position"], row["has_slots"])


def _aside(server: ServerPlan) -> Path:
    return server.folder.with_name(server.folder.name + ".aside")


@asynccontextmanager
async def _session(url: str) -> AsyncGenerator[asyncpg.Connection]:
    """A connection for a few statements that wait for no standby."""
    settings = {"synchronous_commit": "local"}
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()
