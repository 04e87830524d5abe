"""`loyalty up --detach`: whoever waits no longer leaves the system coming up."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.long import long
from tests.system.conftest import free_range, loyalty

IMPATIENT = "import cluster.run; cluster.run.DETACH_DEADLINE_S = 0.0; from cluster.cli import main; main()"


@pytest.fixture
def data() -> Generator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="loyalty-detach-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder / "data"
    loyalty(folder / "data", "down")
    shutil.rmtree(folder, ignore_errors=True)


@long
async def test_a_system_that_is_not_ready_in_time_goes_on(data: Path) -> None:
    words = ["up", "--detach", "--regions", "eu", "--no-door", "--port", str(free_range(1)), "--data", str(data)]
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", IMPATIENT, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "it goes on in the background" in done.stdout + done.stderr

    async def ready() -> bool:
        return (await asyncio.to_thread(loyalty, data, "status")).returncode == 0

    await eventually(ready, deadline_s=60)
    assert (await asyncio.to_thread(loyalty, data, "down")).stdout.strip() == "stopped"
