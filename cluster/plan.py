"""What is to run where, computed once from the settings, and frozen.

A shard whose servers or Valkey are given by configuration
is used, not started. Region numbers are part of every member id, so a region keeps the number it once had.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.errors import ClusterError
from cluster.settings import (
    SLOT_LAST,
    CdcSource,
    ClusterSettings,
    ShardSettings,
)
from shard_router.login import complete_as_it_is
from shard_router.topology import Shard, TopologyDocument

PORTS_PER_REGION = 10
PORTS_PER_SHARD = 4  # cdc, valkey, two Postgres servers
SHARDS_PER_REGION_MAX = 2  # what ten ports hold
REGION_NUMBER_MAX = 63  # six bits of a member id
MORE_NODES_FROM = PORTS_PER_REGION * REGION_NUMBER_MAX
"""Above the ten of every region there can ever be: what a region does not find room for in its ten."""
MORE_PORTS_PER_REGION = 32  # thirty for nodes, then the third server of each shard
THIRD_SERVER_OFFSET = 30
ZONES = ("a", "b", "c")
KNOWN_REGIONS = {"eu": 1, "us": 2, "ap": 3}
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """One Postgres server to start: a folder and a port. Which of them is primary, the folders tell."""

    name: str
    folder: Path
    port: int
    standby: str = "standby"
    """What it is called as a standby: its slot, and its name among the synchronous ones."""
    zone: str | None = None
    """Its data centre, where a shard has standbys in several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """One shard. `servers` or `valkey_port` are empty where configuration names existing ones."""

    name: str
    region: str
    slots: tuple[tuple[int, int], ...]
    folder: Path
    servers: tuple[ServerPlan, ...]
    valkey_port: int | None
    cdc_port: int
    external_servers: tuple[str, ...] = ()
    external_valkey: str | None = None
    receipts: tuple[tuple[int, int], ...] | None = None
    state: Literal["joining", "active"] = "active"

    @property
    def server_urls(self) -> list[str]:
        """Addresses of all Postgres servers of the shard; to those of ours each process comes with its own login."""
        ours = [f"postgresql://loyalty@{HOST}:{server.port}/loyalty" for server in self.servers]
        return [complete_as_it_is(url) for url in self.external_servers] or ours

    @property
    def valkey_url(self) -> str:
        """Where the shard's views live; likewise."""
        if self.external_valkey:
            return complete_as_it_is(self.external_valkey)
        return f"redis://loyalty@{HOST}:{self.valkey_port}/0"

    @property
    def projector(self) -> "NodePlan":
        """Its projector."""
        return NodePlan("cdc", f"{self.name}-cdc", self.cdc_port)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One command or query node, or a projector: the module that runs, its name and its port."""

    module: Literal["command", "query", "cdc"]
    name: str
    port: int

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPlan:
    """One region: its command nodes, its query nodes and its shards."""

    name: str
    number: int
    command: tuple[NodePlan, ...]
    query: tuple[NodePlan, ...]
    shards: tuple[ShardPlan, ...]

    @property
    def nodes(self) -> tuple[NodePlan, ...]:
        """All its nodes."""
        return self.command + self.query

    def ports(self) -> dict[int, str]:
        """Every port the region listens on and the process that wants it."""
        wanted = {node.port: node.name for node in self.nodes}
        for shard in self.shards:
            wanted[shard.cdc_port] = shard.projector.name
            if shard.valkey_port is not None:
                wanted[shard.valkey_port] = f"{shard.name}-valkey"
            wanted |= {server.port: server.name for server in shard.servers}
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorPlan:
    """The front door: Envoy, where it listens, and what it knows of clients and regions (see door.py)."""

    program: Path
    port: int
    admin_port: int
    tls: bool
    geoip: Path | None
    places: Mapping[str, tuple[float, float]]

    @property
    def url(self) -> str:
        """The one address of the system."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """The whole system on this machine. It has no door where there is no Envoy."""

    data: Path
    cdc_source: CdcSource
    log_level: str
    program: Path | None
    pg_bin: Path | None
    valkey: Path | None
    archive: Path | None
    door: DoorPlan | None
    regions: tuple[RegionPlan, ...]
    settings: ClusterSettings
    """What it was made of: a region that joins is planned by the same."""

    @property
    def shards(self) -> tuple[ShardPlan, ...]:
        """All shards, region by region."""
        return tuple(shard for region in self.regions for shard in region.shards)

    def ports(self) -> dict[int, str]:
        """Every port we listen on and the process that wants it."""
        wanted: dict[int, str] = {}
        if self.door:
            wanted |= {self.door.port: "door", self.door.admin_port: "door's admin page"}
        for region in self.regions:
            wanted |= region.ports()
        return wanted


def make_plan(
    settings: ClusterSettings,
    known_numbers: Mapping[str, int] | None = None,
    present: TopologyDocument | None = None,
) -> ClusterPlan:
    """The plan; `known_numbers` are the region numbers this data folder already uses, `present` is its topology.

    Its regions are meant where the settings name none, and a shard that was added while the system ran stays.
    """
    data = settings.data.expanduser().resolve()
    names = settings.regions
    if present and present.regions and "regions" not in settings.model_fields_set:
        names = tuple(present.regions)
    numbers = number_regions(names, known_numbers or {})
    highest = settings.port + PORTS_PER_REGION * max(numbers.values())
    if settings.nodes > 1 or settings.standbys > 1:
        highest = settings.port + MORE_NODES_FROM + MORE_PORTS_PER_REGION * max(numbers.values())
    if highest > 65535:  # noqa: PLR2004 - the last TCP port
        raise ClusterError(f"--port {settings.port} leaves no room for {len(numbers)} regions")
    for name, shard in settings.shards.items():
        if shard.region not in numbers:
            raise ClusterError(f"shard {name} is in region {shard.region}, which is not among {', '.join(numbers)}")
    return ClusterPlan(
        data=data,
        cdc_source=settings.cdc,
        log_level=settings.log_level,
        program=settings.program.expanduser().resolve() if settings.program else None,
        pg_bin=settings.pg_bin,
        valkey=settings.valkey,
        archive=settings.archive.expanduser().resolve() if settings.archive else None,
        door=_plan_door(settings),
        regions=tuple(_plan_region(settings, data, name, number, present) for name, number in numbers.items()),
        settings=settings,
    )


def _plan_door(settings: ClusterSettings) -> DoorPlan | None:
    program = find_envoy() if settings.door else None
    if program is None:
        if settings.tls or settings.geoip:
            raise ClusterError(
                "TLS and countries are the front door's, and there is no Envoy: install the extra `edge`"
            )
        return None
    return DoorPlan(
        program=program,
        port=settings.port - PORTS_PER_REGION,
        admin_port=settings.port - PORTS_PER_REGION + 1,
        tls=settings.tls,
        geoip=settings.geoip.expanduser().resolve() if settings.geoip else None,
        places=settings.places,
    )


def find_envoy() -> Path | None:
    """LOYALTY_ENVOY, else one on the PATH, else the one of the extra `edge`; None when there is none."""
    if configured := os.environ.get("LOYALTY_ENVOY"):
        if not Path(configured).is_file():
            raise ClusterError(f"LOYALTY_ENVOY names {configured}, which is no file")
        return Path(configured)
    found = shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))
    return Path(found) if found else None


def number_regions(names: Sequence[str], known: Mapping[str, int]) -> dict[str, int]:
    """A number for each region: the one it has, its well-known one, or the next free."""
    numbers: dict[str, int] = {}
    taken = set(known.values()) | set(KNOWN_REGIONS.values())
    for name in names:
        number = known.get(name) or KNOWN_REGIONS.get(name)
        if number is None:
            number = next((n for n in range(1, REGION_NUMBER_MAX + 1) if n not in taken), None)
        if number is None:
            raise ClusterError(f"more than {REGION_NUMBER_MAX} regions do not fit in a member id")
        taken.add(number)
        numbers[name] = number
    return numbers


def _plan_region(
    settings: ClusterSettings, data: Path, name: str, number: int, present: TopologyDocument | None
) -> RegionPlan:
    configured = {key: shard for key, shard in settings.shards.items() if shard.region == name}
    shards = configured or {f"{name}-1": ShardSettings(region=name)}
    known = {key: shard for key, shard in present.shards.items() if shard.region == name} if present else {}
    if known.keys() - shards.keys() or any(shard.receipts is not None for shard in known.values()):
        shards = _grown(data, name, shards, known)
    else:
        known = {}
    if len(shards) > SHARDS_PER_REGION_MAX:
        raise ClusterError(f"region {name}: at most {SHARDS_PER_REGION_MAX} shards per region on one machine")
    _check_slots(name, shards)
    return RegionPlan(
        name=name,
        number=number,
        command=_plan_nodes(settings, "command", name, number),
        query=_plan_nodes(settings, "query", name, number),
        shards=tuple(
            _plan_shard(settings, data / "servers" / key, shard, _ports(settings, number, index), known.get(key))
            for index, (key, shard) in enumerate(shards.items())
        ),
    )


def must_be_next(region: RegionPlan, name: str) -> None:
    """ClusterError where the next shard of a region has another name: who adds an eu-3 believes in an eu-2."""
    there = {shard.name for shard in region.shards}
    numbered = (f"{region.name}-{number}" for number in itertools.count(len(there) + 1))
    if name != (wanted := next(one for one in numbered if one not in there)):
        raise ClusterError(f"region {region.name} has {', '.join(sorted(there))}: its next shard is {wanted}")


def plan_shard(plan: ClusterPlan, region: RegionPlan, name: str) -> ShardPlan:
    """One more shard of a region, which has no slots yet and will keep no receipts; ClusterError without room."""
    if len(region.shards) >= SHARDS_PER_REGION_MAX:
        raise ClusterError(f"region {region.name}: at most {SHARDS_PER_REGION_MAX} shards per region on one machine")
    shard = ShardSettings(region=region.name, slots=())
    known = Shard(region=region.name, slots=[], servers=[], valkey="", receipts=[], state="joining")
    ports = _ports(plan.settings, region.number, len(region.shards))
    return _plan_shard(plan.settings, plan.data / "servers" / name, shard, ports, known)


def _ports(settings: ClusterSettings, number: int, index: int) -> tuple[int, int]:
    """The first port of a region's shard, and that of its third server."""
    more = settings.port + MORE_NODES_FROM + MORE_PORTS_PER_REGION * (number - 1)
    first = settings.port + PORTS_PER_REGION * (number - 1) + 2
    return first + index * PORTS_PER_SHARD, more + THIRD_SERVER_OFFSET + index


