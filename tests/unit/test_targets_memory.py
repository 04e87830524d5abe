"""The rows of memory count what a machine has to have."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.memory import DOOR, Held, held_by, held_by_kind
from benchmarks.targets import Measured, add_memory


def test_the_supervisor_counts_and_the_door_has_a_row_of_its_own() -> None:
    measured = Measured()
    found = {"supervisor": Held(1, 2048, 4096), "postgres": Held(7, 1024, 8192), DOOR: Held(1, 512, 5120)}
    add_memory(measured, found)
    assert measured.values == {"memory": [12], "memory shared once": [3], "memory of the door": [0.5]}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_node_is_found_below_the_process_that_it_was_forked_from(tmp_path: Path) -> None:
    line = ["sh", "-c", "sh -c 'cat; true'; true"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.write(b"there\n")
        supervisor.stdin.flush()
        assert supervisor.stdout.readline() == b"there\n"
        node = psutil.Process(supervisor.pid).children(recursive=True)[-1]
        kept = {"eu-command": {"identity": {"pid": node.pid}}}
        (tmp_path / "run.json").write_text(json.dumps({"supervisor": {"pid": supervisor.pid}, "processes": kept}))
        found = held_by_kind(tmp_path)
        supervisor.stdin.close()
    kinds = ("supervisor", "the process to fork from", "command nodes")
    assert {kind: held.processes for kind, held in found.items()} == dict.fromkeys(kinds, 1)
    assert 0 < found["command nodes"].pss <= found["command nodes"].rss
    assert held_by(supervisor.pid) == Held()
