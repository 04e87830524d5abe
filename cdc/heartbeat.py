"""A message each interval that goes the way of every commit: it moves an idle slot and measures lag and silence.

A stream can fall silent without ending: a frozen walsender, a host that is gone. Heartbeats that are committed and do
not come back tell that, unless there is a reason for it: Valkey is away, a standby must confirm first, or the walsender
is at work on a large transaction. Heartbeats are counted, not time: a machine that was suspended has committed none.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import asyncpg
import structlog

from cdc.projector import SLOT_BYTES, Projector
from cdc.slot import STATEMENTS
from cdc.source import HEARTBEAT
from shard_router.errors import LoyaltyError, ProblemError
from shard_router.pool import ShardServers

START_FACTOR: Final = 8  # until the first batch: three JVMs starting on two busy cores took more than a minute


class StreamSilent(LoyaltyError):  # noqa: N818 - it tells what happened
    """Heartbeats are committed and do not come back: the stream is dead without having ended."""


class Sender(NamedTuple):
    """The walsender of the slot, as the primary describes it after `heartbeat` was committed (its lsn)."""

    active: bool
    sent: int | None
    waits: bool
    held_up: bool
    heartbeat: int


@dataclass(slots=True)
class Silence:
    """Counts the heartbeats that have gone unanswered without a reason."""

    heartbeats_max: int
    unanswered: int = 0
    _applied: int = 0
    _sent: int | None = None

    def is_too_long(self, sender: Sender, *, applied: int, occupied: bool) -> bool:
        """Tell, one heartbeat interval after the last time; `occupied`: a batch or Valkey is waited for."""
        excused = applied != self._applied or occupied or sender.held_up or self._works(sender)
        self.unanswered = 0 if excused else self.unanswered + 1
        self._applied, self._sent = applied, sender.sent
        return self.unanswered > self.heartbeats_max * (1 if applied else START_FACTOR)

    def _works(self, sender: Sender) -> bool:
        """Whether the walsender is busy with what lies before the heartbeat; if it may not be known, rather yes."""
        if not sender.active:
            return False
        if sender.sent is None:
            return True
        return sender.sent < sender.heartbeat and (sender.sent != self._sent or not sender.waits)


class Heartbeat:
    """Emits heartbeats for ever."""

    def __init__(self, servers: ShardServers, *, slot: str, interval_s: float, silence_max_s: float) -> None:
        self._servers = servers
        self._slot = slot
        self._interval_s = interval_s
        self._silence = Silence(max(2, round(silence_max_s / interval_s)))
        self._lsn: int | None = None
        self.slot_bytes: int | None = None
        """WAL that Postgres keeps for the slot."""
        self._committed_at = time.monotonic()

    def age_s(self) -> float:
        """How long no heartbeat has been committed, with all that a commit waits for; from the start of the process."""
        return time.monotonic() - self._committed_at

    async def run(self, projector: Projector) -> None:
        """Emit one each interval; StreamSilent when they do not come back through the projector."""
        while True:
            try:
                await self._beat(projector)
            except (ProblemError, asyncpg.PostgresError) as error:
                structlog.get_logger().warning("heartbeat_failed", error=str(error))
            SLOT_BYTES.set(self.slot_bytes or 0)
            await asyncio.sleep(self._interval_s)

    async def _beat(self, projector: Projector) -> None:
        async with self._servers.primary() as connection:
            lsn, self._lsn = self._lsn, None  # one that is not committed is not expected back
            found = await connection.fetchrow(STATEMENTS["stream"], self._slot, lsn or 0)
            self.slot_bytes = found and found["retained_bytes"]
            if lsn is not None:
                self._listen(_sender(found, lsn), projector)
            self._lsn = await connection.fetchval(STATEMENTS["heartbeat"], HEARTBEAT)
            self._committed_at = time.monotonic()

    def _listen(self, sender: Sender, projector: Projector) -> None:
        if self._silence.is_too_long(sender, applied=projector.applied, occupied=projector.occupied):
            raise StreamSilent(f"{self._silence.unanswered} heartbeats did not come back: {sender}")


def _sender(found: Any, heartbeat: int) -> Sender:
    if found is None:
        return Sender(active=False, sent=None, waits=False, held_up=False, heartbeat=heartbeat)
    return Sender(found["active"], found["sent"], found["waits"], found["held_up"], heartbeat)
