"""The servers of the shard as operators see them: each is asked every few seconds, and /metrics shows the last answers.

Asked by connections of its own, so that it tells of a server that is away, and of two that both take writes. They are
kept for a minute: to connect and to ask for the first time costs a server ten times as much as to ask again. On the way
it drops what keeps slots from being copied to a standby, and leaves there the proof that it is one of the shard's,
whatever engine looks after the servers.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cdc.slot import STATEMENTS as SLOTS
from cdc.slot import connect
from shard_router.incarnation import is_continuous, prove_continuity
from shard_router.server import SERVER_ERRORS, place_of_server, read_server, read_slots
from shard_router.topology import Shard

ASK_INTERVAL_S: Final = 5.0
ASK_TIMEOUT_S: Final = 3.0  # a frozen server answers nothing
KEPT_S: Final = 60.0  # a server that lets nobody in any more counts as away by then

_SERVER: Final = ("shard", "server", "zone")
_SLOT: Final = ("shard", "server", "zone", "slot", "kind")
_FIGURES: Final = (  # of standbys (True), of primaries (False), of both (None)
    ("primary", "1 of a primary, 0 of a standby.", None),
    ("timeline", "One more with every failover.", None),
    ("lag_seconds", "How long ago what a standby shows was new.", True),
    ("lag_bytes", "WAL that a standby has not replayed.", True),
    ("synchronous_standbys", "Standbys that acknowledge a primary's commits.", False),
    ("anybody_acknowledges", "1 where any connection that streams, a projector's too, acknowledges commits.", False),
    ("decoding_waits", "1 where a projector is sent only what a standby has.", False),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server answered; `row` is None when it did not."""

    server: str
    zone: str
    row: Any = None
    slots: Sequence[Any] = field(default_factory=tuple)
    url: str = ""
    has_slot: bool = False
    """Whether it has the projector's slot."""
    streams: int | None = None
    """The timeline it receives from a primary."""
    proven: bool = False
    """Whether its continuity is proven already (shard_router.incarnation)."""


