"""What a process does, as those who fence and wake see it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from cluster.fence import is_stopped, state_of


def ended(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def buried(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


def stopped(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)


def woken(child: subprocess.Popen[bytes]) -> None:
    stopped(child)
    child.send_signal(signal.SIGCONT)
    os.waitid(os.P_PID, child.pid, os.WCONTINUED | os.WNOWAIT)


@pytest.mark.parametrize(
    ("happens", "state", "is_frozen"),
    [
        pytest.param(stopped, psutil.STATUS_STOPPED, True, id="stopped by a signal"),
        pytest.param(woken, psutil.STATUS_RUNNING, False, id="woken again"),
        pytest.param(ended, psutil.STATUS_ZOMBIE, False, id="ended, and nobody has asked how"),
        pytest.param(buried, None, False, id="gone"),
    ],
)
def test_the_state_of_a_process_is_told(
    happens: Callable[[subprocess.Popen[bytes]], None], state: str | None, *, is_frozen: bool
) -> None:
    command = (sys.executable, "-c", "input()")
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        try:
            happens(child)
            assert (state_of(child.pid), is_stopped(child.pid)) == (state, is_frozen)
        finally:
            child.kill()
