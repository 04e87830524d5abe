"""CPU time by role, from /proc (proc_pid_stat(5)): what stands up while other programs share the machine.

A Postgres server is split: `backend` are the sessions of clients, with those that have ended meanwhile (the kernel adds
them to the postmaster), `Postgres` is everything else it runs for itself and its standby.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

BACKEND: Final = "backend"
POSTGRES: Final = "Postgres"
GENERATOR: Final = "generator"
ROLES: Final = {"-command": "node", "-query": "query node", "-cdc": "projector", "-valkey": "Valkey"}
"""What a process of the system is, by a part of its name."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_OWN_TITLES: Final = {
    "checkpointer", "background", "walwriter", "walreceiver", "walsender", "startup", "autovacuum", "logical",
    "slotsync", "archiver", "io", "walsummarizer", "logger",
}  # fmt: skip
"""First words of the titles of Postgres processes that are no client's session."""


def role_of(name: str) -> str:
    """The role of a process of the system."""
    return next((role for part, role in ROLES.items() if part in name), POSTGRES)


def cpu_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds by role of processes (name -> pid) so far, and of this one; who has ended counts nothing."""
    seconds = dict.fromkeys((*ROLES.values(), BACKEND, POSTGRES), 0.0)
    for name, pid in processes.items():
        role = role_of(name)
        own, sessions, others = _family_times(pid)
        seconds[role] += own + others
        seconds[BACKEND if role == POSTGRES else role] += sessions
    return seconds | {GENERATOR: sum(os.times()[:2])}


def thread_s(thread: int) -> float:
    """CPU seconds so far of a thread, or of the first one of a process, by the scheduler's own count of nanoseconds."""
    return int(Path(f"/proc/{thread}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def _family_times(pid: int) -> tuple[float, float, float]:
    """Of a process itself, of its sessions with all children that ended, and of what else it runs.

    Only a postmaster has sessions; a projector has a child that rebuilds.
    """
    ended = _times(pid)[1]
    while True:
        spent_s = {True: ended, False: 0.0}
        for child in _children(pid):
            spent_s[_is_session(child)] += _times(child)[0]
        ended_before, (own, ended) = ended, _times(pid)
        if ended == ended_before:  # else one that was counted, or missed, has ended meanwhile
            return own, spent_s[True], spent_s[False]


def _times(pid: int) -> tuple[float, float]:
    """Utime + stime of a process, and cutime + cstime of its children that ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    user, system, ended_user, ended_system = (int(field) / _TICKS_PER_S for field in fields[11:15])
    return user + system, ended_user + ended_system


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def _is_session(pid: int) -> bool:
    """Whether a child of a postmaster serves a client, or did: one that is about to end has lost its title."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return False
    return not title or is_session_title(title)


def is_session_title(title: str) -> bool:
    """Whether the title is a client session's: `postgres: [<cluster_name>: ]<user> <database> ...`."""
    words = title.partition(": ")[2].split()
    if words and words[0].endswith(":"):
        del words[0]
    return bool(words) and words[0] not in _OWN_TITLES
