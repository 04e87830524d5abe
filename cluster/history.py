"""Writes down what befalls the primary of one shard while it happens, for the supervisor."""

import time

from cluster.event import Event, Kind, instant, note_event
from cluster.supervisor import Supervisor


class History:
    """Of one shard. What cannot be written for want of room is written with the next state."""

    def __init__(self, supervisor: Supervisor, shard: str) -> None:
        self._supervisor = supervisor
        self._shard = shard
        self._event: Event | None = None
        self._began_at = 0.0

    def begin(self, kind: Kind, server: str, why: str, outlook: str = "") -> None:
        """Something befalls a server: told and kept before anything is done about it, which is what `outlook` says."""
        self._supervisor.note(server, f"{why}{outlook}")
        self._began_at = time.monotonic()
        events = self._supervisor.run.events.setdefault(self._shard, [])
        self._event = note_event(events, Event(instant(), kind, server, why))
        self._supervisor.save()

    def ended(self, primary: str) -> None:
        """A server has taken the place of the one that it befell."""
        if self._event is not None:
            self._event.primary, self._event.took_s = primary, round(time.monotonic() - self._began_at, 1)
            self._supervisor.save()
            self._supervisor.note(self._shard, f"{primary} is the primary (after {self._event.took_s:.1f} s)")
            self._event = None
