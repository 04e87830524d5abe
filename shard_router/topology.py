"""Which shard holds which slot, and where its servers are: one versioned document, held in memory.

Only this module turns a member id into a shard. A higher epoch replaces the whole table at once;
a lower or equal one is ignored, so a late copy of an old document changes nothing.
"""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from shard_router.card import parse_card
from shard_router.claim_slot import claim_slot
from shard_router.document import Stamp, parse_document, read_document, stamp_of
from shard_router.errors import DocumentError, MalformedIdError, TopologyError
from shard_router.login import Logins, complete
from shard_router.member_id import REGION_NUMBER_MAX, SLOT_COUNT, region_number_of, slot_of
from shard_router.slot_table import table_of

WATCH_INTERVAL_S: Final = 1.0
AWAITED_INTERVAL_S: Final = 0.1
_STORES_KEPT: Final = 4_096
NOBODY: Final = Logins()


RegionState = Literal["joining", "active", "draining"]


class Region(BaseModel):
    """A region's number (in every id) and its stateless nodes. Only one that is active takes new members."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: int = Field(gt=0, le=REGION_NUMBER_MAX)
    command: list[str]
    query: list[str]
    state: RegionState = "active"


class Shard(BaseModel):
    """One Postgres primary with its standbys (found out at run time who is who), one Valkey, one projector."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    region: str
    slots: list[tuple[int, int]]
    servers: list[str]
    zones: list[str] = []
    """The data centre of each server, in their order; empty where nobody says."""
    valkey: str
    cdc: str | None = None
    receipts: list[tuple[int, int]] | None = None
    """The stores (by slot of their code's hash) whose receipts it keeps; None: those of its own slots."""
    state: Literal["joining", "active"] = "active"
    """Whether new members may be enrolled in its slots yet."""

    @property
    def placed(self) -> list[tuple[str, str | None]]:
        """Each server with its data centre, None where nobody says."""
        zones = self.zones or [None] * len(self.servers)
        return list(zip(self.servers, zones, strict=False))  # `Topology` sees to it that there are as many


class TopologyDocument(BaseModel):
    """The document as stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    epoch: int = Field(ge=1)
    regions: dict[str, Region]
    shards: dict[str, Shard]
    claims: list[str] = []
    """The regions of the first start, in an order that never changes: as many times their slots are the claim slots."""
    claim_slots: dict[str, list[tuple[int, int]]] = {}
    """Which shard keeps which claim slots; empty where each lies in its first region still, as its hash says."""

    @property
    def stated(self) -> dict[str, RegionState]:
        """The states of those regions whose state is written down, rather than taken for granted."""
        return {name: region.state for name, region in self.regions.items() if "state" in region.model_fields_set}


class Topology:
    """The document with its look-up table: shard names by region number and slot."""

    def __init__(self, document: TopologyDocument) -> None:
        self.document = document
        self.epoch = document.epoch
        self.region_of_number = {region.number: name for name, region in document.regions.items()}
        _check_regions(document)
        self._shards: dict[int, list[str]] = {
            number: table_of(_slots_in(document, name), SLOT_COUNT, called=f"slot {{}} of {name}")
            for number, name in self.region_of_number.items()
        }
        self._registers: dict[int, list[str]] = {
            number: table_of(_receipts_in(document, name), SLOT_COUNT, called=f"receipts of slot {{}} of {name}")
            for number, name in self.region_of_number.items()
        }
        self.first_regions = document.claims or sorted(document.regions)
        self.claim_shards = self._claim_table()
        """The shard that keeps each claim slot."""
        self.register_of = lru_cache(maxsize=_STORES_KEPT)(self._register_of)
        """The shard that keeps the receipts of a store, by region and code; each purchase asks it."""

    def shard_of(self, member_id: int) -> str:
        """The name of the shard that holds a member; MalformedIdError for a region that does not exist."""
        return self.shard_at(region_number_of(member_id), slot_of(member_id))

    def shard_at(self, region_number: int, slot: int) -> str:
        """The name of the shard that holds a slot of a region."""
        table = self._shards.get(region_number)
        if table is None:
            raise MalformedIdError(f"no region {region_number}")
        return table[slot]

    def region_of(self, member_id: int) -> str:
        """The name of a member's home region."""
        return self.document.shards[self.shard_of(member_id)].region

    def _register_of(self, region: str, store: str) -> str:
        """The shard that keeps the receipts of a store: one of its region, or of any where there is no such region."""
        digest = blake2b(store.encode(), digest_size=8).digest()
        known = self.document.regions.get(region)
        if known is None:
            known = self._stand_in(digest)
        return self._registers[known.number][int.from_bytes(digest[4:], "big") % SLOT_COUNT]

    def _stand_in(self, digest: bytes) -> Region:
        """The first region that a hash names, where that has gone the next, where all have gone the oldest there is.

        No claim slot that moves changes it: receipts do not move along.
        """
        regions, first = self.document.regions, self.claim_slot(digest) // SLOT_COUNT
        in_turn = [*self.first_regions[first:], *self.first_regions[:first]]
        present = [regions[name] for name in in_turn if name in regions]
        return present[0] if present else min(regions.values(), key=lambda region: region.number)

    def home_of_card(self, card: str) -> tuple[str, int] | None:
        """Region and slot that a card of our own form names; None for any other card."""
        try:
            number, slot = parse_card(card)
        except MalformedIdError:
            return None
        region = self.region_of_number.get(number)
        return (region, slot) if region else None

    def shards_in(self, region: str) -> list[str]:
        """Names of the shards of a region, in the document's order."""
        return [name for name, shard in self.document.shards.items() if shard.region == region]

    def claim_slot(self, digest: bytes) -> int:
        """The claim slot of a hash of eight bytes; it never changes."""
        return claim_slot(digest, len(self.claim_shards))

    def _claim_table(self) -> list[str]:
        if self.document.claim_slots:
            table = table_of(self.document.claim_slots, len(self.first_regions) * SLOT_COUNT, called="claim slot {}")
            if gone := set(table) - self.document.shards.keys():
                raise TopologyError(f"claim_slots: shard {min(gone)} keeps identifiers of members and must stay")
            return table
        for name in self.first_regions:
            if name not in self.document.regions:
                raise TopologyError(f"claims: region {name} keeps identifiers of members and must stay")
        numbers = [self.document.regions[name].number for name in self.first_regions]
        return [shard for number in numbers for shard in self._shards[number]]


