"""What is rehearsed before nodes are forked runs to its end, and leaves nothing that a node would find."""

import gc
import os
import threading
from pathlib import Path

import prometheus_client
import psutil
from aiohttp import web

from cluster.plan import make_plan
from cluster.rehearsal import rehearse
from cluster.settings import read_settings
from service import access


def remains() -> dict[str, object]:
    gc.collect()
    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "files": process.num_fds(),
        "children": process.children(),
        "applications": sum(isinstance(one, web.Application) for one in gc.get_objects()),
        "drawn for request ids": access._process.cache_info().currsize,
        "metrics": sorted(one.name for one in prometheus_client.REGISTRY.collect()),
        "environment": dict(os.environ),
    }


def test_a_rehearsal_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    plan = make_plan(read_settings({"data": tmp_path / "data", "door": False}))
    before = remains()
    rehearse(plan)
    assert remains() == before
    assert not list(tmp_path.iterdir())
