"""Named statements in .sql files."""

from pathlib import Path

import pytest

from shard_router.statement import StatementError, load_statements


def written(folder: Path, text: str) -> Path:
    path = folder / "some.sql"
    path.write_text(text)
    return path


def test_statements_come_by_name_with_their_reason(tmp_path: Path) -> None:
    text = "-- What a node asks.\n\n-- name: first\n-- Why.\nSELECT 1;\n\n-- name: second\nSELECT 2\n"
    statements = load_statements(written(tmp_path, text))
    assert statements == {"first": "-- name: first\n-- Why.\nSELECT 1;", "second": "-- name: second\nSELECT 2"}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1\n-- name: late\nSELECT 2",
        "-- name: empty\n-- only a comment\n",
        "-- name: two-words\nSELECT 1",
        "-- name: same\nSELECT 1\n-- name: same\nSELECT 2",
        "-- name:\nSELECT 1",
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StatementError):
        load_statements(written(tmp_path, text))
