"""`loyalty` as a process of its own."""

import subprocess
import sys
from pathlib import Path

from tests.project import PROJECT


def loyalty(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "cluster", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
