"""What runs now and how it is: read from outside, so that it tells the truth when the supervisor is gone too."""

import asyncio
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cluster import node, valkey
from cluster.disk import Disk, disks_of
from cluster.document import Documents
from cluster.door import NAME as DOOR
from cluster.door import DoorState, read_state
from cluster.errors import ClusterError
from cluster.event import Event
from cluster.fence import is_stopped
from cluster.figure import read_figure
from cluster.key import read_keys
from cluster.login import CONNECT_TIMEOUT_S
from cluster.node import Health
from cluster.overview import ask_system, document_of, lag_ms_of, warnings_of
from cluster.plan import HOST
from cluster.postgres import STATEMENTS
from cluster.run_file import RunRecord, locked, read_run
from cluster.version import Numbered, read_versions
from edge.decision import WHOLE
from query.system_shape import System
from service.credential import Credentials
from shard_router.errors import DocumentError
from shard_router.incarnation import is_unreconciled
from shard_router.server import CDC_SLOT, SERVER_ERRORS
from shard_router.topology import Shard, TopologyDocument, read_topology

T = TypeVar("T")

HTTP_TIMEOUT_S = 5.0
NODE_NAME = re.compile(r".*-(command(-\d+)?|query(-\d+)?|cdc)")
NO_TOPOLOGY = TopologyDocument(epoch=1, regions={}, shards={})
LAG_METRIC = "loyalty_cdc_lag_now_seconds"
SLOT_BYTES_LARGE = 256 * 1024 * 1024
SHOWN_MAX = 10  # events on the screen; each shard's are in the JSON


@dataclass(slots=True)
class ShardHealth:
    """One shard seen from its servers."""

    primary: str | None = None
    standbys: list[str] = field(default_factory=list[str])
    unreachable: list[str] = field(default_factory=list[str])
    replay_bytes: int | None = None
    slot_bytes: int | None = None
    lag_ms: int | None = None
    programs: list[Numbered] = field(default_factory=list[Numbered])
    unreconciled: bool = False
    valkey_problem: str | None = None


@dataclass(slots=True)
class StatusReport:
    """Everything `loyalty status` knows."""

    data: Path
    running: bool
    run: RunRecord | None
    topology: TopologyDocument
    keys: Mapping[str, str]
    shards: dict[str, ShardHealth]
    nodes: dict[str, Health]
    disks: list[Disk]
    door: DoorState | None
    system: System | None
    """What the system says of itself; None when no query node answers."""
    mistakes: list[str]
    """What is wrong with documents of the folder that cannot be used."""

    @property
    def ready(self) -> bool:
        """Whether every part answers; without a topology nobody can tell."""
        well = all(s.primary and not s.unreachable and s.valkey_problem is None for s in self.shards.values())
        return self.running and bool(self.shards) and well and not any(answer.problem for answer in self.nodes.values())

    @property
    def warnings(self) -> list[str]:
        """What is wrong, or soon will be, though everything answers."""
        by_nodes: dict[str, list[str]] = {}
        for name, answer in self.nodes.items():
            for words in answer.warnings:
                by_nodes.setdefault(words, []).append(name)
        told = [f"{', '.join(names)}: {words}" for words, names in by_nodes.items()]
        unheard = [
            f"{words}; what was in force before stays, and nothing starts anew with it"
            for words in self.mistakes
            if not any(words in line for line in told)
        ]
        shortages = (words for disk in self.disks for words in disk.shortages)
        return [*self._frozen, *unheard, *told, *warnings_of(self.system), *shortages]

    @property
    def _frozen(self) -> list[str]:
        pid = self.run.supervisor.pid if self.run and self.running else None
        words = f"the supervisor (process {pid}) is stopped, and restarts nothing: `kill -CONT {pid}` wakes it"
        return [words] if pid is not None and is_stopped(pid) else []

    @property
    def program(self) -> Numbered | None:
        """The highest program version in force on any shard."""
        running = {version.number: version for version in self._programs if version.running}
        return running[max(running)] if running else None

    @property
    def programs_to_come(self) -> list[Numbered]:
        """Later versions that are not in force yet, by number."""
        now = self.program.number if self.program else 0
        return sorted(
            {version for version in self._programs if version.number > now}, key=lambda version: version.number
        )

    @property
    def _programs(self) -> list[Numbered]:
        return [version for shard in self.shards.values() for version in shard.programs]

    def events(self, shard: str) -> list[Event]:
        """What befell the servers of a shard, the newest last."""
        return self.run.events.get(shard, []) if self.run else []

    def document(self) -> dict[str, Any]:
        """The JSON of `loyalty status --json`."""
        return {
            "ready": self.ready,
            "data": str(self.data),
            "program_version": self.program.number if self.program else None,
            "programs_to_come": [
                {"version": version.number, "effective_at": version.instant} for version in self.programs_to_come
            ],
            "door": self.door.url if self.door else None,
            "regions": {name: self._region(name) for name in self.topology.regions},
            "keys": dict(self.keys),
            "processes": {
                name: {"state": process.state, "restarts": process.restarts, "port": process.port, "log": process.log}
                for name, process in (self.run.processes if self.run else {}).items()
            },
            "disks": [disk._asdict() for disk in self.disks],
            "warnings": self.warnings,
            "system": document_of(self.system),
        }

    def _region(self, name: str) -> dict[str, Any]:
        region = self.topology.regions[name]
        shards = {key: self._shard(key) for key, shard in self.topology.shards.items() if shard.region == name}
        share = {"share": self.door.shares.get(name, WHOLE)} if self.door else {}
        nodes = {"command_nodes": region.command, "query_nodes": region.query}
        return {"command": region.command[0], "query": region.query[0], **nodes, **share, "shards": shards}

    def _shard(self, name: str) -> dict[str, Any]:
        shard, health = self.topology.shards[name], self.shards[name]
        source = self.run.cdc_source if self.run else None
        return {
            "primary": health.primary,
            "standbys": health.standbys,
            "zones": dict(zip(shard.servers, shard.zones, strict=False)),
            "valkey": shard.valkey,
            "cdc": {"url": shard.cdc, "source": source, "lag_ms": health.lag_ms, "slot_bytes": health.slot_bytes},
            "events": [asdict(event) for event in self.events(name)],
        }


