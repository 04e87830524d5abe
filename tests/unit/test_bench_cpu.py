"""What counts as CPU time of which role: backends of a Postgres server, and what a process starts."""

import subprocess
import sys

import pytest

from benchmarks.cpu import cpu_seconds, is_session_title

SPENDS = """
import resource, subprocess, sys
spend = "import time\\nwhile time.process_time() < 0.3: pass"
subprocess.run([sys.executable, "-c", spend], check=True)
child = subprocess.Popen([sys.executable, "-c", spend + "\\nprint(flush=True)\\ninput()"], stdin=subprocess.PIPE)
input()
"""
"""One child has ended and another has not; the second says when it has spent as much."""


def test_what_a_projector_starts_counts_as_its_own_also_once_it_has_ended() -> None:
    parent = subprocess.Popen([sys.executable, "-c", SPENDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert cpu_seconds({"eu-1-cdc": parent.pid})["projector"] > 0.5  # of 0.6, counted in ticks
        parent.communicate(b"\n")


@pytest.mark.parametrize(
    ("title", "is_session"),
    [
        ("postgres: loyalty_node loyalty 127.0.0.1(33698) idle", True),
        ("postgres: eu-1-postgres-1: loyalty_node loyalty 127.0.0.1(33698) SELECT waiting for 0/64C7", True),
        ("postgres: walsender loyalty_standby 127.0.0.1(33502) streaming 0/64C7FF0", False),
        ("postgres: eu-1-postgres-1: walsender loyalty_projector loyalty 127.0.0.1(33662) START_REPLICATION", False),
        ("postgres: eu-1-postgres-2: startup recovering 000000010000000000000003", False),
        ("postgres: eu-1-postgres-1: checkpointer ", False),
        ("/usr/bin/postgres -D data", False),
        ("", False),
    ],
)
def test_a_session_is_told_by_its_title_with_or_without_the_name_of_the_cluster(
    title: str, *, is_session: bool
) -> None:
    assert is_session_title(title) is is_session
