"""Tools take the published documents as they are: linters are silent, generated TypeScript and Python compile.

The tools come from npm and PyPI by hand (`make clients` puts them into .clients); without them this is skipped.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

import command.operation
import query.operation
from service.openapi import describe
from tests.project import PROJECT

TOOLS = Path(os.environ.get("LOYALTY_CLIENT_TOOLS", PROJECT / ".clients"))
DOCUMENTS = {
    "command": describe(command.operation.OPERATIONS, command.operation.ABOUT),
    "query": describe(query.operation.OPERATIONS, query.operation.ABOUT),
}
USE = """
import type { components as Command, paths as Commands } from "./command";
import type { components as Query } from "./query";
const enrolment: Command["schemas"]["EnrolBody"] = { phone: "+4930123456" };
const basket: Command["schemas"]["PurchaseBody"] = {
  member: { card: "0100000000000000008" }, store: "330", till: "1", receipt: "1", currency: "EUR",
  occurred_at: "2026-11-22T10:00:00Z", lines: [{ sku: "a", quantity: "0.5", amount: 100 }],
};
const evaluation: Query["schemas"]["EvaluationBody"] = { ...basket };
// @ts-expect-error two names are not one
const two: Command["schemas"]["MemberReference"] = { card: "0100", nickname: "Ada" };
const from = (entry: Query["schemas"]["Entry"]): string =>
  entry.kind === "purchase_recorded" ? entry.postings.map((one) => one.from).join() : "";
type Problem = Commands["/v1/purchases"]["post"]["responses"][422]["content"]["application/problem+json"];
const broke = (problem: Problem): boolean => problem.code === "insufficient_points";
export { enrolment, evaluation, two, from, broke };
"""


def tool(*where: str) -> str:
    """The path of a tool; skips when it is not here."""
    path = TOOLS.joinpath(*where)
    if not path.exists():
        pytest.skip(f"no {path.name} in {TOOLS}: `make clients` brings the tools")
    return str(path)


async def run(*words: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *words, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-4000:]
    return out.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, document in DOCUMENTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


async def test_redocly_has_nothing_to_say(folder: Path) -> None:
    for name in DOCUMENTS:
        told = await run(tool("node_modules", ".bin", "redocly"), "lint", f"{name}.json", folder=folder)
        assert "warning" not in told.replace("Deprecation warning", ""), told


async def test_spectral_has_nothing_to_say(folder: Path) -> None:
    (folder / "rules.yaml").write_text('extends: ["spectral:oas"]\n')
    words = ("lint", "--ruleset", "rules.yaml", "--fail-severity", "hint", "command.json", "query.json")
    await run(tool("node_modules", ".bin", "spectral"), *words, folder=folder)


async def test_typescript_made_from_the_documents_compiles(folder: Path) -> None:
    compiler = tool("node_modules", ".bin", "tsc")
    for name in DOCUMENTS:
        maker = tool("node_modules", ".bin", "openapi-typescript")
        await run(maker, f"{name}.json", "--output", f"{name}.d.ts", folder=folder)
    (folder / "use.ts").write_text(USE)
    await run(compiler, "--noEmit", "--strict", "--target", "es2022", "use.ts", folder=folder)


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_python_made_from_the_documents_imports(folder: Path, name: str) -> None:
    maker, python = tool("venv", "bin", "openapi-python-client"), tool("venv", "bin", "python")
    words = ("generate", "--path", f"{name}.json", "--output-path", name, "--meta", "none")
    assert "rror" not in await run(maker, *words, folder=folder)
    await run(python, "-c", f"import {name}.models, {name}.api, {name}.client", folder=folder)


def test_the_documents_differ_in_nothing_that_has_one_name() -> None:
    one, other = (document["components"]["schemas"] for document in DOCUMENTS.values())
    different: list[Any] = [name for name in one.keys() & other.keys() if one[name] != other[name]]
    assert not different