async def read_status(data: Path) -> StatusReport:
    """Ask every part of the system on a data folder; ClusterError when nothing was ever started there."""
    documents = Documents(data)
    if not documents.topology.exists():
        raise ClusterError(f"nothing was ever started in {data}: `loyalty up` brings it up")
    mistakes: list[str] = []
    topology = _noting(mistakes, lambda: read_topology(documents.topology, documents.logins()).document, NO_TOPOLOGY)
    _noting(mistakes, lambda: Credentials(documents.credentials), None)
    run = read_run(data)
    nodes, keys = _node_urls(topology, run), _noting(mistakes, lambda: read_keys(documents), {})
    system = await ask_system(topology, keys)
    lags = {name: lag_ms_of(system, name) for name in topology.shards}
    health = await asyncio.gather(*(_shard_health(shard, lags[name]) for name, shard in topology.shards.items()))
    answers = await asyncio.gather(*(node.health(url) for url in nodes.values()))
    return StatusReport(
        data=data,
        running=locked(data) or run is None,  # without a supervisor (containers) the parts speak for themselves
        run=run,
        topology=topology,
        keys=keys,
        shards=dict(zip(topology.shards, health, strict=True)),
        nodes=dict(zip(nodes, answers, strict=True)),
        disks=disks_of(data),
        door=read_state(data) if run and DOOR in run.processes else None,
        system=system,
        mistakes=mistakes,
    )


def _noting(mistakes: list[str], read: Callable[[], T], otherwise: T) -> T:
    """What is read, or the other with the mistake noted."""
    try:
        return read()
    except (DocumentError, ClusterError) as error:  # one that is gone too
        mistakes.append(str(error))
        return otherwise


def _node_urls(topology: TopologyDocument, run: RunRecord | None) -> dict[str, str]:
    """The nodes of the topology; without a usable one, those that the supervisor keeps."""
    urls: dict[str, str] = {}
    for name, region in topology.regions.items():
        for kind, listed in (("command", region.command), ("query", region.query)):
            urls |= {f"{name}-{kind}{f'-{n}' if n > 1 else ''}": url for n, url in enumerate(listed, 1)}
    urls |= {f"{name}-cdc": shard.cdc for name, shard in topology.shards.items() if shard.cdc}
    kept = run.processes if run and not urls else {}
    return urls | {name: f"http://{HOST}:{one.port}" for name, one in kept.items() if NODE_NAME.fullmatch(name)}


async def _shard_health(shard: Shard, lag_ms: int | None) -> ShardHealth:
    """`lag_ms` is the age of its views as the system told it; where it did not, the projector is asked."""
    health = ShardHealth()
    await asyncio.gather(*(_ask_server(url, health) for url in shard.servers))
    health.valkey_problem = await valkey.ping(shard.valkey)
    health.lag_ms = await _lag_ms(shard.cdc) if lag_ms is None and shard.cdc else lag_ms
    return health


async def _ask_server(url: str, health: ShardHealth) -> None:
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            await _ask_connected(connection, url, health)
        finally:
            await connection.close()
    except SERVER_ERRORS:
        health.unreachable.append(url)


