"""What the documents name is there: files, links, commands with their flags, modules, targets of make, variables.

Decisions and the change log are left out: they tell of their day.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cluster.cli import app
from tests.project import PACKAGES, PROJECT

DOCUMENTS = sorted(
    [
        *(PROJECT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")),
        *PROJECT.glob("docs/*.md"),
        *PROJECT.glob("benchmarks/*.md"),
        *PROJECT.glob("deploy/*/README.md"),
    ]
)
SOURCES = ("py", "sql", "lua", "sh", "tf")
FILE = re.compile(rf"[\w.*/-]+\.(?:{'|'.join(SOURCES)})")
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(loyalty .*)$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
CALL = re.compile(r"(?<!--namespace )(?:^|(?<=[\s(]))loyalty ([a-z-][^\n|&;)#>]*)", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def code(path: Path) -> Iterator[str]:
    """What stands in blocks, and in a line between two backticks; lines that go on are one."""
    text = path.read_text(encoding="utf-8")
    for part in (*FENCE.findall(text), *INDENTED.findall(text), *SPAN.findall(FENCE.sub("", text))):
        yield part.replace("\\\n", " ")


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def unknown_in(call: str) -> list[str]:
    """What of a call of `loyalty` there is not: its command, or a flag of it."""
    command, words = command_line(), call.split()
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return [words[0]]
        command = command.commands[words.pop(0)]
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in {*flags, "--help"}]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_call_of_the_program_is_one(path: Path) -> None:
    calls = [call for part in code(path) for call in CALL.findall(part)]
    assert {call: unknown for call in calls if (unknown := unknown_in(call))} == {}


@cache
def source_names() -> set[str]:
    folders = (*PACKAGES, "tests", "deploy", "docs")
    return {path.name for folder in folders for path in (PROJECT / folder).rglob("*") if path.suffix[1:] in SOURCES}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_source_is_there(path: Path) -> None:
    """By its path from here or from the top, or by its bare name wherever it is."""
    named = [file for span in SPAN.findall(prose(path)) for file in FILE.findall(span)]
    missing = [file for file in named if not any(list(folder.glob(file)) for folder in (PROJECT, path.parent))]
    assert [file for file in missing if file not in source_names()] == []


def test_every_function_is_in_the_file_it_is_named_with() -> None:
    for line in prose(PROJECT / "ARCHITECTURE.md").splitlines():
        for file, function in re.findall(r"`([\w/]+\.py)` `(\w+)`", line):
            text = (PROJECT / file).read_text(encoding="utf-8")
            assert re.search(rf"\b(?:def|class) {function}\b", text), f"{file} {function}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not heading or heading in headings(there), target


def headings(path: Path) -> set[str]:
    """Anchors, as the places where such pages are read make them."""
    titles = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_module_and_every_target_of_make_is_there(path: Path) -> None:
    rules = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for part in code(path):
        for module in re.findall(r"python -m ([\w.]+)", part):
            file = PROJECT / module.replace(".", "/")
            ours = (PROJECT / module.partition(".")[0]).is_dir()
            assert not ours or file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module
        for target in re.findall(r"(?:^|[^\w-])make ([a-z][a-z-]*)", part):
            assert re.search(rf"^{target}:", rules, re.MULTILINE), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_variable_is_one_of_the_table(path: Path) -> None:
    table = (PROJECT / "README.md").read_text(encoding="utf-8").partition("\n## Settings\n")[2]
    named = set(re.findall(r"\bLOYALTY_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    assert [variable for variable in sorted(named) if f"`{variable}`" not in table] == []
