"""What a recovery is told, and the archive's command as a shell runs it."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from cluster.archive import archive_settings, recovery_text
from cluster.backup import restore
from cluster.plan import make_plan
from cluster.postgres import PostgresTools
from cluster.settings import ClusterSettings

INSTANT = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)


def archive(command: str, path: Path) -> int:
    return subprocess.run(
        ["/bin/sh", "-c", command.replace("%p", str(path)).replace("%f", path.name)], check=False
    ).returncode


def test_a_file_is_archived_once_and_another_never_over_it(tmp_path: Path) -> None:
    folder = tmp_path / "it's an archive"
    command = archive_settings(PostgresTools(tmp_path, None), folder)["archive_command"]
    written = tmp_path / "000000010000000000000001"
    written.write_text("one")
    assert [archive(command, written) for _ in range(2)] == [0, 0]
    assert [file.name for file in folder.iterdir()] == [written.name]
    written.write_text("two")
    assert archive(command, written) != 0
    assert (folder / written.name).read_text() == "one"


def test_a_recovery_goes_to_an_instant_to_the_end_of_the_archive_or_to_that_of_the_backup(tmp_path: Path) -> None:
    to_instant = recovery_text(tmp_path, INSTANT)
    assert "recovery_target_time = '2026-11-25 09:30:00+00:00'" in to_instant
    assert f"restore_command = 'cp {tmp_path}/%f %p'" in to_instant
    assert "recovery_target_action = 'promote'" in to_instant
    assert "recovery_target_time" not in recovery_text(tmp_path, None)
    assert "recovery_target = 'immediate'" in recovery_text(None, None)


def test_a_restore_sets_every_server_of_the_shard_aside(tmp_path: Path) -> None:
    """One of three that stayed would take the restored one's place: its timeline is the higher."""
    plan = make_plan(ClusterSettings(data=tmp_path / "data", regions=["eu"], standbys=2), {}, None)
    shard = plan.data / "servers" / "eu-1"
    for number in (1, 2, 3):
        (shard / f"postgres-{number}").mkdir(parents=True)
        (shard / f"postgres-{number}" / "PG_VERSION").write_text(str(number))
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "PG_VERSION").write_text("18")
    restore(plan, "eu-1", backup, None)
    (aside,) = shard.glob("before-restore-*")
    assert {path.name for path in aside.iterdir()} == {"postgres-1", "postgres-2", "postgres-3"}
    (restored,) = shard.glob("postgres-*")
    assert (restored.name, (restored / "PG_VERSION").read_text()) == ("postgres-1", "18")
