"""run.json: who runs on a data folder, so that a later start or `down` finds them even after kill -9.

A process is known by its id and its start time together; an id alone may belong to a stranger by now. The lock beside
it is held by the living supervisor, and the kernel drops it with the supervisor.
"""

import fcntl
import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from cluster.errors import ClusterError
from cluster.event import Event
from cluster.files import read_json, write_json
from cluster.process import kill_group
from shard_router.document import describe_faults

START_TOLERANCE_S = 2.0  # psutil derives start times from the boot time, which goes with the clock
ORPHAN_DEADLINE_S = 10.0
DYING_MAX_S = 10.0
POLL_INTERVAL_S = 0.05


_UNREADABLE = (
    ". It says what runs there: end that (`ps` shows it by the name of the folder), remove the file, start anew"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    started_at_s: float
    start: str | None = None
    """The same by a clock that nobody sets, where there is one: whoever sets that of the machine moves the other."""

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """The identity of a process that runs now."""
        try:
            return cls(pid, psutil.Process(pid).create_time(), _start_of(pid))
        except psutil.Error:
            return cls(pid, 0.0)

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            if self.start and (start := _start_of(self.pid)):
                same = start == self.start
            else:
                same = abs(process.create_time() - self.started_at_s) < START_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def _start_of(pid: int) -> str | None:
    """The boot, and the ticks from then until a process was started; None elsewhere than on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        ticks = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19].decode()  # proc_pid_stat(5)
    except OSError:
        return None
    return f"{boot} {ticks}"


@dataclass(slots=True)
class ProcessRecord:
    """One kept process as `loyalty status` sees it."""

    state: str
    log: str
    identity: Identity | None = None
    port: int | None = None
    restarts: int = 0
    last_exit: str | None = None
    stop_signal: int = signal.SIGTERM


@dataclass(slots=True)
class RunRecord:
    """The content of run.json."""

    supervisor: Identity
    ready: bool = False
    cdc_source: str = "pgoutput"
    processes: dict[str, ProcessRecord] = field(default_factory=dict[str, ProcessRecord])
    events: dict[str, list[Event]] = field(default_factory=dict[str, list[Event]])
    """By shard, the newest last."""

    def save(self, data: Path) -> None:
        """Write it whole."""
        write_json(run_path(data), asdict(self))


def run_path(data: Path) -> Path:
    """Where the record of a data folder lies."""
    return data / "run.json"


def read_run(data: Path) -> RunRecord | None:
    """The record of a data folder, None when nothing was started there; ClusterError when it is not one."""
    try:
        document = read_json(run_path(data))
        return None if document is None else TypeAdapter(RunRecord).validate_python(document)
    except ValidationError as error:
        raise ClusterError(f"{run_path(data)}: {describe_faults(error)}{_UNREADABLE}") from error
    except ClusterError as error:
        raise ClusterError(f"{error}{_UNREADABLE}") from error


def begin_run(data: Path, cdc_source: str) -> RunRecord:
    """The record of this process as the supervisor: what befell the shards before is known to it."""
    before = read_run(data)
    return RunRecord(Identity.of(os.getpid()), cdc_source=cdc_source, events=before.events if before else {})


@contextmanager
def exclusive(data: Path) -> Generator[None]:
    """Hold the data folder alone; ClusterError when another supervisor has it."""
    data.mkdir(parents=True, exist_ok=True)
    handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(handle, data)
        yield
    finally:
        os.close(handle)


def _take(handle: int, data: Path) -> None:
    """Take the lock. One that was killed holds it a moment longer than its main thread lives, or a next one has it."""
    until = time.monotonic() + DYING_MAX_S
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run = read_run(data)
        if run is None or run.supervisor.alive() or time.monotonic() > until:
            owner = f" (process {run.supervisor.pid})" if run else ""
            raise ClusterError(
                f"{data} is in use by another supervisor{owner}.\n"
                "Stop it with `loyalty down`, or give this one its own --data and --port."
            )
        time.sleep(POLL_INTERVAL_S)


def locked(data: Path) -> bool:
    """Whether a supervisor lives on the data folder; makes nothing there."""
    if not (data / "lock").exists():
        return False
    try:
        with exclusive(data):
            return False
    except ClusterError:
        return True


def stop_orphans(data: Path) -> list[str]:
    """Stop what an earlier supervisor left behind; the names of those stopped. Call with the lock held."""
    run = read_run(data)
    if run is None:
        return []
    orphans = {n: p for n, p in run.processes.items() if p.identity is not None and p.identity.alive()}
    for orphan in orphans.values():
        _signal(orphan, orphan.stop_signal)
    if not wait_gone([p.identity for p in orphans.values()], ORPHAN_DEADLINE_S):
        for orphan in orphans.values():
            if orphan.identity is not None and orphan.identity.alive():
                kill_group(orphan.identity.pid)
        wait_gone([p.identity for p in orphans.values()], ORPHAN_DEADLINE_S)
    return list(orphans)


def _signal(process: ProcessRecord, number: int) -> None:
    if process.identity is not None and process.identity.alive():
        os.kill(process.identity.pid, number)


def wait_gone(identities: list[Identity | None], deadline_s: float) -> bool:
    """Wait until none of the processes runs; False when the deadline passes first."""
    until = time.monotonic() + deadline_s
    while any(identity is not None and identity.alive() for identity in identities):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True
