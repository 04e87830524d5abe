"""What a recovery is told, and the archive's command as a shell runs it."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

from cluster.archive import archive_settings, recovery_text
from cluster.postgres import PostgresTools

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
