"""One life of a supervisor: lock the data folder, clear what an earlier one left, bring up, keep, stop cleanly."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.disk import disks_of
from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.fork import ForkServer
from cluster.growth import Growth
from cluster.node import PROJECT, first_environment, node_environment
from cluster.password import ensure_passwords
from cluster.plan import ClusterPlan
from cluster.process import describe_exit, log_tail, open_log
from cluster.progress import PROGRESS_LINE
from cluster.run_file import begin_run, exclusive, locked, read_run, stop_orphans, wait_gone
from cluster.supervisor import Listener, Supervisor
from cluster.system import System

DETACH_DEADLINE_S = 300.0
DOWN_DEADLINE_S = 90.0
POLL_INTERVAL_S = 0.1
SUPERVISOR = "supervisor"


def begin_forks(plan: ClusterPlan) -> ForkServer:
    """The process to fork nodes from: to be made first of all, before there is a thread, a lock or a loop."""

    def rehearse() -> None:
        from cluster.rehearsal import rehearse  # noqa: PLC0415 - it imports all nodes: who forks none need not

        rehearse(plan)

    return ForkServer.begin(node_environment(first_environment()), Documents(plan.data).log("forkserver"), rehearse)


def run_system(plan: ClusterPlan, forks: ForkServer, *, on_change: Listener, on_ready: Callable[[int], None]) -> None:
    """Run the system until Ctrl-C, SIGTERM or `loyalty down`; ClusterError when it does not come up."""
    with exclusive(plan.data):
        if orphans := stop_orphans(plan.data):
            on_change(SUPERVISOR, f"stopped what an earlier start left: {', '.join(orphans)}")
        asyncio.run(_live(plan, forks, on_change, on_ready))


async def _live(plan: ClusterPlan, forks: ForkServer, on_change: Listener, on_ready: Callable[[int], None]) -> None:
    run = begin_run(plan.data, plan.cdc_source)
    run.save(plan.data)  # before anything is started: what cannot be recorded is not begun
    documents = Documents(plan.data)
    supervisor = Supervisor(plan.data, run, on_change, forks=forks)
    system = System(plan, supervisor, ensure_passwords(documents.secrets, documents.superuser_before))
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    try:
        await forks.start()
        version = await _unless(asked_to_stop, system)
        if version is not None:
            run.ready = True
            supervisor.save()
            on_ready(version)
            await _grow_until(asked_to_stop, system)
    finally:
        run.ready = False
        await system.stop()
        await forks.close()


async def _grow_until(asked_to_stop: asyncio.Event, system: System) -> None:
    """Add and remove regions as asked, until told to stop."""
    growing = asyncio.create_task(Growth(system).run())
    await asked_to_stop.wait()
    growing.cancel()
    await asyncio.gather(growing, return_exceptions=True)


async def _unless(asked_to_stop: asyncio.Event, system: System) -> int | None:
    """Bring the system up; None when asked to stop before it was."""
    starting = asyncio.create_task(system.start())
    stopping = asyncio.create_task(asked_to_stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        return starting.result()
    starting.cancel()
    with suppress(asyncio.CancelledError, ClusterError):
        await starting
    return None


def detach(plan: ClusterPlan, arguments: Sequence[str], program: Sequence[str] = ("-m", "cluster")) -> None:
    """Start `loyalty up` with these arguments in the background and wait until ready; ClusterError when it fails.

    `program` is what Python runs as the command line. Views of many members may take longer to rebuild than anybody
    waits here: then it goes on, and the error says so.
    """
    if locked(plan.data):
        with exclusive(plan.data):  # raises with the message that names the owner
            return
    log = Documents(plan.data).log(SUPERVISOR)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))  # it may tell why the system ended
    with open_log(log) as output:
        child = subprocess.Popen(
            [sys.executable, "-P", *program, "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), *_python_path()])},
            start_new_session=True,
        )
    until = time.monotonic() + DETACH_DEADLINE_S
    while time.monotonic() < until:
        run = read_run(plan.data)
        if run is not None and run.ready and run.supervisor.pid == child.pid:
            return
        if child.poll() is not None:
            raise ClusterError(_why_ended(child.returncode, log))
        time.sleep(POLL_INTERVAL_S)
    raise ClusterError(
        f"not ready after {DETACH_DEADLINE_S:.0f} s; it goes on in the background: `loyalty status` tells how far "
        f"it is, `loyalty down` ends it, {log} says what it does"
    )


def _why_ended(code: int, log: Path) -> str:
    """What its log says, or what can be said where the log could not be written."""
    words = _last_words(log_tail(log, 40)) or f"the start {describe_exit(code)} and wrote nothing in {log}"
    return "\n".join([words, *(shortage for disk in disks_of(log.parent) for shortage in disk.shortages)])


def _last_words(told: str) -> str:
    """Why it ended, without what it told of its progress before."""
    lines = told.splitlines()
    begin = max((place + 1 for place, line in enumerate(lines) if PROGRESS_LINE.match(line)), default=0)
    return "\n".join(lines[begin:] or lines).strip()


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def stop_system(data: Path) -> str:
    """Stop the supervisor of a data folder, or what one left behind; tells in words what was stopped."""
    run = read_run(data)
    if run is None and not locked(data):
        return f"nothing was ever started in {data}"
    running = run is not None and locked(data) and run.supervisor.alive()
    if run is not None and running:
        os.kill(run.supervisor.pid, signal.SIGTERM)
        os.kill(run.supervisor.pid, signal.SIGCONT)  # one that was stopped, by Ctrl-Z say, hears of it only then
        if not wait_gone([run.supervisor], DOWN_DEADLINE_S):
            os.kill(run.supervisor.pid, signal.SIGKILL)
            wait_gone([run.supervisor], DOWN_DEADLINE_S)
    with exclusive(data):
        orphans = stop_orphans(data)
    if orphans:
        return f"stopped what an earlier supervisor left: {', '.join(orphans)}"
    return "stopped" if running else "nothing was running"
