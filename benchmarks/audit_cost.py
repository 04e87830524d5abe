"""What `loyalty verify` costs an entry: CPU of its own processes, of the backends and of Valkey, by how much is known.

On a system that runs on a data folder of this machine, by one checkout of the code or several in turn, each with what
it has seen in a folder of its own: at first it folds everybody, then it knows all of them and nothing has changed.
CPU time, which stands up beside other work; entries/s are by the clock, so tell the load.

    python -m benchmarks.audit_cost DATA [CHECKOUT ...]
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.cpu import BACKEND, cpu_seconds
from benchmarks.targets import entries_checked

ROUNDS: Final = 3
TURNS: Final = ("everybody", "nobody changed")
_VERIFY: Final = """
import asyncio, json, sys
from pathlib import Path
from cluster.document import Documents
from cluster.verdict import verdict_document
from verify.parallel import verify_side_by_side
if __name__ == "__main__":
    data = Documents(Path(sys.argv[1]))
    found = asyncio.run(verify_side_by_side(data.topology, data.logins(), Path(sys.argv[2])))
    json.dump(verdict_document(found), sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of CPU an entry (of a rebuild: a member), and how many per second."""

    own: float
    backend: float
    valkey: float
    per_s: float

    @property
    def cpu(self) -> float:
        """All of it."""
        return self.own + self.backend + self.valkey


def measured(data: Path, checkout: Path, known: Path) -> Cost:
    """One run of a checkout's `verify`; what it knows is in a folder."""
    processes = processes_of(data)
    before, own, began_at = cpu_seconds(processes), _children_s(), time.monotonic()
    told = output_of(checkout, _VERIFY, data, known)
    took_s, own, after = time.monotonic() - began_at, _children_s() - own, cpu_seconds(processes)
    verdict = json.loads(told)
    if not verdict["ok"]:
        raise SystemExit(f"{checkout}: a promise is broken: {[one for one in verdict['checks'] if one['violations']]}")
    entries = entries_checked(verdict["checks"])
    backend, valkey = (1e6 * (after[role] - before[role]) / entries for role in (BACKEND, "Valkey"))
    return Cost(1e6 * own / entries, backend, valkey, entries / took_s)


def output_of(checkout: Path, code: str, *words: Path) -> bytes:
    """What a program says that runs on the modules of a checkout."""
    command, environment = [sys.executable, "-c", code, *map(str, words)], {**os.environ, "PYTHONPATH": str(checkout)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, cwd=checkout).stdout


def processes_of(data: Path) -> Mapping[str, int]:
    """What the supervisor of a data folder keeps now."""
    kept = json.loads((data / "run.json").read_text())["processes"]
    return {name: one["identity"]["pid"] for name, one in kept.items() if one["identity"] is not None}


def _children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


async def main(data: Path, checkouts: list[Path]) -> None:
    """Measure all in turn, and print the table."""
    found: dict[tuple[str, Path], list[Cost]] = {}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for turn in TURNS:
                for number, checkout in enumerate(checkouts):
                    known = Path(folder) / str(number)
                    known.mkdir(exist_ok=True)
                    found.setdefault((turn, checkout), []).append(measured(data, checkout, known))
    medians = {key: Cost(*map(median, zip(*map(astuple, costs), strict=True))) for key, costs in found.items()}
    sys.stdout.write("folded          own  backend  Valkey |  CPU  | entries/s | 2 cores would give\n")
    for (turn, checkout), cost in medians.items():
        sys.stdout.write(
            f"{turn:14} {cost.own:5.1f}  {cost.backend:7.1f}  {cost.valkey:6.1f} | {cost.cpu:5.1f} | {cost.per_s:9.0f} "
            f"| {2e6 / cost.cpu:9.0f}  {checkout}\n"
        )
    sys.stdout.write(f"load {os.getloadavg()[0]:.1f}\n")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    asyncio.run(main(Path(sys.argv[1]).resolve(), [Path(one).resolve() for one in sys.argv[2:]] or [here]))
