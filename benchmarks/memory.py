"""What a running system holds in memory, by kind of process: `python -m benchmarks.memory --data DIR [--over SECONDS]`.

PSS counts a page that several processes share in parts: the sum over all is what the machine has to have. RSS counts
it as often as it is mapped. Both are read from `/proc/PID/smaps`, so whoever runs it must own the processes. Pages of
programs and libraries that nobody has written to have a row of their own, each counted once: of their PSS a part is
counted where another system on the machine maps the same files, which says nothing about this one.
With `--over` it waits so long, and tells the CPU that each kind took meanwhile (`/proc/PID/stat`: with children that
have ended, such as the sessions of a Postgres server).
"""

import argparse
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

MIB_KB: Final = 1024
TICK_MS: Final = 1000 // os.sysconf("SC_CLK_TCK")
DOOR: Final = "door"
PROGRAMS: Final = "programs and libraries"
MAPPING: Final = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+ \S+ [0-9]+) +(\S.*)?$")
FIELD: Final = re.compile(r"^(Pss|Rss|Private_Dirty|Anonymous): +(\d+) kB$")
KINDS: Final = (
    ("postgres", re.compile(r"-postgres-\d+$")),
    ("valkey", re.compile(r"-valkey$")),
    ("command nodes", re.compile(r"-command(-\d+)?$")),
    ("query nodes", re.compile(r"-query(-\d+)?$")),
    ("projectors", re.compile(r"-cdc$")),
    (DOOR, re.compile(r"^door$")),
)


class Held(NamedTuple):
    """How many processes, and what they hold in KiB."""

    processes: int = 0
    pss: int = 0
    rss: int = 0
    own: int = 0
    """Pages of its own that it has written."""
    cpu_ms: int = 0
    """CPU so far, with that of its children that have ended."""

    def __add__(self, other: object) -> "Held":
        return Held(*map(sum, zip(self, other, strict=True))) if isinstance(other, Held) else NotImplemented


Files = dict[str, int]
"""KiB that a process has of each mapping of a file, where it has written to none of it."""


def held_by(pid: int) -> tuple[Held, Files]:
    """What one process holds, but for PSS of files that it only reads, and these files; nothing when it has ended."""
    try:
        mappings = list(_mappings(Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace")))
        times = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return Held(), {}
    read = {place: found for place, found in mappings if place and not found["Anonymous"]}
    pss, rss, own = (sum(found[name] for _, found in mappings) for name in ("Pss", "Rss", "Private_Dirty"))
    pss -= sum(found["Pss"] for found in read.values())
    cpu_ms = TICK_MS * sum(map(int, times[11:15]))
    return Held(1, pss, rss, own, cpu_ms), {place: found["Rss"] for place, found in read.items()}


def _mappings(smaps: str) -> Iterator[tuple[str, dict[str, int]]]:
    """What is told of each mapping, by file and place in it; without a name where it is of no file that stays."""
    place, found = "", dict[str, int]()
    for line in smaps.splitlines():
        if mapping := MAPPING.match(line):
            if found:
                yield place, found
            name = mapping[2] or ""
            place = f"{name} {mapping[1]}" if name.startswith("/") and not name.endswith("(deleted)") else ""
            found = {}
        elif told := FIELD.match(line):
            found[told[1]] = int(told[2])
    if found:
        yield place, found


def kind_of(name: str) -> str:
    """The kind of a process of that name."""
    return next((kind for kind, pattern in KINDS if pattern.search(name)), name)


def held_by_kind(data: Path) -> dict[str, Held]:
    """What the supervisor and each kind of its processes hold, with all their children; the door with its files."""
    run = json.loads((data / "run.json").read_text(encoding="utf-8"))
    named = {record["identity"]["pid"]: name for name, record in run["processes"].items() if record["identity"]}
    found: defaultdict[str, Held] = defaultdict(Held)
    files: defaultdict[str, Files] = defaultdict(Files)

    def note(process: psutil.Process, kind: str) -> None:
        kind = kind_of(named[process.pid]) if process.pid in named else kind
        held, read = held_by(process.pid)
        found[kind] += held
        known = files[DOOR if kind == DOOR else PROGRAMS]
        known |= {place: max(kb, known.get(place, 0)) for place, kb in read.items()}
        with suppress(psutil.NoSuchProcess):  # a session of Postgres that has ended meanwhile
            for child in process.children():
                note(child, "the process to fork from" if kind == "supervisor" else kind)

    note(psutil.Process(run["supervisor"]["pid"]), "supervisor")
    for pid, name in named.items():  # a server of Postgres may have outlived who started it
        if not _is_below(pid, run["supervisor"]["pid"]):
            note(psutil.Process(pid), kind_of(name))
    for kind, read in files.items():
        found[kind] += Held(pss=sum(read.values()))
    return dict(found)


def _is_below(pid: int, supervisor: int) -> bool:
    return any(parent.pid == supervisor for parent in psutil.Process(pid).parents())


def _with_sum(found: dict[str, Held]) -> dict[str, Held]:
    return {**found, "all": sum(found.values(), Held())}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Data folder of a running system.")
    parser.add_argument("--over", type=float, default=0.0, help="Seconds to measure CPU for.")
    arguments = parser.parse_args()
    before = _with_sum(held_by_kind(arguments.data)) if arguments.over else {}
    time.sleep(arguments.over)
    for kind, held in _with_sum(held_by_kind(arguments.data)).items():
        figures = (f"{kb / MIB_KB:7.1f}" for kb in (held.pss, held.rss, held.own))
        line = f"{kind:26}{held.processes:4}  PSS {next(figures)}  RSS {next(figures)}  own {next(figures)} MiB"
        if arguments.over:
            spent_ms = held.cpu_ms - before.get(kind, Held()).cpu_ms
            line = f"{line}  CPU {spent_ms / arguments.over / 10:5.2f} % of a core"
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