def parse_topology(text: str | bytes) -> Topology:
    """The topology of a JSON document; DocumentError names what is wrong."""
    return Topology(parse_document(text, TopologyDocument))


def read_topology(path: Path, logins: Logins = NOBODY) -> Topology:
    """The topology of a file, for a process with these logins; DocumentError when it cannot be read or used."""
    document = with_logins(read_document(path, TopologyDocument), logins)
    try:
        return Topology(document)
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from error


def with_logins(document: TopologyDocument, logins: Logins) -> TopologyDocument:
    """The document with addresses completed (see login.py)."""
    shards = {
        name: shard.model_copy(
            update={
                "servers": [complete(url, logins.postgres) for url in shard.servers],
                "valkey": complete(shard.valkey, logins.valkey),
            }
        )
        for name, shard in document.shards.items()
    }
    return document.model_copy(update={"shards": shards})


class TopologyWatch:
    """The topology in force. `watch` adopts a higher epoch while the process runs."""

    def __init__(self, path: Path, logins: Logins = NOBODY) -> None:
        self.path = path
        self._logins = logins
        self.current = read_topology(path, logins)
        self.trouble: str | None = None
        """Why what the file says now is not in force; None when it is."""
        self._listeners: list[Callable[[Topology], None]] = []
        self._seen: Stamp | None = None

    def on_change(self, listener: Callable[[Topology], None]) -> None:
        """Call `listener` with every newly adopted topology."""
        self._listeners.append(listener)

    def adopt(self, topology: Topology) -> bool:
        """Make a topology current if its epoch is higher; tells whether it was."""
        if topology.epoch <= self.current.epoch:
            return False
        self.current = topology
        for listener in self._listeners:
            listener(topology)
        return True

    async def watch(self) -> None:
        """Look at the file each second, for ever. A document with a mistake is told, and the current one stays."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            self.look()

    async def newer_than(self, epoch: int, *, until: float) -> bool:
        """Whether a higher epoch comes into force before an instant of the monotonic clock."""
        while self.current.epoch <= epoch:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(AWAITED_INTERVAL_S)
            self.look()
        return True

    def look(self) -> None:
        """Adopt what the file says now, or say in `trouble` why not."""
        before = self.trouble
        try:
            stamp = stamp_of(self.path)
            if stamp and stamp == self._seen:
                return
            self.trouble = self._take(read_topology(self.path, self._logins))
            self._seen = stamp
        except DocumentError as error:
            self._seen = None  # a file that comes back may be the one it was
            self.trouble = f"{error}; epoch {self.current.epoch} stays in force"
        if self.trouble and self.trouble != before:
            structlog.get_logger().warning("topology_not_adopted", trouble=self.trouble)

    def _take(self, topology: Topology) -> str | None:
        if topology.first_regions != self.current.first_regions:
            first = ", ".join(self.current.first_regions)
            return (
                f"{self.path}: claims must name the regions of the first start ({first}), or identifiers would be"
                f" looked for at other shards; epoch {self.current.epoch} stays in force"
            )
        if self.adopt(topology):
            structlog.get_logger().info("topology_adopted", epoch=self.current.epoch)
        elif topology.document != self.current.document:
            return (
                f"{self.path}: epoch {topology.epoch} with other content than epoch {self.current.epoch}, which stays"
                " in force: a change needs a higher epoch"
            )
        return None


def _check_regions(document: TopologyDocument) -> None:
    """A number in an id must name one region, and every shard must lie in one."""
    named: dict[int, str] = {}
    for name, region in document.regions.items():
        if named.setdefault(region.number, name) != name:
            raise TopologyError(f"regions {named[region.number]} and {name} have the same number")
    for name, shard in document.shards.items():
        if shard.region not in document.regions:
            raise TopologyError(f"shard {name}: no region {shard.region}")
        if shard.zones and len(shard.zones) != len(shard.servers):
            raise TopologyError(f"shard {name}: {len(shard.servers)} servers and {len(shard.zones)} zones")


def _slots_in(document: TopologyDocument, region: str) -> dict[str, list[tuple[int, int]]]:
    return {name: shard.slots for name, shard in document.shards.items() if shard.region == region}


def _receipts_in(document: TopologyDocument, region: str) -> dict[str, list[tuple[int, int]]]:
    return {
        name: shard.slots if shard.receipts is None else shard.receipts
        for name, shard in document.shards.items()
        if shard.region == region
    }