def _grown(
    data: Path, region: str, configured: Mapping[str, ShardSettings], known: Mapping[str, Shard]
) -> dict[str, ShardSettings]:
    """The shards of a region to which one was added while it ran: as the topology has them, with its slots."""
    if strange := sorted(configured.keys() - known.keys()):
        raise ClusterError(f"region {region} has {', '.join(known)}: `loyalty shard add` adds {strange[0]}")
    lost = [name for name in known if name not in configured and not (data / "servers" / name).is_dir()]
    if lost:
        raise ClusterError(f"shard {lost[0]} has members of region {region} and must stay in the settings")
    return {
        name: configured.get(name, ShardSettings(region=region)).model_copy(update={"slots": tuple(shard.slots)})
        for name, shard in known.items()
    }


def _plan_nodes(
    settings: ClusterSettings, module: Literal["command", "query"], region: str, number: int
) -> tuple[NodePlan, ...]:
    """The nodes of one kind: the first among the region's ten ports, the others where they meet no other region."""
    offset = 0 if module == "command" else 1
    first = settings.port + PORTS_PER_REGION * (number - 1) + offset
    more = settings.port + MORE_NODES_FROM + MORE_PORTS_PER_REGION * (number - 1) + offset
    others = (NodePlan(module, f"{region}-{module}-{n}", more + 2 * (n - 2)) for n in range(2, settings.nodes + 1))
    return (NodePlan(module, f"{region}-{module}", first), *others)


