"""The WAL archive of the embedded shards: how a server fills it, and how a recovery reads it."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

from cluster import postgres
from cluster.postgres import PostgresTools

ARCHIVE_TIMEOUT_S = 60
"""A quiet shard archives what it wrote after so long."""


def archive_settings(tools: PostgresTools, folder: Path) -> dict[str, str]:
    """Settings of a server whose WAL goes to a folder: each file once, whole, and never another over it."""
    postgres.make_folder(tools, folder)
    place = f"{shlex.quote(str(folder)).replace('%', '%%')}/%f"
    keep = f"cp %p {place}.part && sync {place}.part && mv {place}.part {place}"
    return {
        "archive_mode": "on",
        "archive_timeout": f"{ARCHIVE_TIMEOUT_S}s",
        "archive_command": f"if [ -f {place} ]; then cmp -s %p {place}; else {keep}; fi",
    }


def recovery_text(archive: Path | None, at: datetime | None) -> str:
    """The settings of a recovery: to an instant, to the end of the archive, or without one to that of the backup."""
    place = f"cp {shlex.quote(str(archive)).replace('%', '%%')}/%f %p" if archive else "false"
    settings = {"restore_command": place, "recovery_target_action": "promote"}
    if at is not None:
        settings["recovery_target_time"] = at.astimezone(UTC).isoformat(sep=" ")
    elif archive is None:
        settings["recovery_target"] = "immediate"
    return postgres.settings_text(settings)
