"""A process of ours says in one line what it cannot start with, and ends whatever it left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import PROJECT

DEADLINE_S = 60
# Work that leaves a thread which never ends, and a log on a device without room.
LEAVES_A_THREAD = """
import asyncio, os, threading
from service.process import run_process
from service.settings import NodeSettings
import structlog

async def work(settings):
    threading.Thread(target=threading.Event().wait).start()
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    structlog.get_logger().error("nobody reads this")
    {ending}

run_process("test", None, NodeSettings, work, loop=asyncio.run)
"""
SETTINGS = {"LOYALTY_REGION": "eu", "LOYALTY_PORT": "1", "LOYALTY_TOPOLOGY": "/none", "LOYALTY_CREDENTIALS": "/none"}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=PROJECT,
        env=inherited | {"PYTHONPATH": str(PROJECT)} | settings,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a device that is always full")
@pytest.mark.parametrize(("ending", "status"), [("return 0", 0), ("return 3", 3), ("raise RuntimeError", 1)])
def test_a_process_ends_with_its_work_whatever_that_leaves_behind(ending: str, status: int) -> None:
    assert run("-c", LEAVES_A_THREAD.format(ending=ending), **SETTINGS).returncode == status


@pytest.mark.parametrize(
    ("module", "file", "words"),
    [
        ("command", None, "region: Field required"),
        ("cdc", None, "shard: Field required"),
        ("query", None, "topology: Field required"),
        ("query", "missing.toml", "missing.toml: no such file"),
        ("command", "broken.toml", "broken.toml: "),
        ("query", "lacking.toml", "topology: Field required"),
        ("cdc", "wrong.toml", "port: Input should be a valid integer"),
        ("query", "nowhere.toml", "/none: No such file or directory"),
        ("command", "nowhere.toml", "/none: No such file or directory"),
        ("cdc", "nowhere.toml", "/none: No such file or directory"),
    ],
)
def test_what_a_process_cannot_start_with_is_told_in_one_line(
    tmp_path: Path, module: str, file: str | None, words: str
) -> None:
    whole = 'region = "eu"\nshard = "eu-1"\nport = 8\ntopology = "/none"\ncredentials = "/none"\n'
    (tmp_path / "broken.toml").write_text('region = "eu')
    (tmp_path / "lacking.toml").write_text('region = "eu"\n')
    (tmp_path / "wrong.toml").write_text(whole.replace("port = 8", 'port = "x"'))
    (tmp_path / "nowhere.toml").write_text(whole)
    done = run("-m", module, *(["--config", str(tmp_path / file)] if file else []))
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