async def _ask_connected(connection: asyncpg.Connection, url: str, health: ShardHealth) -> None:
    if await connection.fetchval(STATEMENTS["is_standby"]):
        health.standbys.append(url)
        return
    health.primary = url
    health.slot_bytes = await connection.fetchval(STATEMENTS["slot_bytes"], CDC_SLOT)
    health.replay_bytes = await connection.fetchval(STATEMENTS["replay_bytes"])
    health.programs = await read_versions(connection)
    health.unreconciled = await is_unreconciled(connection)


async def _lag_ms(cdc_url: str) -> int | None:
    """The projector's own figure for how long a commit takes to be visible."""
    lag_s = await read_figure(cdc_url, LAG_METRIC, timeout_s=HTTP_TIMEOUT_S)
    return None if lag_s is None or math.isnan(lag_s) else round(lag_s * 1000)


def render_status(report: StatusReport) -> Group:
    """A table for people, and what to do about what is wrong."""
    table = Table(box=None, padding=(0, 1))
    for column in ("", "process", "state", "port", "restarts", "detail"):
        figure = column in {"port", "restarts"}
        table.add_column(column, justify="right" if figure else "left", no_wrap=column != "detail", overflow="fold")
    details = _details(report)
    for name, process in sorted((report.run.processes if report.run else {}).items()):
        answer = report.nodes.get(name)
        problem = answer and answer.problem
        well = report.running and process.state == "ready" and not problem
        state = process.state if report.running else "not running"
        mark = Text("●", "green" if well else "red")
        table.add_row(mark, name, state, str(process.port), str(process.restarts), problem or details.get(name, ""))
    advice = _advice(report)
    head = Text(f"{'ready' if report.ready else 'NOT READY'}  {report.data}", "green" if report.ready else "red")
    warnings = [Text(f"! {line}", "bold red") for line in report.warnings]
    told = [
        *(Text(f"→ {line}", "yellow") for line in advice),
        *map(Text, _of_program(report)),
        *map(Text, _lately(report)),
    ]
    return Group(head, *warnings, table, *told)


def _of_program(report: StatusReport) -> list[str]:
    versions = [*([report.program] if report.program else []), *report.programs_to_come]
    return [f"program version {version.number} {version.since}" for version in versions]


def _lately(report: StatusReport) -> list[str]:
    """The newest events of all shards, in the order of time."""
    kept = report.run.events if report.run else {}
    events = [(event.at, name, event) for name, told in kept.items() for event in told]
    return [f"{at}  {name}: {event.words}" for at, name, event in sorted(events, key=itemgetter(0))[-SHOWN_MAX:]]


def _details(report: StatusReport) -> dict[str, str]:
    details: dict[str, str] = {}
    if report.door:
        parts = [f", {name} takes {share} %" for name, share in report.door.shares.items() if share != WHOLE]
        details[DOOR] = report.door.url + "".join(parts)
    for name, health in report.shards.items():
        lag = "lag unknown" if health.lag_ms is None else f"lag {health.lag_ms} ms"
        details[f"{name}-cdc"] = f"{lag}, slot {health.slot_bytes or 0:,} B"
        for url, zone in report.topology.shards[name].placed:
            for process, record in (report.run.processes if report.run else {}).items():
                if f":{record.port}/" in url:
                    role = "primary" if url == health.primary else f"standby, {health.replay_bytes or 0:,} B behind"
                    details[process] = (
                        "no answer" if url in health.unreachable else role + (f", zone {zone}" if zone else "")
                    )
    return details


def _advice(report: StatusReport) -> list[str]:
    if not report.running:
        return ["No supervisor runs on this folder: `loyalty up` goes on where it stopped."]
    lines = [
        f"{name}: see {p.log}" for name, p in (report.run.processes if report.run else {}).items() if p.state != "ready"
    ]
    for name, health in report.shards.items():
        if health.primary is None:
            lines.append(f"{name}: no server takes writes; queries go on. The supervisor restarts it.")
        if health.unreconciled:
            lines.append(
                f"{name} was restored: `loyalty reconcile` (until then, what members are found by is 503 there)."
            )
        if health.unreachable and health.primary:
            lines.append(f"{name}: its standby is away, so commits wait until it is back.")
        if health.valkey_problem:
            lines.append(
                f"{name}: Valkey is away; queries come from the standby and views are rebuilt when it is back."
            )
        if (health.slot_bytes or 0) > SLOT_BYTES_LARGE:
            lines.append(f"{name}: the projector is far behind; see its log, or `loyalty rebuild`.")
    return lines