class ServerWatch(Collector):
    """Asks for ever, and shows what was heard last."""

    def __init__(self, name: str, shard: Shard, slot: str) -> None:
        self._name = name
        self._shard = shard
        self._slot = slot
        self._seen: list[Seen] = []
        self._kept: dict[str, tuple[Any, float]] = {}
        """Connections that nobody uses now, by address, and until when they are."""

    async def run(self) -> None:
        """Ask every server, again and again."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(ASK_INTERVAL_S)
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        while self._kept:
            self._kept.popitem()[1][0].terminate()

    async def look(self) -> None:
        """Ask every server once, all at the same time."""
        asked = (self._ask(url, zone or "") for url, zone in self._shard.placed)
        self._seen = list(await asyncio.gather(*asked))
        await asyncio.gather(*(_prove(one.url, self._slot) for one in followers(self._seen) if not one.proven))

    async def _ask(self, url: str, zone: str) -> Seen:
        server = place_of_server(url)
        with suppress(*SERVER_ERRORS):
            async with asyncio.timeout(ASK_TIMEOUT_S), self._connection(url) as connection:
                row, _ = await read_server(connection)
                if row["standby"]:
                    await drop_stale_slots(connection)
                found: Any = await connection.fetchrow(SLOTS["continuity"], self._slot)
                proven = await is_continuous(connection, self._slot)
                slots = await read_slots(connection)
                return Seen(server, zone, row, slots, url, found["has_slot"], found["streams"], proven)
        return Seen(server, zone)

    @asynccontextmanager
    async def _connection(self, url: str) -> AsyncGenerator[Any]:
        """A kept connection, or a fresh one; cut when what is asked through it fails, or is not answered in time."""
        connection, until = self._kept.pop(url, (None, 0.0))
        if connection is not None and time.monotonic() >= until:
            connection.terminate()
        if connection is None or connection.is_closed():
            connection, until = await connect(url), time.monotonic() + KEPT_S
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        self._kept[url] = connection, until

    def primary(self) -> tuple[int, str]:
        """Timeline and address of the primary, of several that of the highest timeline; (0, "") while there is none."""
        primaries = [one for one in self._seen if one.row is not None and not one.row["standby"]]
        return max(((one.row["timeline"], one.url) for one in primaries), default=(0, ""))

    def synchronous_standbys(self) -> dict[str, int]:
        """How many standbys acknowledge the commits of each primary: only the projector may see that."""
        primaries = [one for one in self._seen if one.row is not None and not one.row["standby"]]
        return {one.server: one.row["synchronous_standbys"] for one in primaries}

    def collect(self) -> Iterable[Metric]:
        """Every figure of every server."""
        seen, answers = self._seen, [one for one in self._seen if one.row is not None]
        up = GaugeMetricFamily("loyalty_server_up", "Whether this server answers.", labels=_SERVER)
        for one in seen:
            up.add_metric([self._name, one.server, one.zone], float(one.row is not None))
        yield up
        heads = [one.row["lsn"] for one in answers if not one.row["standby"]]
        for name, about, of_standbys in _FIGURES:
            family = GaugeMetricFamily(f"loyalty_server_{name}", about, labels=_SERVER)
            for one in answers:
                if of_standbys in {None, one.row["standby"]} and (value := _figure(name, one.row, heads)) is not None:
                    family.add_metric([self._name, one.server, one.zone], float(value))
            yield family
        yield from self._slots(answers)

    def _slots(self, answers: Sequence[Seen]) -> Iterable[Metric]:
        for what, about in (
            ("active", "Whether somebody streams from this slot."),
            ("copied", "Of a standby: whether its copy of the slot could go on after a failover."),
            ("lost", "1 where Postgres gave the slot's WAL up."),
            ("retained_bytes", "WAL kept for this slot."),
            ("room_bytes", "WAL that may still come before the slot is given up."),
        ):
            family = GaugeMetricFamily(f"loyalty_slot_{what}", about, labels=_SLOT)
            for one in answers:
                for slot in one.slots:
                    value = slot[what]
                    if value is not None:
                        family.add_metric([self._name, one.server, one.zone, slot["name"], slot["kind"]], float(value))
            yield family


def _figure(name: str, row: Any, heads: Sequence[int]) -> float | None:
    """What a server's row says; `lag_bytes` is reckoned from the primary's head, and unknown without one."""
    if name == "lag_bytes":
        return max(0, max(heads) - row["lsn"]) if heads else None
    return row[name]


def followers(seen: Sequence[Seen]) -> list[Seen]:
    """The standbys that stream from the one primary there is, which has the projector's slot.

    A server that recovers from a back-up receives from nobody, and one that was restored has no slot yet.
    """
    primaries = [one for one in seen if one.row is not None and not one.row["standby"]]
    if len(primaries) != 1 or not primaries[0].has_slot:
        return []
    timeline = primaries[0].row["timeline"]
    return [one for one in seen if one.row is not None and one.row["standby"] and one.streams == timeline]


async def _prove(url: str, slot: str) -> None:
    with suppress(*SERVER_ERRORS):
        async with asyncio.timeout(ASK_TIMEOUT_S):
            connection = await connect(url)
            try:
                await prove_continuity(connection, slot)
            finally:
                connection.terminate()


async def drop_stale_slots(connection: asyncpg.Connection) -> None:
    """Drop what blocks the copying of slots to a standby. It may be taken just now: then the next look drops it."""
    try:
        for row in await connection.fetch(SLOTS["drop_stale_slots"], False):  # noqa: FBT003
            structlog.get_logger().warning("stale_slot_dropped", slot=row["slot_name"])
    except asyncpg.PostgresError as error:
        structlog.get_logger().warning("stale_slots_stay", error=type(error).__name__)
