"""Which Python the environment is made with (deploy/make_venv.py)."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import PROJECT

SCRIPT = PROJECT / "deploy" / "make_venv.py"
made = runpy.run_path(str(SCRIPT))


def python(name: str, seconds: float) -> dict[str, object]:
    return {"python": name, "seconds": seconds, "pip": None}


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ([1.0], "0"),
        ([1.0, 0.84], "0"),  # not faster by a sixth: the first on the PATH, which its owner chose
        ([1.0, 0.82], "1"),
        ([1.0, 0.8, 0.7], "2"),
        ([0.7, 0.8, 1.0], "0"),
    ],
)
def test_the_first_is_taken_unless_another_is_faster_by_a_sixth(seconds: list[float], chosen: str) -> None:
    pythons = [python(str(place), took) for place, took in enumerate(seconds)]
    assert made["choose"](pythons)["python"] == chosen


def test_what_is_no_suitable_python_is_passed_over_and_each_counts_once(tmp_path: Path) -> None:
    def shim(name: str, script: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    paths = [
        str(tmp_path / "absent"),
        shim("not-installed", "echo 'command not found' >&2; exit 127"),
        shim("talks", "echo hello"),
        shim("good", f'exec {sys.executable} "$@"'),
        sys.executable,
    ]
    (found,) = made["found"](paths)
    assert found["python"] == sys.executable
    assert found["seconds"] > 0


def test_an_old_python_and_one_without_venv_are_unsuitable(tmp_path: Path) -> None:
    for broken in ("OLDEST = (4, 0)", "find_spec = lambda name: None"):
        script = tmp_path / "make_venv.py"
        script.write_text(SCRIPT.read_text().replace("\n\nif __name__", f"\n\n{broken}\n\nif __name__"))
        said = subprocess.run([sys.executable, "-I", script, "--describe"], capture_output=True, check=False)
        assert said.returncode == 1
        assert not said.stdout


def test_an_environment_is_made_anew_with_a_pip_that_works(tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("left by an interrupted run")
    subprocess.run([sys.executable, SCRIPT, folder, sys.executable], check=True, capture_output=True)
    said = subprocess.run([folder / "bin" / "pip", "--version"], check=True, capture_output=True, text=True)
    assert str(folder) in said.stdout


def test_no_suitable_python_is_exit_code_1(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, SCRIPT, tmp_path / "environment", tmp_path / "absent"], check=False)
    assert said.returncode == 1
    assert not (tmp_path / "environment").exists()
