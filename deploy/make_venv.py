#!/usr/bin/env python3
"""Makes the virtual environment VENV with the Python given, or else with the fastest suitable one of this machine.

    make_venv.py VENV [PYTHON]

A Python built without profile-guided optimization, as version managers build it from source, takes 1.3 to 1.5 times
the CPU of a distribution's (decisions/0114). How one was built cannot be told from outside, so each one found does
some milliseconds of work, a few times in turn, and its best time counts. The first on the PATH is taken unless another
is faster by a sixth. Exit code 1: none is suitable.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python3.14")
PLACES = ("/usr/bin/python3", "/usr/local/bin/python3", "/opt/homebrew/bin/python3")
OLDEST = (3, 11)
FASTER = 5 / 6
TURNS = 3
ROUNDS = 15
ASK_TIMEOUT_S = 30


def speed() -> float:
    """Seconds of CPU that the best round took: attributes, calls, texts and small containers, as in a node."""

    class Basket:
        __slots__ = ("lines", "points")

        def __init__(self, lines: tuple[tuple[str, int], ...]) -> None:
            self.lines = lines
            self.points: dict[str, int] = {}

        def earn(self, rate: int) -> tuple[tuple[str, int], ...]:
            for sku, amount in self.lines:
                self.points[sku] = self.points.get(sku, 0) + amount * rate // 100
            return tuple(sorted(self.points.items()))

    def round_s() -> float:
        began = time.process_time()
        for number in range(2_000):
            Basket(((f"sku-{number % 7}", 100), ("other", number))).earn(number)
        return time.process_time() - began

    return min(round_s() for _ in range(ROUNDS))


def bundled_pip() -> str | None:
    """The wheel of pip that this Python has for its environments; None where a distribution has taken it out."""
    try:
        import ensurepip  # noqa: PLC0415 - may be missing
    except ImportError:
        return None
    folders = (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels"))
    return next((str(wheel) for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))), None)


def describe() -> dict[str, Any]:
    """Path, speed and wheel of pip of the Python that runs; ImportError where it makes no environments."""
    if sys.version_info < OLDEST or find_spec("venv") is None:
        raise ImportError
    return {"python": sys.executable, "seconds": speed(), "pip": bundled_pip()}


def ask(path: str) -> dict[str, Any] | None:
    """What `describe` gives in the Python at `path`; None where it is unsuitable.

    A name on the PATH may be a shim for a version that is not installed.
    """
    command = [path, "-I", str(Path(__file__).resolve()), "--describe"]
    try:
        said = subprocess.run(command, capture_output=True, timeout=ASK_TIMEOUT_S, check=True)
        return json.loads(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def found(paths: Iterable[str]) -> list[dict[str, Any]]:
    """The suitable ones of `paths` in their order, each once, each with the best of its times."""
    suitable: dict[str, dict[str, Any]] = {}
    for path in paths:
        if said := ask(path):
            suitable.setdefault(said["python"], said)
    for _ in range(TURNS if len(suitable) > 1 else 0):
        for python, first in suitable.items():
            if said := ask(python):
                first["seconds"] = min(first["seconds"], said["seconds"])
    return list(suitable.values())


def choose(pythons: list[dict[str, Any]]) -> dict[str, Any]:
    """The first, or the fastest if that is faster by a sixth."""
    fastest = min(pythons, key=lambda one: one["seconds"])
    return fastest if fastest["seconds"] < FASTER * pythons[0]["seconds"] else pythons[0]


def make(folder: Path, python: str, pip: str | None) -> None:
    """Create the environment, and pip in it without a download; with `uv` where that is installed."""
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    if uv := shutil.which("uv"):
        subprocess.run([uv, "venv", "--quiet", "--python", python, str(folder)], check=True)
        return
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    # A wheel is a zip file that can be run as it is.
    install = [folder / "bin" / "python", f"{pip}/pip", "install", "--quiet", "--no-index", "--no-compile", str(pip)]
    subprocess.run(install, check=True)


def main() -> int:
    """Choose, say which, make."""
    if sys.argv[1:] == ["--describe"]:
        sys.stdout.write(json.dumps(describe()))
        return 0
    folder, *wanted = sys.argv[1:]
    pythons = found(wanted or [*filter(None, map(shutil.which, NAMES)), *PLACES])
    pip = next((one["pip"] for one in pythons if one["pip"]), None)
    if not pythons or not (pip or shutil.which("uv")):
        return 1
    chosen = choose(pythons)
    first = pythons[0]
    times = first["seconds"] / chosen["seconds"]
    why = "" if chosen is first else f", {times:.2f} times as fast as {first['python']}"
    sys.stdout.write(f"Setting up {folder} with {chosen['python']}{why} (once; downloads about 190 MB)\n")
    sys.stdout.flush()
    make(Path(folder), chosen["python"], chosen["pip"] or pip)
    return 0


if __name__ == "__main__":
    sys.exit(main())
