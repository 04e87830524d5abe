"""Connections to the servers of a shard: finds the primary, and lets go of a server that is none any more.

Who is primary is asked of the servers themselves (`pg_is_in_recovery()`), all at once with a short
deadline each, so that a dead first host never eats the time of the second. A connection that
answers 25006 (read only) or breaks makes the choice void at once: the next call asks again.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import structlog

from shard_router.array import know_arrays
from shard_router.clock import Now, Reading, ShardClock
from shard_router.ending import end
from shard_router.errors import ProblemError
from shard_router.look import Looks
from shard_router.server import trouble_of
from shard_router.statement import load_statements
from shard_router.topology import Topology, TopologyWatch

PROBE_TIMEOUT_S: Final = 1.0
WATCH_INTERVAL_S: Final = 1.0
ACQUIRE_TIMEOUT_S: Final = 2.0
LOCK_TIMEOUT_MS: Final = 2_000  # a batch under way needs milliseconds; who waits longer waits for one that is stuck
IDLE_SESSION_S: Final = 60.0  # it keeps 2 MiB of its server; what is asked every second keeps one alive
IDLE_IN_TRANSACTION_MS: Final = 10_000  # a node that froze between two statements must not keep its locks
_STATEMENTS: Final = load_statements(Path(__file__).with_name("pool.sql"))
_PROBE_BACKOFF_S: Final = 0.25  # a shard without a primary is asked four times a second, not once per request

Connection = asyncpg.pool.PoolConnectionProxy

CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What says that the server, not the statement, is the trouble."""

SERVER_IN_NEED: Final = (asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError)
"""What a server says that has no room, memory or working disk: it did nothing, and is still what it was."""


def in_need(shard: str, error: BaseException) -> ProblemError:
    """`shard_unavailable` for what a server in need has said, told to the operator too."""
    structlog.get_logger().error("server_in_need", shard=shard, error=type(error).__name__, detail=str(error))
    return ProblemError("shard_unavailable", f"{shard}: the server lacks room or memory; nothing was done")


