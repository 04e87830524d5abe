"""One table answers every problem: nothing raises a code that is not in it, and none there is unused."""

import ast

from rules.outcome import Reason
from shard_router.errors import PROBLEMS
from tests.project import PROJECT

PACKAGES = ("rules", "shard_router", "service", "command", "query", "cdc", "cluster")
RAISING = {"ProblemError", "parse_or"}
TREES = [
    ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((PROJECT / package).rglob("*.py"))
    if path.name != "errors.py"
]


def raised() -> set[str]:
    """The codes that stand where a problem is raised."""
    calls = [node for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    raising = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id in RAISING]
    return {code.value for code in raising if isinstance(code, ast.Constant) and isinstance(code.value, str)}


def named() -> set[str]:
    """Whatever stands anywhere as a text."""
    nodes = [node for tree in TREES for node in ast.walk(tree)]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_code_that_is_raised_has_an_answer() -> None:
    assert len(raised()) > len(RAISING)
    assert raised() - PROBLEMS.keys() == set()


def test_no_code_is_unused() -> None:
    assert PROBLEMS.keys() - named() - set(Reason) == set()
