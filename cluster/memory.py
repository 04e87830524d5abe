"""How much memory each Postgres server takes for its buffers: room for its data, within its share of the machine.

Pages that do not fit are read, checked and written again for every command (decisions/0096).
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

MIB: Final = 1 << 20
BUFFERS_MB_MIN: Final = 96
BUFFERS_MB_MAX: Final = 8192
BUFFERS_SHARE: Final = 4  # of the memory for buffers: what PostgreSQL's manual advises (19.4.1), over all servers
WAL_SHARE: Final = 96  # of the buffers; PostgreSQL's own is 32
WAL_MB_MAX: Final = 16
_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes(limits: Sequence[Path] = _LIMITS) -> int:
    """What this machine has, or what its control group may have of it."""
    found = [psutil.virtual_memory().total]
    for path in limits:
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if text.isdigit():  # "max": no limit
            found.append(int(text))
    return min(found)


def data_bytes(folder: Path) -> int:
    """How large the tables and indexes of a server are; none before its folder is made."""
    sizes = 0
    for path in (folder / "base").glob("*/*"):
        with suppress(FileNotFoundError):  # dropped meanwhile
            sizes += path.stat().st_size
    return sizes


def buffers(share: int, data: int) -> dict[str, str]:
    """The settings of a server that may take so many bytes and has so many of data.

    Every gigabyte of buffers costs 33 MB to keep even when it is empty, so it takes room for the data to double. Those
    for WAL are written to when a server starts. Commands fill none of a third of what it would take itself.
    """
    wanted_mb = min(share, 2 * data) // MIB
    shared_mb = min(max(wanted_mb, BUFFERS_MB_MIN), BUFFERS_MB_MAX)
    return {"shared_buffers": f"{shared_mb}MB", "wal_buffers": f"{min(shared_mb // WAL_SHARE, WAL_MB_MAX)}MB"}


def share_of(memory: int, servers: int) -> int:
    """What each of so many servers may take for its buffers on a machine with so much memory."""
    return memory // BUFFERS_SHARE // max(servers, 1)
