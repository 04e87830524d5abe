"""Values never change: at run time nothing holds that, so the type checker must."""

import subprocess
import sys
from pathlib import Path

from tests.project import PROJECT


def test_the_type_checker_refuses_to_change_a_value(tmp_path: Path) -> None:
    source = tmp_path / "change.py"
    source.write_text("from rules.state import Lot\nlot = Lot(5)\nlot.points = 6\n")
    command = [sys.executable, "-m", "pyright", "--project", str(PROJECT), str(source)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=PROJECT)
    assert 'Cannot assign to attribute "points"' in checked.stdout, checked.stdout + checked.stderr
