"""Has a rebuild done by a process of its own (rebuilder.py), so that it neither holds up the stream nor the commands.

In the projector's own process rendering takes turns with the stream at one interpreter lock, and nothing can be done
to let commands go first: a process has one priority in the eyes of the scheduler, and the stream must not wait.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cdc.rebuild import Interrupted, Rebuild, Unstarted
from cdc.rebuilder import Order, Progress

SILENCE_S: Final = 60.0  # it says five times a second how far it is; on a machine that is always busy, less often
NICENESS: Final = 5  # beside one who wants all of the processor, a quarter of it
_ROOT: Final = Path(__file__).resolve().parent.parent


class Apart:
    """Starts one process for each rebuild; whatever ends that process before it is done interrupts the rebuild."""

    def __init__(self, order: Callable[[], Order]) -> None:
        self._order = order

    async def work(self, rebuild: Rebuild) -> None:
        """Return when it is done; Interrupted when it is not, Unstarted when there was no process to begin with it.

        Cancelled, it takes the process along.
        """
        process = await _start()
        try:
            await _Conversation(process, rebuild).hold(self._order())
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _start() -> Process:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "cdc.rebuilder"),
            stdin=PIPE,
            stdout=PIPE,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])},
            start_new_session=True,  # for its priority
        )
    except OSError as error:
        raise Unstarted(str(error)) from error
    _give_way(process.pid)
    return process


def _give_way(pid: int) -> None:
    """Lower the priority of a process by as much as the system has room for."""
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + NICENESS)


def _session_gives_way(pid: int) -> bool:
    """Lower the priority of the session that a process leads; False when that is to be tried again.

    Where the kernel shares by sessions, niceness counts only within one (sched(7), "The autogroup feature"). It lets
    one process say so in a tenth of a second.
    """
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS), encoding="ascii")
    except BlockingIOError:
        return False
    except OSError:  # no such feature, or not for us
        return True
    return True


class _Conversation:
    """What is said to the process, and what it says."""

    def __init__(self, process: Process, rebuild: Rebuild) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._pid, self._input, self._output = process.pid, process.stdin, process.stdout
        self._gives_way = False
        self._rebuild = rebuild
        self._duty = 0.0
        self._lowered_before = rebuild.state.lowered

    async def hold(self, order: Order) -> None:
        """Give the order and listen until the end."""
        self._say(order)
        self._keep_told()
        line = await self._hear()
        if not line:
            raise Unstarted("its process ended at once")
        while (ended := self._note(line)) is None:
            self._keep_told()
            line = await self._hear()
        if ended:
            raise Interrupted(ended)

    async def _hear(self) -> bytes:
        try:
            async with asyncio.timeout(SILENCE_S):
                return await self._output.readline()
        except TimeoutError:
            raise Interrupted(f"its process has said nothing for {SILENCE_S:.0f} s") from None

    def _note(self, line: bytes) -> str | None:
        """Keep how far it has come; what ended it, "" when it is done, None while it goes on."""
        try:
            told: Progress = json.loads(line)
        except ValueError:  # also where a line is cut short
            raise Interrupted("its process has ended") from None
        state = self._rebuild.state
        state.members_done, state.members_total = told["members_done"], told["members_total"]
        state.refill_s, state.trouble = told["refill_s"], told["trouble"]
        state.lowered = self._lowered_before + told["lowered"]
        state.complete = state.complete and not told["lowered"]
        return told["ended"]

    def _keep_told(self) -> None:
        self._gives_way = self._gives_way or _session_gives_way(self._pid)
        if self._duty != self._rebuild.duty:
            self._duty = self._rebuild.duty
            self._say(self._duty)

    def _say(self, document: Any) -> None:
        self._input.write(json.dumps(document).encode() + b"\n")
