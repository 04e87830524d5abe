"""Our own processes: command nodes, query nodes and projectors, each a Python module with one settings file."""

import os
import socket
import sys
from pathlib import Path

import aiohttp

from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.plan import HOST, ClusterPlan
from cluster.process import ProcessSpec

PROJECT = Path(__file__).resolve().parent.parent
HTTP_TIMEOUT_S = 3.0
READY_DEADLINE_S = 180.0  # three JVMs starting on two busy cores took more than 60 s
# What a node's settings file says; the same names in our own environment mean the whole system, not the node.
NODE_SETTINGS = ("REGION", "HOST", "PORT", "TOPOLOGY", "CREDENTIALS", "LOG_LEVEL", "SHARD", "SOURCE")


def node_process(plan: ClusterPlan, *, module: str, name: str, port: int) -> ProcessSpec:
    """`python -m module --config F`, ready when /readyz says so."""
    documents = Documents(plan.data)
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-P", "-m", module, "--config", str(documents.node(name))),
        log=documents.log(name),
        port=port,
        probe=lambda: ready(f"http://{HOST}:{port}"),
        env=_environment(),
        ready_deadline_s=READY_DEADLINE_S,
    )


def _environment() -> dict[str, str]:
    ours = {f"LOYALTY_{name}" for name in NODE_SETTINGS}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    paths = [str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


async def ready(base_url: str) -> str | None:
    """None when the node at this address is ready, else what it or the connection says."""
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{base_url}/readyz", params={"verbose": ""}) as answer,
        ):
            return None if answer.ok else " ".join((await answer.text()).split())[:300]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return f"no answer at {base_url} ({type(error).__name__})"


def check_ports(plan: ClusterPlan) -> None:
    """ClusterError naming every port that is taken and what wanted it."""
    taken = [f"  {port} (for {name})" for port, name in sorted(plan.ports().items()) if not _free(port)]
    if taken:
        raise ClusterError(
            "These ports are taken:\n" + "\n".join(taken) + "\nFree them, or choose another range with --port BASE."
        )


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
