"""The documents of a data folder: where each lies, and how the topology and the settings of nodes are written.

The topology's epoch grows whenever its content changes, because nodes adopt a higher epoch only. Credentials are
written by key.py.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from pydantic import RootModel

from cluster.errors import ClusterError
from cluster.files import write_atomic, write_json
from cluster.plan import HOST, ZONES, ClusterPlan, NodePlan, RegionPlan, ShardPlan, make_plan
from cluster.settings import read_settings
from shard_router.document import read_document
from shard_router.errors import DocumentError
from shard_router.login import Logins, read_logins
from shard_router.slot_table import ranges_of
from shard_router.topology import RegionState, Topology, TopologyDocument

REMOVED = "removed-"
"""How the names of folders begin that are kept of what was taken out."""

_UNSAID: dict[str, Any] = {"receipts": None, "state": "active"}
"""What need not be said of a shard."""

POLL_INTERVAL_MS = 20  # an idle engine spins away 10 % of a core at 10 ms, half of that at 20; three share this machine


class RegionNumbers(RootModel[dict[str, int]]):
    """The number of every region a folder ever had."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the documents of a data folder lie."""

    data: Path

    @property
    def topology(self) -> Path:
        """Regions, shards and their servers."""
        return self.data / "topology.json"

    @property
    def credentials(self) -> Path:
        """Hashes of API keys, public keys of member tokens."""
        return self.data / "credentials.json"

    @property
    def keys(self) -> Path:
        """The raw development keys, for the owner only."""
        return self.data / "keys.json"

    @property
    def regions(self) -> Path:
        """Number of every region this folder ever had."""
        return self.data / "regions.json"

    @property
    def secrets(self) -> Path:
        """Folder with the passwords of the servers; LOYALTY_SECRETS names another."""
        return Path(os.environ.get("LOYALTY_SECRETS") or self.data / "secrets")

    @property
    def superuser_before(self) -> Path:
        """Where versions until 0.1 kept the one password there was."""
        return self.data / "postgres.password"

    def logins(self) -> Logins:
        """The logins of whoever keeps this folder; none where no passwords are kept."""
        return read_logins(self.secrets, "owner", "projector") if self.secrets.is_dir() else Logins()

    def projector(self) -> Logins:
        """The logins of a projector, who makes its own slot; likewise."""
        return read_logins(self.secrets, "projector", "projector") if self.secrets.is_dir() else Logins()

    def verified(self) -> Path:
        """Folder of what `loyalty verify` has seen of each member, made when it is missing."""
        folder = self.data / "verified"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @property
    def door(self) -> Path:
        """Folder of what the front door reads and writes."""
        return self.data / "door"

    @property
    def door_state(self) -> Path:
        """Where the front door stands, and what each region takes of its traffic."""
        return self.data / "door.json"

    @property
    def setup_lock(self) -> Path:
        """Held by whoever prepares servers that something else started."""
        return self.data / "setup.lock"

    def node(self, name: str) -> Path:
        """Settings of one node."""
        return self.data / "nodes" / f"{name}.toml"

    def log(self, name: str) -> Path:
        """Log of one process."""
        return self.data / "logs" / f"{name}.log"


def known_region_numbers(data: Path) -> dict[str, int]:
    """Region numbers in use below a data folder."""
    path = Documents(data).regions
    if path.exists():
        return read_document(path, RegionNumbers).root
    present = present_topology(data)
    return {name: region.number for name, region in present.regions.items()} if present else {}


def present_topology(data: Path) -> TopologyDocument | None:
    """The topology below a data folder; None where it cannot be read."""
    with suppress(DocumentError):
        return read_document(Documents(data).topology, TopologyDocument)
    return None


def plan_of(flags: Mapping[str, Any]) -> ClusterPlan:
    """The plan of these flags (None: not given) on the data folder they name; ClusterError when they are wrong."""
    settings = read_settings(flags)
    data = settings.data.expanduser().resolve()
    return make_plan(settings, known_region_numbers(data), present_topology(data))


def refuse_lost_topology(plan: ClusterPlan) -> None:
    """ClusterError where the topology is gone and the folder has other servers than those of the plan."""
    documents = Documents(plan.data)
    found = {path.parent.name for path in plan.data.glob("servers/*/postgres-[0-9]")}
    there = {name for name in found if not name.startswith(REMOVED)}
    if there and not documents.topology.exists() and there != {shard.name for shard in plan.shards if shard.servers}:
        raise ClusterError(
            f"{documents.topology} is gone, and there are servers of {', '.join(sorted(there))}: put your copy of it"
            " back. Where there is none, and no shard was ever added: name the regions of these, all of them and no"
            " other, by --regions"
        )


def refuse_lost_servers(plan: ClusterPlan) -> None:
    """ClusterError where all servers of a shard that has run are gone: an empty one would take their place unseen."""
    present = present_topology(plan.data)
    for shard in plan.shards:
        ran = [log for server in shard.servers if (log := Documents(plan.data).log(server.name)).exists()]
        is_new = present is not None and shard.name not in present.shards
        if ran and not is_new and not any(shard.folder.glob("postgres-[0-9]")):
            raise ClusterError(
                f"{shard.name} has run, and none of its servers is there any more: no postgres-1 in {shard.folder}."
                " Is the disk there? Put the folders back, or `loyalty restore` a backup. Where it is to begin empty,"
                f" remove {', '.join(map(str, ran))}"
            )


