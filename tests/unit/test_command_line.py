"""The command line where there is no system, or none that runs: one line, no traceback, nothing written."""

import json
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cluster import cli, command_line, load
from cluster.cli import app
from cluster.errors import ClusterError, in_words
from cluster.growth_request import Request
from cluster.run_file import exclusive
from cluster.verdict import exit_code, render_verdict, verdict_document
from shard_router.errors import ProblemError
from tests.command_line import loyalty
from tests.engine import free_port
from tests.one_shard import one_shard
from tests.project import PROJECT
from verify.finding import Finding

ENDED = "the connection ended"


def stopped_system(folder: Path) -> Path:
    """A data folder whose servers do not run."""
    data = folder / "data"
    data.mkdir()
    servers = [f"postgresql://loyalty:secret@127.0.0.1:{free_port()}/loyalty" for _ in range(2)]
    topology = one_shard(servers, f"redis://127.0.0.1:{free_port()}")
    (data / "topology.json").write_text(json.dumps(topology))
    return data


@pytest.mark.parametrize(
    "words",
    [
        ("verify",),
        ("verify", "--json"),
        ("rebuild",),
        ("reconcile",),
        ("backup", "folder"),
        ("program", "show"),
        ("program", "apply", "mine.toml"),
    ],
    ids=" ".join,
)
def test_where_nothing_runs_a_command_says_so_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "mine.toml").write_bytes((PROJECT / "rules" / "main_street.toml").read_bytes())
    told = loyalty(tmp_path, *words, "--data", str(stopped_system(tmp_path)))
    assert (told.returncode, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("nothing runs here: none of the 2 Postgres servers of ")
    assert "secret" not in line


@pytest.mark.parametrize("words", [("verify",), ("rebuild",), ("program", "show")], ids=" ".join)
def test_where_nothing_was_ever_started_a_command_says_so_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    told = loyalty(tmp_path, *words, "--data", str(tmp_path / "none"))
    assert (told.returncode, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("nothing was ever started in ")


@pytest.mark.parametrize(
    "words",
    ["switchover eu-1", "region add sa", "region evacuate eu", "region restore eu", "shard add eu-2", "chaos"],
)
def test_what_only_a_supervisor_can_do_makes_nothing_where_none_runs(tmp_path: Path, words: str) -> None:
    done = CliRunner().invoke(app, [*words.split(), "--data", str(tmp_path)])
    assert isinstance(done.exception, ClusterError)
    assert str(done.exception).startswith(f"nothing runs on {tmp_path}")
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_is_missing_is_told_before_another_is_posted(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").touch()
    files = [str(tmp_path / name) for name in ("one.jsonl", "two.jsonl")]
    done = CliRunner().invoke(app, ["replay", *files, "--data", str(tmp_path)])
    assert (str(done.exception), done.stdout) == (f"{files[1]}: No such file or directory", "")


def test_down_makes_nothing_where_nothing_was_started(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["down", "--data", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (0, f"nothing was ever started in {tmp_path}\n")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("words", ["program check none.toml", "up --program none.toml", "up --data mine/data"])
def test_a_file_that_is_not_there_is_told_in_words(tmp_path: Path, words: str) -> None:
    (tmp_path / "mine").touch()
    told = loyalty(tmp_path, *words.split())
    assert (told.returncode, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    assert line.endswith((": No such file or directory", ": Not a directory"))
    assert (line.count(str(tmp_path)) <= 1, "Errno" in line) == (True, False)


def test_a_wrong_setting_is_told_in_words(tmp_path: Path) -> None:
    told = loyalty(tmp_path, "up", "--regions", "EU!")
    assert told.stderr.splitlines()[-1].endswith(
        "are wrong: regions: 'EU!' is no region name (2 to 16 of a-z and 0-9, a letter first)"
    )


def test_a_program_that_cannot_be_shown_leaves_the_operators_file_as_it_was(tmp_path: Path) -> None:
    mine = tmp_path / "program.toml"
    mine.write_text("# mine\n")
    told = loyalty(tmp_path, "program", "show", "--output", str(mine), "--data", str(stopped_system(tmp_path)))
    assert (told.returncode, mine.read_text()) == (1, "# mine\n")


def test_the_program_tells_its_version_and_shows_flags_without_a_type(tmp_path: Path) -> None:
    assert loyalty(tmp_path, "--version").stdout.startswith("loyalty 0.")
    shown = loyalty(tmp_path, "up", "--help").stdout
    assert "--detach" in shown
    assert "<bool>" not in shown


def test_no_help_has_brackets_that_the_screen_takes_for_markup() -> None:
    def helps(command: Any) -> Iterator[str]:
        yield from (one.help for one in command.params if getattr(one, "help", None))
        for part in getattr(command, "commands", {}).values():
            yield from helps(part)

    assert [text for text in helps(typer.main.get_command(app)) if "[" in text] == []


def test_the_verdict_counts_promises_as_its_lines_do() -> None:
    held, broken = Finding("one", "eu-1", 1), [Finding("two", shard, 1, 1, ["why"]) for shard in ("eu-1", "us-1")]
    *_, summary = render_verdict([held, *broken]).renderables  # type: ignore[attr-defined]
    assert str(summary) == "loyalty verify: 1 of 2 promises are broken."


def test_the_verdict_tells_what_could_not_be_looked_at_apart_from_what_is_broken() -> None:
    held, broken = Finding("one", "eu-1", 1), Finding("two", "eu-1", 1, 1, ["why"])
    unseen = Finding("three", "eu-1 standby")
    unseen.miss("eu-1: no standby")
    assert [exit_code(found) for found in ([held], [held, unseen], [held, unseen, broken])] == [0, 3, 1]
    assert verdict_document([held, unseen])["ok"] is False
    *_, why, summary = render_verdict([held, unseen]).renderables  # type: ignore[attr-defined]
    assert str(why) == "  eu-1 standby: three: could not be looked at: eu-1: no standby"
    assert "1 of 2 could not be looked at" in str(summary)


def backed_up(folder: Path) -> Path:
    """What `restore` takes for a base backup."""
    backup = folder / "monday" / "eu-1"
    backup.mkdir(parents=True)
    (backup / "PG_VERSION").write_text("18\n")
    return backup.parent


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("eu-1", "nowhere"), "holds no base backup"),
        (("xx-1", "monday/eu-1"), "no servers of a shard 'xx-1' were started"),
        (("eu-1", "monday", "--at", "2026-11-25T09:30:00Z"), "only with the WAL archive"),
        (("eu-1", "monday", "--archive", "nowhere"), "nothing was archived there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_restore_that_cannot_be_done_moves_nothing(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    backed_up(tmp_path)
    kept = stopped_system(tmp_path) / "servers" / "eu-1" / "postgres-1"
    kept.mkdir(parents=True)
    done = loyalty(tmp_path, "restore", *words, "--data", str(tmp_path / "data"))
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr
    assert [path.name for path in kept.parent.iterdir()] == ["postgres-1"]


def test_an_instant_needs_its_zone(tmp_path: Path) -> None:
    backed_up(tmp_path)
    done = loyalty(
        tmp_path, "restore", "eu-1", "monday", "--at", "2026-11-25T09:30:00", "--data", str(tmp_path / "data")
    )
    assert done.returncode == 2


def test_a_command_imports_only_what_it_needs() -> None:
    heavy = {"asyncpg", "redis", "benchmarks", "command", "query", "cdc", "verify"}
    program = f"import sys, cluster.cli; print(*sorted({heavy!r} & sys.modules.keys()))"
    told = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


def test_a_campaign_against_a_running_system_of_several_regions_is_refused_in_one_line(tmp_path: Path) -> None:
    data = stopped_system(tmp_path)
    topology = json.loads((data / "topology.json").read_text())
    topology["regions"]["us"] = {"number": 2, "command": [], "query": []}
    topology["shards"]["us-1"] = topology["shards"]["eu-1"] | {"region": "us"}
    (data / "topology.json").write_text(json.dumps(topology))
    with exclusive(data):
        told = loyalty(tmp_path, "chaos", "--data", str(data))
    why = f"a campaign breaks a system of one region, and {data} has eu, us"
    assert (told.returncode, told.stdout, told.stderr) == (1, "", f"{why}\n")


BOUND_ELSEWHERE = {
    "chaos": ("--seed",),  # any is one
    "up": ("--nodes", "--standbys", "--port"),  # ClusterSettings
    "bench": ("--port",),
    "demo": ("--port",),
}


def unbound(command: Any) -> dict[str, tuple[str, ...]]:
    """The flags of all commands below this one that take a number of any size, by command."""
    found: dict[str, tuple[str, ...]] = {}
    for name, one in command.commands.items():
        if hasattr(one, "commands"):
            found |= {f"{name} {word}": flags for word, flags in unbound(one).items()}
        elif flags := tuple(option.opts[0] for option in one.params if is_unbound(option)):
            found[name] = flags
    return found


def is_unbound(option: Any) -> bool:
    return option.type_descriptor.annotation in {int, float} and option.min is None


def test_every_number_on_the_command_line_has_bounds() -> None:
    assert unbound(typer.main.get_command(app)) == BOUND_ELSEWHERE


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"), ENDED),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), ENDED),
        (ConnectionError("unexpected connection_lost() call"), ENDED),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5432)"), "Connection refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 5)"), "Connection refused"),
        (TimeoutError(), "no answer in time"),
        (asyncpg.QueryCanceledError("canceling statement due to statement timeout"), None),
        (asyncpg.ClientConfigurationError("invalid DSN: invalid port"), None),
        (FileNotFoundError(2, "No such file or directory", "/nowhere"), "No such file or directory"),
        (ProblemError("shard_unavailable", "eu-1: nobody takes writes"), "eu-1: nobody takes writes"),
        (ClusterError("as it is"), None),
    ],
    ids=repr,
)
def test_what_kept_a_server_from_answering_is_told_in_words(
    error: Exception, words: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert in_words(error) == (words or str(error))
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(words or str(error))


def test_a_name_with_brackets_is_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "ask", lambda _, request: f"no region {request.name}")
    with exclusive(tmp_path):
        command_line.ask_supervisor(tmp_path, Request(action="drain", name="[/eu]"))
    assert capsys.readouterr().out == "no region [/eu]\n"


def test_what_is_being_done_is_told_once_where_nothing_can_move() -> None:
    piped = StringIO()
    with load._doing(Console(file=piped), "bringing the system up …"):
        assert piped.getvalue() == "bringing the system up …\n"
    assert piped.getvalue().count("bringing") == 1


def test_what_goes_to_a_file_is_not_broken_at_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    promise = "every receipt has its one entry and every purchase its receipt"
    command_line.screen().print(render_verdict([Finding(promise, "eu-1", 1)]))
    assert promise in capsys.readouterr().out