INDEXED: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_memoize": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Session settings of nodes: every statement of theirs looks rows up by key. A plan made while tables are empty or
small would read them from end to end, a table or a whole index below a join, and be kept while they fill."""


class _Role(NamedTuple):
    """What a server said it is."""

    in_recovery: bool
    timeline: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class Taken:
    """A connection taken from the pool of a server."""

    server: str
    pool: asyncpg.Pool
    connection: Connection

    async def give_back(self) -> None:
        """Return it to its pool; a broken or outdated one is closed there."""
        with suppress(*CONNECTION_ERRORS):
            await self.pool.release(self.connection)


class ShardServers:
    """The Postgres servers of one shard, each behind a lazily filled pool."""

    def __init__(  # noqa: PLR0913
        self,
        name: str,
        servers: list[str],
        *,
        size_max: int,
        statement_timeout_ms: int,
        indexed: bool = True,
        near: frozenset[str] = frozenset(),
        patience_s: float = 0.0,
        wall: Now = time.time,
    ) -> None:
        """Of several standbys those that are `near` are read first. `wall` is the node's clock.

        Who has patience asks that long for a server in a role before there is none.
        """
        self.clock = ShardClock(wall)
        self.name = name
        self.servers = servers
        self.near = near
        self._size_max = size_max
        self._statement_timeout_ms = statement_timeout_ms
        self._patience_s = patience_s
        self._session = INDEXED if indexed else {}
        self._pools: dict[str, asyncpg.Pool] = {}
        self._looks = defaultdict[str, Looks](Looks)
        self._roles: dict[str, _Role] = {}
        self._primary = ""
        self._probing = asyncio.Lock()
        self._probed_at = 0.0

    @asynccontextmanager
    async def primary(self) -> AsyncGenerator[Connection]:
        """A connection to the primary; `shard_unavailable` when there is none or it breaks."""
        async with self._connection(in_recovery=False) as connection:
            yield connection

    @asynccontextmanager
    async def look(self) -> AsyncGenerator[Connection]:
        """As `primary`, for whoever looks for something again and again and is waited for by nobody."""
        server = await self._server(in_recovery=False)
        async with self._looks[server].turn(), self.primary() as connection:
            yield connection

    @asynccontextmanager
    async def standby(self) -> AsyncGenerator[Connection]:
        """A connection to a hot standby; `shard_unavailable` when there is none or it breaks."""
        async with self._connection(in_recovery=True) as connection:
            yield connection

    async def close(self) -> None:
        """Close every pool; a connection that does not end in time is cut."""
        for pool in self._pools.values():
            try:
                await asyncio.wait_for(pool.close(), ACQUIRE_TIMEOUT_S)
            except TimeoutError:
                pool.terminate()

    async def take_primary(self) -> "Taken":
        """A connection to the primary for many calls, to be given back; raises as `primary` does."""
        return await self._take(in_recovery=False)

    def still_primary(self, server: str) -> bool:
        """Whether nobody has had reason to doubt that this server is the primary."""
        role = self._roles.get(server)
        return role is not None and not role.in_recovery

    @asynccontextmanager
    async def heard(self, server: str) -> AsyncGenerator[None]:
        """Turn what shows that a server is in trouble into `shard_unavailable`, and let go of the server."""
        try:
            yield
        except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError) as error:
            raise ProblemError("shard_unavailable", f"{self.name}: a statement took too long") from error
        except CONNECTION_ERRORS as error:
            await self._forget(server)
            raise ProblemError("shard_unavailable", f"{self.name}: {trouble_of(error)}") from error
        except SERVER_IN_NEED as error:
            raise in_need(self.name, error) from error

    @asynccontextmanager
    async def _connection(self, *, in_recovery: bool) -> AsyncGenerator[Connection]:
        taken = await self._take(in_recovery=in_recovery)
        try:
            async with self.heard(taken.server):
                yield taken.connection
        finally:
            await taken.give_back()

    async def _take(self, *, in_recovery: bool) -> "Taken":
        server = await self._server(in_recovery=in_recovery)
        async with self.heard(server):
            pool = await self._pool(server)
            return Taken(server, pool, await pool.acquire(timeout=ACQUIRE_TIMEOUT_S))

    @property
    def standby_ahead_s(self) -> float:
        """How far the clock of the standby that is read is ahead of the primary's, as far as both are known."""
        standby = self._with_role(in_recovery=True)
        return self.clock.apart_s(self._roles[standby].reading) if standby else 0.0

    async def look_again(self) -> None:
        """Ask every server that is in use what it is, and cut the connections to one that was the primary.

        Who waits on it for a commit hears that nobody knows its outcome. A frozen server would never say so.
        A standby that is only slow to answer stays one: who reads there and gets nothing lets go of it.
        """
        if not self._pools:
            return
        standbys = {server: role for server, role in self._roles.items() if role.in_recovery}
        await self._probe()
        self._roles = standbys | self._roles
        primary, before = self._with_role(in_recovery=False), self._primary
        if primary is None or primary == before:
            return
        self._primary = primary
        if before in self._pools:
            structlog.get_logger().warning("primary_changed", shard=self.name)
            self._pools.pop(before).terminate()

    async def _server(self, *, in_recovery: bool) -> str:
        until = time.monotonic() + self._patience_s
        while True:
            for _ in range(2):
                if server := self._with_role(in_recovery=in_recovery):
                    return server
                await self._probe()
            if time.monotonic() >= until:
                break
            await asyncio.sleep(_PROBE_BACKOFF_S)
        role = "standby" if in_recovery else "primary"
        raise ProblemError("shard_unavailable", f"{self.name}: no {role}")

    def _with_role(self, *, in_recovery: bool) -> str | None:
        """A server in a role; the primary is the one on the highest timeline.

        Of standbys always the same while it is there, a near one first: another may show less than was read before.
        """
        found = [server for server, role in self._roles.items() if role.in_recovery is in_recovery]
        return max(found, key=lambda server: (self._roles[server].timeline, server in self.near), default=None)

    async def _probe(self) -> None:
        """Ask all servers: roles change, and who was a standby may be what is looked for."""
        async with self._probing:
            if time.monotonic() - self._probed_at < _PROBE_BACKOFF_S:
                return
            answers = await asyncio.gather(*(self._ask(server) for server in self.servers))
            known = zip(self.servers, answers, strict=True)
            self._roles = {server: role for server, role in known if role is not None}
            self._probed_at = time.monotonic()
            if primary := self._with_role(in_recovery=False):
                self.clock.heard(self._roles[primary].reading)

    async def _ask(self, server: str) -> "_Role | None":
        with suppress(*CONNECTION_ERRORS, asyncpg.PostgresError):
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                pool = await self._pool(server)
                async with self._looks[server].turn(), pool.acquire() as connection, _cut_in_time(connection):
                    begun = self.clock.begin()
                    row = await connection.fetchrow(_STATEMENTS["role"])
                    return _Role(row["in_recovery"], row["timeline"], self.clock.read(begun, row["time_s"]))
        return None

    async def _pool(self, server: str) -> asyncpg.Pool:
        if server not in self._pools:
            self._pools[server] = asyncpg.create_pool(
                server,
                min_size=0,
                max_size=self._size_max,
                max_inactive_connection_lifetime=IDLE_SESSION_S,
                timeout=PROBE_TIMEOUT_S,
                init=know_arrays,
                reset=_keep_as_it_is,
                server_settings={
                    "application_name": "loyalty",
                    "statement_timeout": str(self._statement_timeout_ms),
                    "lock_timeout": str(LOCK_TIMEOUT_MS),
                    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
                    "jit": "off",
                    **self._session,
                },
            )
        return await self._pools[server]

    async def _forget(self, server: str) -> None:
        """Ask every server anew next time; connections of this one are replaced as they come back.

        A standby's trouble says nothing about the others: they stay what they are. Else the primary of a shard whose
        standby is silent were looked for again and again, each time for as long as a probe takes.
        """
        role = self._roles.pop(server, None)
        if role is not None and not role.in_recovery:
            self._roles.clear()
        if server in self._pools:
            with suppress(asyncpg.InterfaceError):
                await self._pools[server].expire_connections()


