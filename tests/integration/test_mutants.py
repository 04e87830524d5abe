"""Planted bugs: every patch applies to the code as it is and names a test that exists, and the runner tells the truth.

`make mutants` plants them all.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.campaign import Verdict, run_mutants
from tests.mutants.mutant import FOLDER, Mutant, all_mutants, read_mutant
from tests.project import PROJECT

MUTANTS = all_mutants()
CAUGHT = read_mutant(FOLDER / "cluster_asynchronous_promoted.patch")
AREAS = {"cdc", "cluster", "command", "edge", "query", "rules", "service", "shard_router", "verify"}


def test_there_are_enough_and_of_every_area() -> None:
    assert len(MUTANTS) >= 30
    assert {source.partition("/")[0] for mutant in MUTANTS for source in mutant.sources} == AREAS


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_patch_applies_to_one_file_and_its_test_exists(mutant: Mutant) -> None:
    why = mutant.apply(PROJECT, "--check")
    assert not why, f"write {mutant.path.name} anew, the code has changed: {why}"
    assert len(mutant.sources) == 1, "one bug each"
    path, _, name = mutant.test.partition("::")
    assert name.partition("[")[0] in functions(path)


def test_no_two_mutants_are_the_same() -> None:
    bodies = [mutant.path.read_text(encoding="utf-8").partition("--- a/")[2] for mutant in MUTANTS]
    assert len(set(bodies)) == len(bodies)
    assert len({mutant.breaks for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("text", ["", "Breaks: a promise\n--- a/x\n", "Breaks: a promise\nTest: t\n"])
def test_a_patch_without_its_two_lines_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "no.patch"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="a patch begins with"):
        read_mutant(path)


def plant(*mutants: Mutant) -> dict[str, Verdict]:
    return {one.mutant.name: one for one in run_mutants(mutants, jobs=1, tell=lambda _: None)}


def changed(tmp_path: Path, name: str, *changes: tuple[str, str]) -> Mutant:
    path, text = tmp_path / f"{name}.patch", CAUGHT.path.read_text(encoding="utf-8")
    for old, new in changes:
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return read_mutant(path)


def test_a_bug_is_caught_by_its_test_only_and_by_a_failure_of_its_own(tmp_path: Path) -> None:
    other = "tests/unit/test_quorum.py::test_of_two_the_one_that_is_further_is_promoted"
    survivor = changed(tmp_path, "survivor", (CAUGHT.test, other))
    outdated = changed(tmp_path, "outdated", ("self.needed", "self.missing"))
    line = ("         furthest = max", "+        import nowhere\n         furthest = max")
    broken = changed(tmp_path, "broken", line, (",2 @@", ",3 @@"))
    found = plant(CAUGHT, survivor, outdated, broken)
    assert {name: verdict.why for name, verdict in found.items()} == {
        CAUGHT.name: "",
        "survivor": "SURVIVED",
        "outdated": "its patch does not apply any more",
        "broken": "its test fails for another reason",
    }
