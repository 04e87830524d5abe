"""Base backups of the shards, and going back to them, by PostgreSQL's own means.

A backup is what pg_basebackup makes, a folder per shard. A restore copies it into the place of the servers' folders,
which are set aside, and leaves the rest to recovery at the next start: up to an instant with the archive, without it to
the end of the backup. That the shard was restored it tells by itself (see shard_router/incarnation.py).
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cdc.slot import find_primary
from cluster import postgres
from cluster.archive import recovery_text
from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.password import read_passwords
from cluster.plan import ClusterPlan
from cluster.postgres import RECOVERY, STANDBY_USER
from cluster.run_file import exclusive
from cluster.running import running_topology


async def back_up(plan: ClusterPlan, target: Path, shards: Sequence[str] = ()) -> list[Path]:
    """Make a base backup of shards (none named: of all) of the running system, in a folder each; where they lie.

    ClusterError when one has no primary that answers, and for a folder that is there already.
    """
    documents = Documents(plan.data)
    topology = await running_topology(documents.topology)
    tools = postgres.find_tools(plan.pg_bin, plan.data)
    password = read_passwords(documents.secrets)["postgres_standby"]
    made: list[Path] = []
    for name in shards or topology.shards:
        if name not in topology.shards:
            raise ClusterError(f"no shard {name!r}: there are {', '.join(topology.shards)}")
        folder = target / name
        if folder.exists():
            raise ClusterError(f"{folder} is there already: a backup never overwrites another")
        url = await find_primary(topology.shards[name].servers)
        if url is None:
            raise ClusterError(f"{name}: no Postgres server takes writes")
        building = folder.with_name(f"{name}.building")  # half of one that was cut short is no backup
        shutil.rmtree(building, ignore_errors=True)
        postgres.make_folder(tools, building)
        place = urlsplit(url)
        await postgres.run_tool(
            tools,
            f"the backup of {name}",
            (tools.program("pg_basebackup"), "--pgdata", str(building)),
            ("--host", str(place.hostname), "--port", str(place.port or 5432), f"--username={STANDBY_USER}"),
            ("--wal-method=stream", "--checkpoint=fast", "--no-password"),
            password=password,
        )
        building.rename(folder)
        made.append(folder)
    return made


def restore(plan: ClusterPlan, name: str, source: Path, at: datetime | None) -> str:
    """Put a backup in the place of a shard's servers; `loyalty up` recovers it then, to an instant or as far as it can.

    Tells where what was there before lies. ClusterError when something is missing, and while the system runs.
    """
    backup = source / name if (source / name).is_dir() else source
    if not (backup / "PG_VERSION").is_file():
        raise ClusterError(f"{backup} holds no base backup (no file PG_VERSION)")
    shard = plan.data / "servers" / name
    if not shard.is_dir() and name not in {one.name for one in plan.shards if one.servers}:
        raise ClusterError(f"no servers of a shard {name!r} were started in {plan.data}")
    archive = plan.archive / name if plan.archive else None
    if at is not None and archive is None:
        raise ClusterError("an instant can be reached only with the WAL archive: name it by --archive")
    if archive is not None and not archive.is_dir():
        raise ClusterError(f"{archive} is no folder: nothing was archived there")
    with exclusive(plan.data):
        _put_back(plan, shard, backup, recovery_text(archive, at))
        return f"{name} is the backup {backup} now; what was there lies in {_aside(shard)[-1]}"


def _put_back(plan: ClusterPlan, shard: Path, backup: Path, recovery: str) -> None:
    """The copy is whole before anything is moved; the standby is cloned anew at the next start."""
    tools = postgres.find_tools(plan.pg_bin, plan.data)
    building = shard / "postgres-1.building"
    shutil.rmtree(building, ignore_errors=True)
    shard.mkdir(parents=True, exist_ok=True)  # its disk may have been lost with all that was on it
    shutil.copytree(backup, building, symlinks=True)
    (building / "standby.signal").unlink(missing_ok=True)
    (building / RECOVERY).write_text(recovery, encoding="utf-8")
    (building / "recovery.signal").touch()
    postgres.give_all(tools, building)
    aside = shard / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    aside.mkdir()
    for server in sorted(shard.glob("postgres-[0-9]")):  # a third may be the primary, or have gone another way since
        server.rename(aside / server.name)
    building.rename(shard / "postgres-1")


def _aside(shard: Path) -> list[Path]:
    return sorted(shard.glob("before-restore-*"))
