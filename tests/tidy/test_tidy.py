"""The limits of the house style, as tests: what is not checked does not hold."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.project import PACKAGES, PROJECT

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
MODULE_DOCSTRING_LINES_MAX = 10
FORBIDDEN_NAMES = {"common", "utils", "util", "core", "helpers", "helper", "base", "manager", "misc"}
# A statement, not a sentence: a verb of SQL with the word that follows it in SQL only.
SQL = re.compile(
    r"^\s*(SELECT\s.+\sFROM\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|(CREATE|DROP|ALTER)\s+(TABLE|INDEX|DATABASE|PUBLICATION)\s)",
    re.DOTALL,
)
ONE_MAN = re.compile(r"\b(?:he|his|him|himself)\b", re.IGNORECASE)
OF_SERVERS = re.compile(r"\b(SERVER_ERRORS|CUT_SHORT|_REASONS)\b")  # what a driver raises is among these
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


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """A million nodes are none that later tests have the collector look through."""
    yield
    for kept in (text, tree, nodes):
        kept.cache_clear()


def found(paths: Iterable[Path], look: Callable[[Path], object]) -> dict[str, object]:
    """What of each file breaks a rule. One test a rule: one for every file of it costs more than to look."""
    return {name(path): breach for path in paths if (breach := look(path))}


def strings(path: Path) -> Iterator[ast.Constant]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in nodes(path)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_there_is_something_to_check() -> None:
    assert {name(path).split("/")[0] for path in SOURCES} == set(PACKAGES)
    assert len(TESTS) > 200


def test_a_file_is_short() -> None:
    assert not found(SOURCES + TESTS, lambda path: max(0, len(text(path).splitlines()) - FILE_LINES_MAX))


def test_a_function_is_short() -> None:
    def long(path: Path) -> dict[str, int]:
        functions = (node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        return {f.name: lines for f in functions if (lines := (f.end_lineno or 0) - f.lineno + 1) > FUNCTION_LINES_MAX}

    assert not found(SOURCES + TESTS, long)


def test_a_module_says_its_idea_in_a_few_lines() -> None:
    def lines(path: Path) -> int:
        return len((ast.get_docstring(tree(path)) or "").splitlines())

    assert not found(SOURCES, lambda path: not 1 <= lines(path) <= MODULE_DOCSTRING_LINES_MAX)


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not found(
        SOURCES + TESTS, lambda path: FORBIDDEN_NAMES & set(path.relative_to(PROJECT).with_suffix("").parts)
    )


def test_sql_lives_in_sql_files() -> None:
    assert not found(SOURCES, lambda path: [one.lineno for one in strings(path) if SQL.match(str(one.value))])


def test_who_catches_both_of_asyncpgs_errors_catches_its_third_one() -> None:
    """InternalClientError, which is neither, of a connection that ends within a statement: see SERVER_ERRORS."""

    def two_only(node: ast.AST) -> bool:
        if not isinstance(node, ast.Tuple):
            return False
        caught = {ast.unparse(one) for one in node.elts}
        both = {"asyncpg.PostgresError", "asyncpg.InterfaceError"} <= caught
        return both and "asyncpg.InternalClientError" not in caught

    assert not found(SOURCES, lambda path: [node.lineno for node in nodes(path) if two_only(node)])


def test_what_a_driver_says_of_a_server_reaches_the_command_line_in_words() -> None:
    """See cluster.errors.in_words: `cannot switch to state 15` helps nobody."""

    def is_bare(node: ast.AST, error: str | None) -> bool:
        value = node.value if isinstance(node, ast.FormattedValue) else None
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "str" and node.args:
            value = node.args[0]
        return isinstance(value, ast.Name) and value.id == error

    def bare(path: Path) -> list[int]:
        handlers = [node for node in nodes(path) if isinstance(node, ast.ExceptHandler) and node.type]
        of_servers = [one for one in handlers if OF_SERVERS.search(ast.unparse(one.type or one))]
        return [node.lineno for one in of_servers for node in ast.walk(one) if is_bare(node, one.name)]

    assert not found((path for path in SOURCES if path.is_relative_to(PROJECT / "cluster")), bare)


def test_a_client_of_valkey_tells_it_no_version() -> None:
    """redis-py reads its wheel for that, for each connection. A benchmark may."""

    def telling(path: Path) -> list[int]:
        calls = (node for node in nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
        makers = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "from_url")
        return [call.lineno for call in makers if "driver_info" not in {keyword.arg for keyword in call.keywords}]

    assert not found((path for path in SOURCES if not path.is_relative_to(PROJECT / "benchmarks")), telling)


def test_a_todo_names_its_issue() -> None:
    assert not found(SOURCES + TESTS, lambda path: re.findall(r"#\s*(?:TODO|FIXME|XXX)\b(?!.*#\d+).*", text(path)))


def test_a_member_is_they() -> None:
    assert not found(SOURCES, lambda path: ONE_MAN.findall(text(path)))


def test_tests_wait_for_conditions_and_never_sleep() -> None:
    def naps(path: Path) -> list[int]:
        calls = [node for node in nodes(path) if isinstance(node, ast.Call)]
        sleeps = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "sleep"]
        return [call.lineno for call in sleeps if ast.unparse(call.args[0]) != "0"]  # sleep(0) only yields

    assert not found((path for path in TESTS if name(path) not in SLEEPERS), naps)


def test_no_test_module_takes_anything_from_another() -> None:
    """What several need stands beside them, in a module of its own."""

    def borrowed(path: Path) -> list[str]:
        taken = (node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom))
        return [module for module in taken if module.startswith("tests.") and ".test_" in module]

    assert not found(TESTS, borrowed)


def test_importing_a_module_has_no_effect() -> None:
    """At module level only definitions, assignments and imports; `if __name__` in programs."""

    def allowed(node: ast.stmt) -> bool:
        if isinstance(node, ast.If):
            return ast.unparse(node.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}
        if isinstance(node, ast.Expr):
            is_text = isinstance(node.value, ast.Constant)
            return is_text or ast.unparse(node).startswith("app.add_typer(")  # wiring
        return isinstance(node, DEFINITIONS)

    def effects(path: Path) -> list[str]:
        return [f"line {node.lineno}: {ast.unparse(node)[:80]}" for node in tree(path).body if not allowed(node)]

    assert not found(SOURCES, effects)


def test_every_sql_statement_is_called() -> None:
    """A statement that no module beside it names is dead."""
    for file in (path for package in PACKAGES for path in (PROJECT / package).glob("*.sql")):
        names = re.findall(r"^-- name:\s*(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        sources = "\n".join(path.read_text(encoding="utf-8") for path in file.parent.rglob("*.py"))
        assert [unused for unused in names if f'"{unused}"' not in sources] == [], file.name
