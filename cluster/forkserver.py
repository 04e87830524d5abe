"""`python -m cluster.forkserver FD MODULE,…`: forks nodes from one process that has imported what they are made of.

One import serves all of them, and the pages it filled are shared for as long as nobody writes to them. It runs no loop
and no thread, so that a fork takes nothing half-done along, and does nothing else: it lives as long as the other end of
its socket, and its children no longer than it.

A line asks (`Order`) and is answered by `{"pid": n}`, in order; `{"pid": n, "code": c}` tells at any time who ended.
"""

import ctypes
import gc
import os
import selectors
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypedDict

import orjson

from cluster.process import PR_SET_PDEATHSIG, open_log

READ_BYTES: Final = 1 << 16
PADDING: Final = "-" * 1024
"""The last argument: room for the words of a child in what `ps` shows."""
_ARGV_FIELDS: Final = slice(45, 47)  # arg_start and arg_end among what follows the name in /proc/self/stat


class Order(TypedDict):
    """A process to fork: `argv` as it would be executed, `python -P -m MODULE …`."""

    argv: list[str]
    env: dict[str, str]
    log: str
    death_signal: int


def main() -> None:
    """Import, then fork until the other end is closed."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2].split(","):
        import_module(module)
    _show([sys.executable, "-P", "-m", "cluster.forkserver"])
    gc.collect()
    gc.freeze()  # the collector writes to what it looks at, and so would unshare it
    connection.sendall(b"{}\n")
    if work := Parent(connection).fork_until_closed():
        work()


@dataclass(slots=True)
class Parent:
    """Who forks; `children` are their pids by the handle that tells when one ends."""

    connection: socket.socket
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    children: dict[int, int] = field(default_factory=dict[int, int])

    def fork_until_closed(self) -> Callable[[], Any] | None:
        """In each child what it is to do; in the parent nothing, once the other end is closed."""
        self.selector.register(self.connection, selectors.EVENT_READ)
        lines = b""
        while True:
            ready = {key.fd for key, _ in self.selector.select()}
            for handle in ready & self.children.keys():
                self._bury(handle)
            if self.connection.fileno() not in ready:
                continue
            if not (read := self.connection.recv(READ_BYTES)):
                return None
            *orders, lines = (lines + read).split(b"\n")
            for order in orders:
                if (work := self._fork(orjson.loads(order))) is not None:
                    return work

    def _fork(self, order: Order) -> Callable[[], Any] | None:
        """In the child what it is to do."""
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._tell(pid=0)  # no memory, or too many processes
            return None
        if pid == 0:
            self._let_go()
            return _become(order, parent)
        handle = os.pidfd_open(pid)
        self.children[handle] = pid
        self.selector.register(handle, selectors.EVENT_READ)
        self._tell(pid=pid)
        return None

    def _bury(self, handle: int) -> None:
        self.selector.unregister(handle)
        os.close(handle)
        pid, status = os.waitpid(self.children.pop(handle), 0)
        self._tell(pid=pid, code=os.waitstatus_to_exitcode(status))

    def _let_go(self) -> None:
        """A child keeps nothing that is its parent's."""
        self.selector.close()
        self.connection.close()
        for handle in self.children:
            os.close(handle)

    def _tell(self, **words: int) -> None:
        self.connection.sendall(orjson.dumps(words) + b"\n")


def _become(order: Order, parent: int) -> Callable[[], Any]:
    """Be what would have been executed: its own session, log, environment and words."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, order["death_signal"])
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel knew whom to tell
    with open_log(Path(order["log"])) as log, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(order["env"])
    _show(order["argv"])
    module, *words = order["argv"][3:]
    sys.argv = [module, *words]
    return sys.modules[f"{module}.__main__"].main


def _show(words: Sequence[str]) -> None:
    """Let `ps` show these words: Linux reads them where the first ones were put."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    first, end = map(int, fields[_ARGV_FIELDS])
    shown = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - first - 1]
    ctypes.memmove(first, shown.ljust(end - first, b"\0"), end - first)


if __name__ == "__main__":
    main()
