"""The limits of the house style, as tests: what is not checked does not hold."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
MODULE_DOCSTRING_LINES_MAX = 10
FORBIDDEN_NAMES = {"common", "utils", "util", "core", "helpers", "helper", "base", "manager", "misc"}
# A statement, not a sentence: a verb of SQL with the word that follows it in SQL only.
SQL = re.compile(
    r"^\s*(SELECT\s.+\sFROM\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|(CREATE|DROP|ALTER)\s+(TABLE|INDEX|DATABASE|PUBLICATION)\s)",
    re.DOTALL,
)
SLEEPERS = {"tests/conftest.py"}  # holds the one polling helper

DEFINITIONS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)

SOURCES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
TESTS = sorted((PROJECT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def strings(module: ast.Module) -> Iterator[ast.Constant]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_there_is_something_to_check() -> None:
    assert {name(path).split("/")[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_a_function_is_short(path: Path) -> None:
    long = {
        f.name: lines
        for f in functions(tree(path))
        if (lines := (f.end_lineno or 0) - f.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_says_its_idea_in_a_few_lines(path: Path) -> None:
    docstring = ast.get_docstring(tree(path))
    assert docstring
    assert len(docstring.splitlines()) <= MODULE_DOCSTRING_LINES_MAX


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_no_module_has_a_name_that_says_nothing(path: Path) -> None:
    assert not FORBIDDEN_NAMES & set(path.relative_to(PROJECT).with_suffix("").parts)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_sql_lives_in_sql_files(path: Path) -> None:
    assert not [node.lineno for node in strings(tree(path)) if SQL.match(str(node.value))]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_who_catches_both_of_asyncpgs_errors_catches_its_third_one(path: Path) -> None:
    """InternalClientError, which is neither, of a connection that ends within a statement: see SERVER_ERRORS."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Tuple):
            caught = {ast.unparse(one) for one in node.elts}
            both = {"asyncpg.PostgresError", "asyncpg.InterfaceError"} <= caught
            assert not both or "asyncpg.InternalClientError" in caught, node.lineno


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_a_todo_names_its_issue(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"#\s*(?:TODO|FIXME|XXX)\b(?!.*#\d+).*", text)


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_tests_wait_for_conditions_and_never_sleep(path: Path) -> None:
    if name(path) in SLEEPERS:
        return
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    naps = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "sleep"]
    assert not [call.lineno for call in naps if ast.unparse(call.args[0]) != "0"]  # sleep(0) only yields


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_importing_a_module_has_no_effect(path: Path) -> None:
    """At module level only definitions, assignments and imports; `if __name__` in programs."""
    for node in tree(path).body:
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        wiring = isinstance(node, ast.Expr) and ast.unparse(node).startswith("app.add_typer(")
        assert isinstance(node, DEFINITIONS) or guarded or text or wiring, (
            f"line {node.lineno}: {ast.unparse(node)[:80]}"
        )


def test_every_sql_statement_is_called() -> None:
    """A statement that no module beside it names is dead."""
    for file in (path for package in PACKAGES for path in (PROJECT / package).glob("*.sql")):
        names = re.findall(r"^-- name:\s*(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        sources = "\n".join(path.read_text(encoding="utf-8") for path in file.parent.rglob("*.py"))
        assert [unused for unused in names if f'"{unused}"' not in sources] == [], file.name
