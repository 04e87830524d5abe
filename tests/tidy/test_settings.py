"""The README's table of settings (API.md): one table, and it lists them all."""

import re

import pytest
import typer
import typer.main

from cdc.settings import CdcSettings
from cluster import setup
from cluster.cli import app
from cluster.settings import ClusterSettings
from command.settings import CommandSettings
from query.settings import QuerySettings
from tests.project import PROJECT

PACKAGES = ("benchmarks", "cdc", "cluster", "command", "edge", "query", "service", "shard_router", "verify")
OF_THE_IMAGE = {"LOYALTY_BUILD_REVISION", "LOYALTY_BUILD_VERSION"}
"""Written into it by the Dockerfile, not set by people."""


def table() -> str:
    settings = (PROJECT / "README.md").read_text(encoding="utf-8").partition("\n## Settings\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in settings.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("settings", [ClusterSettings, CommandSettings, QuerySettings, CdcSettings])
def test_each_setting_has_its_row(settings: type[ClusterSettings]) -> None:
    listed = table()
    nested = {name for name, field in settings.model_fields.items() if "dict" in str(field.annotation)}
    missing = [name for name in settings.model_fields if f"`{name}`" not in listed and f"`[{name}." not in listed]
    assert set(missing) <= nested, missing


def test_each_variable_that_is_read_by_its_name_has_its_row() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for name in PACKAGES for path in (PROJECT / name).rglob("*.py"))
    read = set(re.findall(r'"(LOYALTY_[A-Z_]+)"', sources)) - OF_THE_IMAGE
    assert read
    assert [name for name in sorted(read) if f"`{name}`" not in table()] == []


def test_each_flag_of_set_up_has_its_row() -> None:
    program = typer.Typer()
    program.command()(setup.main)
    flags = {flag for parameter in typer.main.get_command(program).params for flag in parameter.opts}
    flags = {flag for flag in flags if flag.startswith("--")} - {"--install-completion", "--show-completion"}
    assert flags
    assert [flag for flag in sorted(flags) if f"`{flag}`" not in table()] == []


def test_each_variable_that_stands_for_a_flag_has_its_row() -> None:
    commands = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    variables = {parameter.envvar for command in commands for parameter in command.params if parameter.envvar}
    assert variables
    assert [name for name in sorted(map(str, variables)) if f"`{name}`" not in table()] == []
