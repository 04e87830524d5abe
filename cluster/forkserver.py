"""The process that nodes are forked from: it has imported what they and the supervisor are made of.

The supervisor forks it before it has a loop, a thread, a lock or a file (`fork_parent`), so one import serves all of
them, and the pages it filled are shared for as long as nobody writes to them. It runs no loop and no thread either, so
that a fork takes nothing half-done along, and does nothing else: it lives as long as the other end of its socket, and
its children no longer than it.

A line asks (`Order`) and is answered by `{"pid": n}`, in order; `{"pid": n, "code": c}` tells at any time who ended.
"""

import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypedDict

import orjson

from cluster.process import PR_SET_PDEATHSIG, open_log

READ_BYTES: Final = 1 << 16
STANDARD: Final = (0, 1, 2)
M_ARENA_MAX: Final = -8  # malloc.h: all threads of ours share one heap; each would keep a mebibyte of its own
_WORDS_FIELDS: Final = slice(45, 49)  # arg_start, arg_end, env_start, env_end: what follows the name in /proc/self/stat


class Order(TypedDict):
    """A process to fork: `argv` as it would be executed, `python -P -m MODULE …`."""

    argv: list[str]
    env: dict[str, str]
    log: str
    death_signal: int


class Born(NamedTuple):
    """The process to fork from, and our end of its socket."""

    pid: int
    connection: socket.socket


def fork_parent(modules: Sequence[str], log: Path, rehearse: Callable[[], None] | None = None) -> Born:
    """Import these modules and fork the process to fork from. OSError when it cannot have a log, or be forked.

    Whoever calls has no loop, no thread and no lock yet, and goes on with the same pages. A rehearsal spares
    nodes some of their own; when it fails, a node will fail likewise and say why.
    """
    open_log(log).close()
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    for module in modules:
        import_module(module)
    if rehearse:
        with suppress(Exception):
            rehearse()
    gc.collect()
    gc.freeze()  # the collector writes to what it looks at, and so would unshare it
    ours, theirs = socket.socketpair()
    caller = os.getpid()
    if pid := os.fork():
        theirs.close()
        return Born(pid, ours)
    ours.close()
    return _end_with(lambda: _begin(theirs, caller, log))


def _begin(connection: socket.socket, caller: int, log: Path) -> None:
    """Be the process to fork from, until the other end is closed; in a child, be what was ordered."""
    _stand_alone(caller, signal.SIGKILL, log)
    _close_all_but(connection.fileno())
    _have(os.environ.copy())
    _show([sys.executable, "-P", "-m", "cluster.forkserver"])
    if work := Parent(connection).fork_until_closed():
        work()


def _end_with(work: Callable[[], None]) -> NoReturn:
    """Do this and end, whatever comes of it: whoever was forked is not to go on with what its parent was about."""
    try:
        work()
    except BaseException:  # noqa: BLE001 - there is nobody to raise it to
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


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
    _stand_alone(parent, order["death_signal"], Path(order["log"]))
    _have(order["env"])
    _show(order["argv"])
    module, *words = order["argv"][3:]
    sys.argv = [module, *words]
    return sys.modules[f"{module}.__main__"].main


def _stand_alone(parent: int, death_signal: int, path: Path) -> None:
    """Have a session, a folder and streams of its own, and end with the parent."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel knew whom to tell
    with open_log(path) as log, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for name, handle in (("stdout", 1), ("stderr", 2)):  # what the parent has not written yet stays the parent's
        setattr(sys, name, open(handle, "w", 1, errors="backslashreplace", closefd=False))  # noqa: SIM115
    os.chdir("/")


def _close_all_but(kept: int) -> None:
    """Close what whoever executed the supervisor has left open, as for a process that is executed."""
    for handle in {int(name) for name in os.listdir("/proc/self/fd")} - {*STANDARD, kept}:  # noqa: PTH208 - numbers
        with suppress(OSError):  # the one that read the folder
            os.close(handle)


def _have(env: Mapping[str, str]) -> None:
    """Have this environment, and nothing left where the first one lay: `_show` writes there."""
    os.environ.clear()
    os.environ.update(env)


def _show(words: Sequence[str]) -> None:
    """Let `ps` show these words: Linux reads them where the first ones were put, and on where the environment was."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    first, end, env_first, env_end = map(int, fields[_WORDS_FIELDS])
    shown = b"".join(os.fsencode(word) + b"\0" for word in words)
    last = env_end if env_first == end else end
    if len(shown) > end - first:  # then it reads up to the first zero
        shown = shown[:-1].replace(b"\0", b" ")[: last - first - 1]
    ctypes.memmove(first, shown.ljust(last - first, b"\0"), last - first)