def _plan_shard(
    settings: ClusterSettings, folder: Path, shard: ShardSettings, ports: tuple[int, int], known: Shard | None
) -> ShardPlan:
    port, third = ports
    count = 0 if shard.servers else 1 + settings.standbys * settings.standby
    return ShardPlan(
        name=folder.name,
        region=shard.region,
        slots=shard.slots,
        folder=folder,
        servers=tuple(_plan_server(folder, n, count, port + 1 + n if n <= 2 else third) for n in range(1, count + 1)),  # noqa: PLR2004
        valkey_port=None if shard.valkey else port + 1,
        cdc_port=port,
        external_servers=shard.servers,
        external_valkey=shard.valkey,
        receipts=tuple(known.receipts) if known and known.receipts is not None else None,
        state=known.state if known else "active",
    )


def _plan_server(folder: Path, number: int, count: int, port: int) -> ServerPlan:
    """The server of a number. A pair's standbys have one name: whichever it is, there is no other."""
    alone = count <= 2  # noqa: PLR2004 - a pair
    return ServerPlan(
        name=f"{folder.name}-postgres-{number}",
        folder=folder / f"postgres-{number}",
        port=port,
        standby="standby" if alone else f"standby_{number}",
        zone=None if alone else ZONES[number - 1],
    )


def _check_slots(region: str, shards: Mapping[str, ShardSettings]) -> None:
    ranges = sorted(pair for shard in shards.values() for pair in shard.slots)
    following = 0
    for first, last in ranges:
        if first != following or last < first:
            break
        following = last + 1
    if following != SLOT_LAST + 1:
        raise ClusterError(f"region {region}: the shards' slots must cover 0 to {SLOT_LAST}, each once (now: {ranges})")