class ShardPools:
    """The servers of every shard, following the topology in force."""

    def __init__(  # noqa: PLR0913
        self,
        topology: TopologyWatch,
        *,
        size_max: int,
        statement_timeout_ms: int,
        indexed: bool = True,
        zone: str | None = None,
        patience_s: float = 0.0,
        wall: Now = time.time,
    ) -> None:
        self._zone = zone
        self._patience_s = patience_s
        self.wall = wall
        self._size_max = size_max
        self._statement_timeout_ms = statement_timeout_ms
        self._indexed = indexed
        self._shards: dict[str, ShardServers] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._adopt(topology.current)
        topology.on_change(self._adopt)

    def __getitem__(self, shard: str) -> ShardServers:
        return self._shards[shard]

    async def watch(self) -> None:
        """Notice every second which server of a shard is the primary now; runs for ever."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await asyncio.gather(*(shard.look_again() for shard in self._shards.values()), return_exceptions=True)

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """Watch while the block lasts, for work that ends."""
        watching = asyncio.create_task(self.watch())
        try:
            yield
        finally:
            await end(watching)

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(shard.close() for shard in self._shards.values()))

    def _adopt(self, topology: Topology) -> None:
        for name in self._shards.keys() - topology.document.shards.keys():
            self._close(self._shards.pop(name))
        for name, shard in topology.document.shards.items():
            known = self._shards.get(name)
            near = frozenset(url for url, zone in zip(shard.servers, shard.zones, strict=False) if zone == self._zone)
            if known and (known.servers, known.near) == (shard.servers, near):
                continue
            if known:
                self._close(known)
            self._shards[name] = ShardServers(
                name,
                shard.servers,
                size_max=self._size_max,
                statement_timeout_ms=self._statement_timeout_ms,
                indexed=self._indexed,
                near=near,
                patience_s=self._patience_s,
                wall=self.wall,
            )

    def _close(self, servers: ShardServers) -> None:
        task = asyncio.get_running_loop().create_task(servers.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


@asynccontextmanager
async def _cut_in_time(connection: Connection) -> AsyncGenerator[None]:
    """Cut it when nothing is answered in time.

    Giving it back would wait until the server has cancelled the call, which a frozen one never does.
    """
    try:
        yield
    except asyncio.CancelledError:
        connection.terminate()
        raise


async def _keep_as_it_is(_connection: object) -> None:
    """Our statements leave nothing behind in a session, so giving one back costs no round trip."""
