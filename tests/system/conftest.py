"""A whole running system: three regions under one supervisor, spoken to over HTTP only."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.engine import free_port
from tests.system.till import System

START_DEADLINE_S = 120


def loyalty(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; its folder is the checkout, its data elsewhere."""
    command = [sys.executable, "-m", "cluster", *arguments, "--data", str(data)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
    return subprocess.run(  # noqa: PLW1510 - callers look at the exit code
        command, capture_output=True, text=True, timeout=START_DEADLINE_S, env=environment
    )


def start(data: Path, port: int) -> None:
    done = loyalty(data, "up", "--port", str(port), "--detach")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def running() -> Generator[tuple[Path, int]]:
    """Data folder and first port of a running system."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-system-", dir="/var/tmp"))
    folder.chmod(0o755)
    data, port = folder / "data", _free_range()
    start(data, port)
    yield data, port
    loyalty(data, "down")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def system(running: tuple[Path, int]) -> AsyncGenerator[System]:
    data, port = running
    status = loyalty(data, "status", "--json")
    async with ClientSession() as session:
        yield System(data, port, json.loads(status.stdout), session)


def _free_range() -> int:
    """The first of thirty free ports: one that is free has free ones behind it nearly always."""
    return min(free_port(), 65_000) // 100 * 100
