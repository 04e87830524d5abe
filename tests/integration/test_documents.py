"""A mistake in a file that operators keep is one line: commands say it, `status` says it loudly, nothing changes."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import ClientSession

from cluster import disk
from cluster.cli import main
from cluster.disk import Disk, disks_of
from cluster.document import Documents
from cluster.key import ensure_keys
from cluster.status import read_status, render_status
from service import credential
from service.credential import Credentials
from shard_router.errors import ProblemError
from tests.command_node import running_command_node
from tests.file import put

TOPOLOGY = {
    "epoch": 1,
    "regions": {"eu": {"number": 1, "command": ["http://127.0.0.1:1"], "query": ["http://127.0.0.1:1"]}},
    "shards": {
        "eu-1": {
            "region": "eu",
            "slots": [[0, 4095]],
            "servers": ["postgresql://x:y@127.0.0.1:1/z"],
            "valkey": "redis://127.0.0.1:1",
        }
    },
}
FILES = {
    "topology.json": [["status"], ["verify"], ["rebuild"], ["program", "show"], ["key", "service"], ["respell"]],
    "credentials.json": [["status"], ["key", "service"], ["keys"], ["revoke", "x"]],
    "keys.json": [["status"], ["token", "member", "01"]],
    "regions.json": [["status"], ["up"], ["down"]],
    "run.json": [["status"], ["down"]],
    "loyalty.toml": [["status"], ["up"], ["key", "pos"]],
}
MISTAKES = {"half written": '{"a"', "of another shape": "[1]", "binary": "\udcff"}
MISTAKES_OF_TOML = {"half written": "a = [", "of another shape": "regionz = 1", "binary": "\udcff"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that was started once, with nothing running on it; 80 columns would break its files' names."""
    above = len(f"{tmp_path}/")
    folder = tmp_path / ("d" * (-(above + 4) % 80 or 80))
    folder.mkdir()
    monkeypatch.chdir(folder)
    ensure_keys(Documents(folder))
    (folder / "topology.json").write_text(json.dumps(TOPOLOGY))
    (folder / "regions.json").write_text('{"eu": 1}')
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["loyalty", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize(("file", "words"), [(file, words) for file, each in FILES.items() for words in each])
def test_a_command_says_it_in_one_line_and_makes_nothing_of_it(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    file: str,
    words: list[str],
    mistake: str,
) -> None:
    mistakes = MISTAKES_OF_TOML if file.endswith("toml") else MISTAKES
    content = mistakes[mistake].encode(errors="surrogateescape")
    (folder / file).write_bytes(content)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert run(monkeypatch, *words, "--data", str(folder)) == 1
    told = "".join(capfd.readouterr())
    assert "Traceback" not in told
    assert any(file in line for line in told.splitlines()), told
    assert len([line for line in told.splitlines() if file in line]) == 1
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("words", [["key"], ["token", "key"]], ids=" ".join)
def test_a_key_is_made_with_its_name_listed_without_its_secret_and_taken_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (folder / "topology.json").unlink()
    before = json.loads((folder / "credentials.json").read_text())
    run(monkeypatch, *words, "pos", "--name", "Till 7", "--data", str(folder))
    text = capfd.readouterr().out.strip()
    run(monkeypatch, "keys", "--json", "--data", str(folder))
    listed = capfd.readouterr().out
    made = json.loads(listed)[-1]
    assert (made["id"], made["role"], made["name"]) == (text.split("_")[1], "pos", "Till 7")
    assert made["created_at"].endswith("Z")
    assert "sha256" not in listed
    assert Credentials(folder / "credentials.json").principal(f"Bearer {text}").role == "pos"
    assert run(monkeypatch, "keys", "--data", str(folder)) == 0
    assert "Till 7" in capfd.readouterr().out
    assert run(monkeypatch, "revoke", text, "--data", str(folder)) == 0
    with pytest.raises(ProblemError):
        Credentials(folder / "credentials.json").principal(f"Bearer {text}")
    assert json.loads((folder / "credentials.json").read_text()) == before
    assert run(monkeypatch, "revoke", text, "--data", str(folder)) == 1


async def test_status_tells_of_both_documents_and_goes_on(folder: Path) -> None:
    (folder / "topology.json").write_text('{"epoch": 2')
    (folder / "credentials.json").write_text('{"keyz": []}')
    report = await read_status(folder)
    assert not report.ready
    assert [line.split(": ")[0].rpartition("/")[2] for line in report.mistakes] == ["topology.json", "credentials.json"]
    assert all("stays" in line for line in report.document()["warnings"][:2])
    assert "keyz" in str(report.document()["warnings"])
    assert render_status(report).renderables


async def test_readiness_tells_what_is_not_in_force_and_stays_ready(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential, "_RELOAD_INTERVAL_S", 0.0)
    async with running_command_node(database, tmp_path) as node, ClientSession() as session:
        put(tmp_path / "credentials.json", '{"keyz": []}')
        put(tmp_path / "topology.json", "{")
        node.inner.topology.look()
        async with session.get(f"{node.url}/readyz?verbose") as answer:
            text = await answer.text()
            assert answer.status == 200, text
        warnings = [line for line in text.splitlines() if line.startswith("[!]")]
        assert [line.split(" ")[1] for line in warnings] == ["credentials:", "topology:"]
        assert all("in force" in line for line in warnings)
        member = await node.enrol()
        assert (await node.give(member["member_id"], 1)).status == 201


class Figures(NamedTuple):
    """What statvfs tells."""

    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_frsize: int


@pytest.mark.parametrize(
    ("figures", "shortages"),
    [
        (Figures(100, 50, 45, 100, 50, 50, 4096), []),
        (Figures(100, 15, 10, 100, 50, 50, 4096), []),
        (Figures(100, 14, 9, 100, 50, 50, 4096), ["disk"]),
        (Figures(100, 50, 45, 100, 10, 10, 4096), ["inodes"]),
        (Figures(100, 5, 0, 100, 0, 0, 4096), ["disk", "inodes"]),
        (Figures(0, 0, 0, 0, 0, 0, 4096), []),
    ],
)
def test_a_disk_with_little_left_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures, shortages: list[str]
) -> None:
    (tmp_path / "servers" / "eu-1" / "postgres-1").mkdir(parents=True)
    monkeypatch.setattr(disk.os, "statvfs", lambda _path: figures)
    (found,) = disks_of(tmp_path)
    assert [words.split(" ")[0] for words in found.shortages] == shortages
    assert all(str(tmp_path) in words for words in found.shortages)


def test_the_real_disk_is_read(tmp_path: Path) -> None:
    (found,) = disks_of(tmp_path)
    assert isinstance(found, Disk)
    assert 0 < found.used_percent < 100
    assert found.free_bytes == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.2)
