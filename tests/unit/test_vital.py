"""A node tells its version wherever it runs: in an image there is neither a checkout nor an installed package."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import PROJECT

SERVICE = PROJECT / "service"


@pytest.mark.parametrize(("told", "version"), [("9.9.9", "9.9.9"), ("", "unknown")])
def test_an_image_says_which_version_it_is(tmp_path: Path, told: str, version: str) -> None:
    (tmp_path / "service").mkdir()
    for name in ("__init__.py", "vital.py"):
        shutil.copy(SERVICE / name, tmp_path / "service" / name)
    hidden = "import importlib.metadata as m; m.Distribution.discover = classmethod(lambda *_, **__: iter(()))"
    asked = f"{hidden}; from service.vital import running_version; print(running_version())"
    environment = {"LOYALTY_BUILD_VERSION": told, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (version, "")
