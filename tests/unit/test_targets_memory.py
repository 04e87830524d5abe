"""The rows of memory count what a machine has to have."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.memory import DOOR, PROGRAMS, Held, held_by, held_by_kind
from benchmarks.targets import Measured, add_memory

of_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_the_supervisor_counts_and_the_door_has_a_row_of_its_own() -> None:
    measured = Measured()
    found = {"supervisor": Held(1, 2048, 4096), "postgres": Held(7, 1024, 8192), DOOR: Held(1, 512, 5120)}
    add_memory(measured, found)
    assert measured.values == {"memory": [12], "memory shared once": [3], "memory of the door": [0.5]}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[psutil.Process]:
    """A shell that stands for the supervisor: `cat` below another shell is a node, forked from that one."""
    line = ["sh", "-c", "sh -c 'cat; true'; true"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"there\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"there\n"
        process = psutil.Process(shell.pid)
        kept = {"eu-command": {"identity": {"pid": process.children(recursive=True)[-1].pid}}}
        (tmp_path / "run.json").write_text(json.dumps({"supervisor": {"pid": shell.pid}, "processes": kept}))
        yield process
        shell.stdin.close()


@of_linux
def test_a_node_is_found_below_the_process_that_it_was_forked_from(tmp_path: Path, supervisor: psutil.Process) -> None:
    found = held_by_kind(tmp_path)
    kinds = ("supervisor", "the process to fork from", "command nodes")
    assert {kind: held.processes for kind, held in found.items()} == dict.fromkeys(kinds, 1) | {PROGRAMS: 0}
    assert 0 < found["command nodes"].pss <= found["command nodes"].rss
    supervisor.children()[0].kill()
    supervisor.kill()
    supervisor.wait()
    assert held_by(supervisor.pid) == (Held(), {})


@of_linux
@pytest.mark.usefixtures("supervisor")
def test_who_maps_the_same_programs_elsewhere_makes_a_system_no_smaller(tmp_path: Path) -> None:
    alone = held_by_kind(tmp_path)[PROGRAMS].pss
    line = ["cat"]
    neighbours = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(20)]
    for neighbour in neighbours:
        assert neighbour.stdin is not None
        assert neighbour.stdout is not None
        neighbour.stdin.write(b"there\n")
        neighbour.stdin.flush()
        assert neighbour.stdout.readline() == b"there\n"
    assert held_by_kind(tmp_path)[PROGRAMS].pss == alone > 0
    for neighbour in neighbours:
        neighbour.communicate()
