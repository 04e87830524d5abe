"""Wakes single processes of a server that were stopped while the server itself goes on.

Nobody can tell a stopped process to end. A walsender that is stopped keeps the projector's slot for ever, a backend its
locks. Of a server that is stopped as a whole nothing is woken: another may have its place by then.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.fence import state_of

LOOKS = 3  # stopped for so many looks in a row


class Waking:
    """The stopped processes of some servers, and for how many looks they have been."""

    def __init__(self) -> None:
        self._looks: dict[int, int] = {}

    def look(self, postmasters: list[int]) -> list[int]:
        """Wake those that have been stopped for long enough; who that was."""
        stopped = [pid for parent in postmasters if not _is_stopped(parent) for pid in _below(parent)]
        self._looks = {pid: self._looks.get(pid, 0) + 1 for pid in stopped if _is_stopped(pid)}
        woken = [pid for pid, looks in self._looks.items() if looks >= LOOKS]
        for pid in woken:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
        return woken


def _is_stopped(pid: int) -> bool:
    """Whether by a signal; whom a debugger holds is left to it."""
    return state_of(pid) == psutil.STATUS_STOPPED


def _below(pid: int) -> list[int]:
    """The children of a process, by the kernel where it tells them: psutil looks at every process there is."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    with suppress(psutil.Error):
        return [process.pid for process in psutil.Process(pid).children()]
    return []
