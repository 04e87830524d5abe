"""A few seconds of the campaign; `make chaos` is the long one."""

import subprocess
import sys

import pytest

from tests.system.conftest import free_range

KINDS = ("walsenders cut", "command node killed", "a backend killed", "half-open connections to the command node")


@pytest.mark.timeout(240)
def test_a_short_campaign_finds_nothing() -> None:
    only = [word for kind in KINDS for word in ("--only", kind)]
    command = [sys.executable, "-m", "cluster", "chaos", "--seed", "1", "--faults", "4", "--duration", "10"]
    done = subprocess.run(  # noqa: PLW1510 - the exit code is looked at
        [*command, "--port", str(free_range(1)), *only], capture_output=True, text=True, timeout=230
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no divergence" in done.stdout
