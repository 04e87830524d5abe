"""What is known of one server of a pair, and why it is in trouble that a restart does not end."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from cluster.fence import is_stopped
from cluster.supervisor import READY, Kept

STOPPED_LOOKS = 3  # a stopped process is one for this many looks before it counts as frozen
SILENT_MAX_S = 11.0
COMPLAINTS_MAX = 3  # probes in a row that its disk has failed
DEATHS_MAX = 2  # a server that dies so often before it is ready again does not come back by itself
ROOM_MIN_BYTES = 32 * 1024 * 1024  # two segments of WAL: with less a server stops before long, and none is promoted

HANGS = ("it is frozen", "it has not answered")
"""What a start cures."""
DIES = "it does not stay up"
FULL = "its disk is full"
SERVES = (FULL, "its pages are damaged")
"""What still answers: where nobody can take its place, it goes on as it can."""
DAMAGED = ("its pages are damaged", "its disk fails")
"""What no rewind mends, because it leaves most of a folder as it is."""

DISK_ERRORS = (
    asyncpg.DiskFullError,
    asyncpg.PostgresSystemError,  # EIO, and files that are gone
    asyncpg.InsufficientPrivilegeError,  # a disk that became read-only; the superuser may do everything else
    asyncpg.DataCorruptedError,
    asyncpg.IndexCorruptedError,
)
"""What a server says that runs, and cannot use its disk."""


@dataclass(slots=True)
class Watched:
    """One server since it was last started anew."""

    stopped_looks: int = 0
    deaths: int = 0
    restarts_seen: int = 0
    complaints: int = 0
    complaint: str = ""
    damaged_pages: int = 0
    """By its own count of those that were read."""
    found_pages: int = 0
    """Those that were found damaged when it was read through, or copied."""
    lacks_slots: bool = True
    """Of a standby: it is not known to have copies to go on with."""
    told: str = ""
    """What was said of it last."""
    answered_at: float = field(default_factory=time.monotonic)
    streamed_at: float = field(default_factory=time.monotonic)

    @property
    def is_damaged(self) -> bool:
        """Whether it has pages that nobody can read."""
        return bool(self.damaged_pages or self.found_pages)

    def answered(self) -> None:
        """It did what a probe asked."""
        self.answered_at, self.complaints = time.monotonic(), 0

    def complained(self, error: BaseException) -> None:
        """It answered a probe that its disk fails."""
        self.complaints += 1
        self.complaint = str(error).splitlines()[0]

    def forgive(self, now: float) -> None:
        """Nobody looked for a while: what was silent meanwhile gets all its time again."""
        self.answered_at, self.streamed_at, self.stopped_looks = now, now, 0

    def trouble(self, folder: Path, kept: Kept | None) -> str | None:
        """Why a server will not come back by being restarted; None while it is well or may be."""
        return (
            _of_folder(folder)
            or self._of_process(kept)
            or (f"its disk fails: {self.complaint}" if self.complaints >= COMPLAINTS_MAX else None)
            or (f"its pages are damaged: {self.damaged_pages} had a wrong checksum" if self.damaged_pages else None)
            or (f"its pages are damaged: {self.found_pages} were found by reading it" if self.found_pages else None)
            or _full(folder)
        )

    def _of_process(self, kept: Kept | None) -> str | None:
        if kept is None or not kept.tasks:  # or only its start was begun, and cut short
            return "nobody keeps it"
        state = kept.record.state
        if state == READY:
            self.deaths = 0
        self.deaths += kept.record.restarts - self.restarts_seen
        self.restarts_seen = kept.record.restarts
        if self.deaths >= DEATHS_MAX:
            return DIES
        self.stopped_looks = self.stopped_looks + 1 if is_stopped(kept.child.pid) else 0
        if self.stopped_looks >= STOPPED_LOOKS:
            return "it is frozen"
        silent_s = time.monotonic() - self.answered_at
        if state in {READY, self.told} and silent_s > SILENT_MAX_S and not self.complaints:
            return f"it has not answered for {silent_s:.0f} s"
        return None


def kind_of(why: str) -> str:
    """A trouble without its figures, so that it is told once."""
    return why if why.startswith(DAMAGED) else why.partition(" for ")[0]


def _of_folder(folder: Path) -> str | None:
    try:
        return None if (folder / "global" / "pg_control").is_file() else "its data are gone"
    except OSError as error:
        return f"its disk fails: {error}"


def _full(folder: Path) -> str | None:
    """A full disk is told by the disk: until it needs another segment of WAL a server says nothing of it."""
    return None if has_room(folder) else FULL


def has_room(folder: Path) -> bool:
    """Whether a server can go on there: both where its data lie and where its WAL does."""
    try:
        places = [os.statvfs(place) for place in (folder, folder / "pg_wal")]
    except OSError:
        return False
    return all(place.f_bavail * place.f_frsize >= ROOM_MIN_BYTES for place in places)
