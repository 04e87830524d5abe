"""What the supervisor told before it ended is still there after the next start: it may tell why it ended."""

from pathlib import Path

import pytest

from cluster import run
from cluster.document import Documents, plan_of
from cluster.errors import ClusterError


def test_the_log_of_the_supervisor_before_is_set_aside(tmp_path: Path) -> None:
    log = Documents(tmp_path).log(run.SUPERVISOR)
    log.parent.mkdir(exist_ok=True)
    log.write_text("us-1-valkey: no space left on device\n")
    with pytest.raises(ClusterError, match="a start that fails"):
        run.detach(plan_of({"data": tmp_path, "door": False}), (), ("-c", "import sys; sys.exit('a start that fails')"))
    assert log.read_text() == "a start that fails\n"
    assert log.with_name("supervisor.log.1").read_text() == "us-1-valkey: no space left on device\n"
