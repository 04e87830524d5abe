"""Plants bugs in copies of the tree, one at a time, and sees whether the test each names fails by an assertion.

First every test named must pass on a clean copy: one that fails anyway proves nothing. A test that fails
because the copy cannot be imported, or that just takes too long, has caught nothing either.
"""

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.mutants.mutant import Mutant
from tests.project import PROJECT

DEADLINE_S = 300.0
BASELINE_DEADLINE_S = 1800.0
NO_CATCH = ("ImportError", "ModuleNotFoundError", "SyntaxError", "NameError", "Failed: Timeout")
"""What shows that a patch broke the program, not a promise."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant; `why` it counts as survived, empty when it was caught."""

    mutant: Mutant
    why: str
    words: str = ""


def run_mutants(mutants: Sequence[Mutant], *, jobs: int, tell: Callable[[Verdict], None]) -> list[Verdict]:
    """Plant each, `jobs` at a time, a copy of the tree for each job."""
    with tempfile.TemporaryDirectory(prefix="loyalty-mutants-", dir="/var/tmp") as scratch:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(copy_tree(Path(scratch) / f"tree-{number}"))
        clean = copies.get()
        failing = _baseline(clean, sorted({mutant.test for mutant in mutants}), jobs)
        copies.put(clean)

        def one(mutant: Mutant) -> Verdict:
            if mutant.test in failing:
                verdict = Verdict(mutant, "its test fails without it", failing[mutant.test])
            else:
                tree = copies.get()
                try:
                    verdict = _plant(mutant, tree)
                finally:
                    copies.put(tree)
            tell(verdict)
            return verdict

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, mutants))


def copy_tree(target: Path) -> Path:
    """A copy of what git tracks or would, as it is now, edited or not."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source = PROJECT / name
        if source.is_file() and not source.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    target.chmod(0o755)
    return target


def _baseline(tree: Path, tests: Sequence[str], jobs: int) -> dict[str, str]:
    """Which of the tests fail on a clean tree, and how."""
    workers = ("-n", str(jobs), "--dist", "loadgroup") if jobs > 1 and len(tests) > jobs else ()
    report, words = _pytest(tree, [*workers, *tests], BASELINE_DEADLINE_S)
    outcomes = {test: _outcome(report, test) for test in tests}
    return {
        test: why or words[-300:] or "it did not run"
        for test, (passed, why) in outcomes.items()
        if not passed or why is not None
    }


def _plant(mutant: Mutant, tree: Path) -> Verdict:
    if why := mutant.apply(tree):
        return Verdict(mutant, "its patch does not apply any more", why)
    try:
        report, words = _pytest(tree, [mutant.test], DEADLINE_S)
    finally:
        if why := mutant.apply(tree, "--reverse"):
            raise RuntimeError(f"{mutant.name} cannot be taken back: {why}")
    _, failed = _outcome(report, mutant.test)
    if failed is None:
        return Verdict(mutant, "SURVIVED" if report is not None else "no report of its test", words[-300:])
    if failed.startswith(NO_CATCH):
        return Verdict(mutant, "its test fails for another reason", failed)
    return Verdict(mutant, "", failed)


def _pytest(tree: Path, arguments: Sequence[str], deadline_s: float) -> tuple[ET.Element | None, str]:
    """The report of a run in a tree (None: there is none), and what was printed."""
    report = tree / ".mutants.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOYALTY_", "PYTEST_"))}
    # Two trees that differ in one line of the same length, within a second, have the same mark on their byte code.
    env = {**kept, "LOYALTY_LONG": "1", "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    out = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=tree, env=env, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as child:
        try:
            words, _ = child.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            return None, f"it took longer than {deadline_s:.0f} s"
    return (ET.parse(report).getroot() if report.is_file() else None), words  # noqa: S314 - our own report


def _outcome(report: ET.Element | None, test: str) -> tuple[bool, str | None]:
    """Whether a test ran, and the first failure of it or of one of its cases; an error of its set-up is no failure."""
    path, _, name = test.partition("::")
    ran, failed = False, None
    for case in report.iter("testcase") if report is not None else ():
        found = case.get("name", "")
        is_it = found == name or ("[" not in name and found.partition("[")[0] == name)
        if not is_it or case.get("classname") != path.removesuffix(".py").replace("/", "."):
            continue
        ran = ran or (case.find("error") is None and case.find("skipped") is None)
        failure = case.find("failure")
        if failure is not None and failed is None:
            failed = failure.get("message", "").splitlines()[0] or "it failed"
    return ran, failed
