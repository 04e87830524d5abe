"""What people copy from a table is whole there, however narrow the terminal."""

from pathlib import Path

import pytest
from rich.console import Console

from cluster.cli_key import keys
from cluster.document import Documents
from cluster.key import add_key, ensure_keys, read_credentials
from cluster.run_file import Identity, ProcessRecord, RunRecord
from cluster.status import NO_TOPOLOGY, StatusReport, render_status


@pytest.mark.parametrize("columns", ["50", "80", None])
def test_a_key_that_is_listed_can_be_revoked(
    columns: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    ensure_keys(Documents(tmp_path))
    add_key(Documents(tmp_path), "pos", "berlin-mitte", desk=True, name="Till 7 at the entrance")
    keys(data=tmp_path)
    shown = capsys.readouterr().out
    for record in read_credentials(Documents(tmp_path)).keys:
        assert record.id in shown
    assert "…" not in shown


def test_a_process_has_its_name_on_a_narrow_terminal(tmp_path: Path) -> None:
    names = ("eu-1-postgres-1", "eu-command")
    run = RunRecord(Identity(1, 1.0), processes={name: ProcessRecord("ready", "a log", port=8410) for name in names})
    report = StatusReport(tmp_path, run is not None, run, NO_TOPOLOGY, {}, {}, {}, [], None, None, [])
    with (console := Console(width=50)).capture() as shown:
        console.print(render_status(report))
    assert all(name in shown.get() for name in names)
    assert "…" not in shown.get()