def write_documents(plan: ClusterPlan, states: Mapping[str, RegionState] | None = None) -> None:
    """Write the topology and the settings of all nodes for the plan; regions keep their states but for `states`.

    A shard that joins a region the topology knows takes no new members until `write_shards` says so.
    """
    documents = Documents(plan.data)
    numbers = {region.name: region.number for region in plan.regions}
    write_json(documents.regions, known_region_numbers(plan.data) | numbers)
    write_topology(documents.topology, _topology(plan), states or {})
    for region in plan.regions:
        for group in (region.command, region.query):
            for node, zone in zip(group, cycle(ZONES), strict=False):
                extra = {"address": node.url, "zone": zone}
                if group is region.query:
                    extra["door_state"] = str(documents.door_state)
                _write_node(plan, node, region.name, extra)
    for shard in plan.shards:
        extra = {"shard": shard.name, "source": plan.cdc_source, "poll_interval_ms": POLL_INTERVAL_MS}
        _write_node(plan, shard.projector, shard.region, extra)


def _topology(plan: ClusterPlan) -> dict[str, Any]:
    return {
        "regions": {region.name: _region_row(region) for region in plan.regions},
        "shards": {shard.name: _shard_row(shard) for shard in plan.shards},
    }


def _region_row(region: RegionPlan) -> dict[str, Any]:
    nodes = {"command": region.command, "query": region.query}
    return {"number": region.number} | {kind: [node.url for node in group] for kind, group in nodes.items()}


def _shard_row(shard: ShardPlan) -> dict[str, Any]:
    return {
        "region": shard.region,
        "slots": [list(pair) for pair in shard.slots],
        "servers": shard.server_urls,
        "valkey": shard.valkey_url,
        "cdc": shard.projector.url,
        "zones": [server.zone for server in shard.servers if server.zone],
        "receipts": None if shard.receipts is None else [list(pair) for pair in shard.receipts],
        "state": shard.state,
    }


def write_states(documents: Documents, states: Mapping[str, RegionState]) -> None:
    """Change the states of regions in the topology."""
    write_topology(documents.topology, _known_content(documents), states)


def write_shards(documents: Documents, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change slots, receipts or states of shards in the topology, all at once; DocumentError when they do not fit."""
    content = _known_content(documents)
    for name, change in changes.items():
        content["shards"][name] |= change
    Topology(TopologyDocument.model_validate({**content, "epoch": 1}))
    write_topology(documents.topology, content)


def write_claim_slots(documents: Documents, table: Sequence[str]) -> None:
    """Say which shard keeps which claim slots, from now on in so many words."""
    document = read_document(documents.topology, TopologyDocument)
    content = document.model_copy(update={"claim_slots": ranges_of(table)}).model_dump(mode="json")
    if content != document.model_dump(mode="json"):
        _write(documents.topology, content | {"epoch": document.epoch + 1})


def _known_content(documents: Documents) -> dict[str, Any]:
    document = read_document(documents.topology, TopologyDocument)
    return document.model_dump(mode="json", include={"regions", "shards"})


def write_topology(path: Path, content: dict[str, Any], states: Mapping[str, RegionState] | None = None) -> None:
    """Write the topology (without its epoch) under a higher epoch, unless the file already says the same.

    Which regions were the first, and what of their claims has moved, the file knows and nobody else.
    """
    known = read_document(path, TopologyDocument) if path.exists() else None
    for row in content["shards"].values():
        for field, nothing_said in _UNSAID.items():
            row.setdefault(field, nothing_said)
    for name, row in content["regions"].items():
        before_it = known.regions.get(name) if known else None
        row["state"] = (states or {}).get(name) or (before_it.state if before_it else "active")
    before: dict[str, Any] = known.model_dump(mode="json") if known else {"epoch": 0}
    epoch: int = before.pop("epoch")
    claims: list[str] = before.get("claims") or content.get("claims") or sorted(content["regions"])
    content = {**content, "claims": claims, "claim_slots": _claim_slots(known, content, claims)}
    if before != content:
        _write(path, {"epoch": epoch + 1, **content})


def _write(path: Path, content: dict[str, Any]) -> None:
    """As long as no claim has moved and no shard was added, versions before can read it too."""
    shown = {name: value for name, value in content.items() if name != "claim_slots" or value}
    shown["shards"] = {
        name: {field: value for field, value in row.items() if field not in _UNSAID or value != _UNSAID[field]}
        for name, row in content["shards"].items()
    }
    write_json(path, shown, mode=0o600)


def _claim_slots(known: TopologyDocument | None, content: dict[str, Any], claims: list[str]) -> dict[str, Any]:
    """Where claims lie stays as it is, whatever becomes of regions and shards; ClusterError when it cannot."""
    if known is None:
        return content.get("claim_slots") or {}
    table = Topology(known).claim_shards
    if gone := set(table) - content["shards"].keys():
        raise ClusterError(
            f"shard {min(gone)} keeps identifiers of members and must stay: name its region in --regions too"
        )
    if not known.claim_slots:
        new = Topology(TopologyDocument.model_validate({**content, "epoch": 1, "claims": claims, "claim_slots": {}}))
        if new.claim_shards == table:
            return {}
    return {shard: [list(pair) for pair in pairs] for shard, pairs in ranges_of(table).items()}


def _write_node(plan: ClusterPlan, node: NodePlan, region: str, extra: dict[str, Any]) -> None:
    documents = Documents(plan.data)
    settings: dict[str, Any] = {
        "region": region,
        "host": HOST,
        "port": node.port,
        "topology": str(documents.topology),
        "credentials": str(documents.credentials),
        "secrets": str(documents.secrets),
        "log_level": plan.log_level,
    } | extra
    # A JSON string or number is also a TOML one.
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    write_atomic(documents.node(node.name), text)
