"""Which folder of a shard is the primary: the folders themselves tell, so a promotion survives a restart."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ClusterError
from cluster.plan import ServerPlan


def order_by_role(servers: Sequence[ServerPlan]) -> tuple[ServerPlan, ...]:
    """The servers, primary first. A former primary whose standby was promoted is set aside, to be cloned anew.

    Where the primary's folder is gone and all its standbys are there, these are first: nothing was acknowledged without
    one of them. Where one is missing, or was of another primary, a person has to tell who has all.
    """
    made = [server for server in servers if server.folder.exists()]
    primaries = [server for server in made if not is_standby(server)]
    if not made:
        return tuple(servers)
    shard = made[0].folder.parent
    if not primaries and not _are_all_standbys(made, servers):
        raise ClusterError(f"{shard} holds only standbys: promote one (remove its standby.signal)")
    primary = max(primaries or made, key=lambda server: _timeline(server.folder))
    if len(made) < len(servers) and any(_timeline(server.folder) > _timeline(primary.folder) for server in made):
        raise ClusterError(f"{shard} lacks the last primary: a standby of it is there (remove its standby.signal)")
    for outdated in primaries:
        if outdated is not primary:
            aside = outdated.folder.with_name(outdated.folder.name + ".outdated")
            shutil.rmtree(aside, ignore_errors=True)
            outdated.folder.rename(aside)
    return tuple(sorted(servers, key=lambda server: (server is not primary, primaries == [] and server not in made)))


def _are_all_standbys(made: Sequence[ServerPlan], servers: Sequence[ServerPlan]) -> bool:
    """Whether standbys are all that ever were but for one server, the primary, and all of them on its timeline."""
    folders = {server.folder for server in made}
    histories = {_history(server.folder) for server in made}
    return (
        len(made) == len(servers) - 1
        and set(made[0].folder.parent.glob("postgres-[0-9]")) == folders
        and len(histories) == 1
    )


def _history(folder: Path) -> tuple[int, bytes]:
    """Its timeline, and where that parted from older ones: two servers may have given theirs the same number."""
    timeline = _timeline(folder)
    newest = folder / "pg_wal" / f"{timeline:08X}.history"
    return timeline, newest.read_bytes() if newest.exists() else b""


def is_standby(server: ServerPlan) -> bool:
    """Whether its folder is a standby's."""
    return (server.folder / "standby.signal").exists()


def _timeline(folder: Path) -> int:
    histories = (folder / "pg_wal").glob("*.history")
    return max((int(path.stem, 16) for path in histories), default=1)
