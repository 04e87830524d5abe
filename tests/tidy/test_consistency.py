"""docs/consistency.md tells of tests: each row has one that is there, and each of them has a row."""

import re

from tests.project import PROJECT

PAGE = (PROJECT / "docs" / "consistency.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "| test |" not in line]
TESTS = (PROJECT / "tests" / "integration" / "test_consistency.py").read_text(encoding="utf-8")


def test_every_row_has_a_test_that_is_there() -> None:
    assert ROWS
    for row in ROWS:
        (named,) = re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1])
        there = (
            (PROJECT / "tests" / "integration" / named).is_file() if named.endswith(".py") else f"def {named}(" in TESTS
        )
        assert there, f"{named}: no such test"


def test_every_test_has_a_row() -> None:
    for name in re.findall(r"def (test_\w+)\(", TESTS):
        assert any(f"`{name}`" in row for row in ROWS), f"{name}: no row of docs/consistency.md"
