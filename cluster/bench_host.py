"""What `loyalty bench` may do to a system on this machine: count its CPU, verify it, fill it, stop a primary."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.deployment import DeploymentError
from benchmarks.fill import Place, fill
from benchmarks.host import Host, Rebuilt
from benchmarks.memory import held_by_kind
from benchmarks.peer import Peers, find_pgbench
from cluster import run
from cluster.command_line import words_of
from cluster.document import Documents
from cluster.login import SUPERUSER_NAME, address
from cluster.password import SUPERUSER, read_passwords
from cluster.plan import ClusterPlan, make_plan
from cluster.rebuild import rebuild
from cluster.run_file import read_run
from cluster.settings import read_settings
from cluster.status import StatusReport, read_status
from cluster.verdict import verdict_document
from shard_router.login import POSTGRES_USERS
from shard_router.member_id import format_member_id
from verify.parallel import verify_side_by_side

FULL_DUTY = 1.0


async def host_of(plan: ClusterPlan) -> Host:
    """The machine of the system on a data folder."""
    status = await read_status(plan.data)
    documents = Documents(plan.data)

    async def check() -> dict[str, Any]:
        return verdict_document(await verify_side_by_side(documents.topology, documents.logins(), documents.verified()))

    async def rebuild_first(region: str) -> Rebuilt:
        first = next(name for name, shard in status.topology.shards.items() if shard.region == region)
        (done,) = [one async for one in rebuild(plan.data, region, duty=FULL_DUTY) if one.shard == first]
        return Rebuilt(done.members, done.refill_s)

    return Host(
        peers=_peers(plan, status),
        processes=lambda: _processes(plan),
        held=lambda: held_by_kind(plan.data),
        verify=check,
        freeze=lambda: _freeze(plan, status),
        rebuild=rebuild_first,
        fill=lambda region, members: _fill(status, region, members),
    )


async def _fill(status: StatusReport, region: str, members: int) -> list[str]:
    """Give the first shard of a region so many members; the ids of some."""
    topology = status.topology
    name = next(name for name, shard in topology.shards.items() if shard.region == region)
    primary = status.shards[name].primary
    if primary is None:
        raise DeploymentError(f"{name} has no primary that could be filled")
    slots = [slot for first, last in topology.shards[name].slots for slot in range(first, last + 1)]
    place = Place(primary, topology.regions[region].number, slots)
    return [format_member_id(member_id) for member_id in await fill(place, members)]


def _processes(plan: ClusterPlan) -> Mapping[str, int]:
    """What the supervisor keeps now."""
    record = read_run(plan.data)
    kept = record.processes if record else {}
    return {name: process.identity.pid for name, process in kept.items() if process.identity is not None}


def _peers(plan: ClusterPlan, status: StatusReport) -> Peers:
    """What stands beside ours: the servers of the first shard."""
    name, shard = next(iter(status.topology.shards.items()))
    primary = status.shards[name].primary
    process = _primary_process(plan, status)
    return Peers(_may_create_databases(plan, primary), shard.valkey, find_pgbench(), process[1] if process else None)


def _may_create_databases(plan: ClusterPlan, primary: str | None) -> str | None:
    """A server of ours as its superuser; one that somebody else keeps as it stands."""
    secrets = Documents(plan.data).secrets
    if primary is None or urlsplit(primary).username != POSTGRES_USERS["owner"] or not secrets.is_dir():
        return primary
    return address(primary, SUPERUSER_NAME, read_passwords(secrets)[SUPERUSER], "postgres")


def _primary_process(plan: ClusterPlan, status: StatusReport) -> tuple[str, int] | None:
    """Name and process of the first shard's primary, where the supervisor here keeps it."""
    record = read_run(plan.data)
    primary = status.shards[next(iter(status.topology.shards))].primary
    port = urlsplit(primary).port if primary else None
    for name, process in (record.processes if record else {}).items():
        if process.port == port and process.identity is not None:
            return name, process.identity.pid
    return None


def _freeze(plan: ClusterPlan, status: StatusReport) -> str:
    """Stop the first shard's primary with all its processes, without ending any; its name."""
    found = _primary_process(plan, status)
    if found is None:
        raise LookupError("the primary of the first shard is no process that the supervisor here keeps")
    name, pid = found
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        os.kill(process.pid, signal.SIGSTOP)
    return name


def start_once(plan: ClusterPlan) -> float:
    """Seconds until a system is ready on an empty folder beside the plan's; it is taken down again."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-start-", dir=plan.data.parent))
    folder.chmod(0o755)  # the servers run under another account where this one is root
    flags = {"data": folder / "data", "cdc": plan.cdc_source, "port": plan.regions[0].command[0].port}
    try:
        other = make_plan(read_settings(flags), {})
        began_at = time.monotonic()
        try:
            run.detach(other, words_of(flags))
            return time.monotonic() - began_at
        finally:
            run.stop_system(other.data)  # also what has only begun
    finally:
        shutil.rmtree(folder, ignore_errors=True)
