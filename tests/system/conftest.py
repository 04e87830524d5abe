"""A whole running system: three regions under one supervisor, spoken to over HTTP only."""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from cluster.status import read_status
from cluster.system import DEFAULT_PROGRAM
from tests.system.till import System

START_DEADLINE_S = 120
SCARCE = """
[[rewards]]
code = "scarce"
name = "Something scarce"
points = 1
stock = 205
"""


def loyalty(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; its folder is the checkout, its data elsewhere."""
    command = [sys.executable, "-m", "cluster", *arguments, "--data", str(data)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
    return subprocess.run(  # noqa: PLW1510 - callers look at the exit code
        command, capture_output=True, text=True, timeout=START_DEADLINE_S, env=environment
    )


async def told(data: Path) -> dict[str, Any]:
    """What `loyalty status --json` tells, without a process of its own."""
    return (await read_status(data)).document()


def start(data: Path, port: int, *more: str) -> None:
    """Bring the system up with the default program and a reward of few pieces."""
    program = data.parent / "program.toml"
    program.write_text(DEFAULT_PROGRAM.read_text() + SCARCE)
    done = loyalty(data, "up", "--port", str(port), "--program", str(program), "--detach", *more)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="package")
def running() -> Generator[tuple[Path, int]]:
    """Data folder and first port of a running system."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-system-", dir="/var/tmp"))
    folder.chmod(0o755)
    data, port = folder / "data", free_range()
    start(data, port)
    yield data, port
    loyalty(data, "down")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def system(running: tuple[Path, int]) -> AsyncGenerator[System]:
    data, port = running
    async with ClientSession() as session:
        yield System(data, port, await told(data), session)


def free_range(regions: int = 3) -> int:
    """The first of the ports of so many regions, below those the kernel gives to outgoing connections.

    Two workers draw from different ones: what starts meanwhile does not listen yet, and chance is the same for both.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
    bases = random.sample(range(12_000 + 100 * worker, 32_000, 200), 50)
    return next(base for base in bases if all(map(_is_free, _wanted(base, regions))))


def _wanted(base: int, regions: int) -> list[int]:
    return [base + 10 * region + offset for region in range(-1, regions) for offset in range(10)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
