"""What `GET /v1/system` shows: models of the OpenAPI document, and of what one region tells another."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.shape import with_example
from shard_router.topology import RegionState

_SERVER: Final[dict[str, Any]] = {
    "address": "10.0.0.5:5432", "zone": "a", "reachable": True, "why": None, "version": "18.4", "role": "primary",
    "timeline": 3, "lag_bytes": 0, "lag_ms": 0, "clock_offset_ms": 2,
    "hinders": ["holds members: it goes only when nobody ever lived there"], "receipts_fenced": False,
    "slots": [{"name": "loyalty_cdc", "kind": "logical", "active": True, "copied": False, "lost": False,
               "retained_bytes": 1256, "room_bytes": None}],
}  # fmt: skip
_EXAMPLE: Final[dict[str, Any]] = {
    "region": "eu",
    "epoch": 7,
    "regions": {
        "eu": {
            "state": "active", "reachable": True, "why": None, "as_of": "2026-11-22T10:00:00Z", "age_ms": 40,
            "share": 100,
            "nodes": [{"address": "http://10.0.0.2:8410", "kind": "command", "reachable": True, "why": None,
                       "version": "0.1.0", "zone": "a", "topology_epoch": 7, "program_version": 3, "draining": False,
                       "problems": {}, "warnings": {}, "clock_offset_ms": {"eu-1": 1}}],
            "shards": {
                "eu-1": {"slots": [[0, 4095]], "claim_slots": [[0, 12287]], "valkey": "10.0.0.7:6379",
                         "servers": [_SERVER],
                         "projector": {"address": "http://10.0.0.6:8412", "reachable": True, "why": None,
                                       "version": "0.1.0", "source": "debezium", "lag_ms": 4, "slot_bytes": 1256,
                                       "complete": True, "synchronous_standbys": {"10.0.0.5:5432": 1},
                                       "problems": {}, "warnings": {}}},
            },
        }
    },
}  # fmt: skip


Range = Annotated[list[int], Field(min_length=2, max_length=2)]
"""The first and the last of some slots."""


class Part(BaseModel):
    """Something that was asked: whether it answered, and if not, why."""

    model_config = ConfigDict(extra="ignore")
    address: str = Field(description="Where it is, without who connects how.")
    reachable: bool = Field(default=False, description="Whether it answered.")
    why: str | None = Field(default=None, description="Why it did not answer; null when it did.")
    version: str | None = Field(default=None, description="The version of what runs there.")


class Checked(Part):
    """One of our processes, by what it says of itself."""

    problems: dict[str, str] = Field(default={}, description="What makes it unready, by check.")
    warnings: dict[str, str] = Field(default={}, description="What an operator must hear though it is ready.")


class SystemNode(Checked):
    """A command or query node."""

    kind: Literal["command", "query"] = Field(description="Which side it serves.")
    zone: str | None = Field(default=None, description="Its data centre.")
    topology_epoch: int | None = Field(default=None, description="The epoch of the topology it goes by.")
    program_version: int | None = Field(default=None, description="The version of the program that it goes by.")
    draining: bool | None = Field(default=None, description="Whether it was told to stop.")
    clock_offset_ms: dict[str, int] = Field(
        default={}, description="How far a command node's clock is ahead of each primary's."
    )


class SystemSlot(BaseModel):
    """A replication slot; on a standby the copy of the primary's."""

    name: str = Field(description="The name of the slot.")
    kind: str = Field(description="`physical` or `logical`.")
    active: bool = Field(description="Whether somebody streams from it.")
    copied: bool | None = Field(description="Of a standby: whether its copy could go on after a failover.")
    lost: bool | None = Field(description="Whether Postgres gave its WAL up.")
    retained_bytes: int = Field(description="WAL kept for it.")
    room_bytes: int | None = Field(description="WAL that may come before it is given up; null: any amount.")


class SystemServer(Part):
    """A Postgres server, in the role that it says it has."""

    zone: str | None = Field(default=None, description="Its data centre.")
    role: Literal["primary", "standby"] | None = Field(default=None, description="What it says it is.")
    timeline: int | None = Field(default=None, description="One more with every failover.")
    lag_bytes: int | None = Field(default=None, description="WAL of the primary that it has not replayed.")
    lag_ms: int | None = Field(default=None, description="How long ago what it shows was new.")
    clock_offset_ms: int | None = Field(default=None, description="How far its clock is ahead of the asking node's.")
    slots: list[SystemSlot] = Field(default=[], description="Its replication slots.")
    hinders: list[str] | None = Field(
        default=None, description="Of a primary: why its shard cannot be taken out of the topology; empty when it can."
    )
    receipts_fenced: bool | None = Field(
        default=None, description="Of a primary: whether it claims no receipts, since a removal has begun."
    )


class SystemProjector(Checked):
    """The projector of a shard."""

    source: str | None = Field(default=None, description="How it reads changes: `debezium` or `pgoutput`.")
    lag_ms: int | None = Field(default=None, description="Age of the views.")
    slot_bytes: int | None = Field(default=None, description="WAL kept for it.")
    complete: bool | None = Field(default=None, description="Whether the views hold every member.")
    synchronous_standbys: dict[str, int] = Field(
        default={}, description="How many standbys acknowledge the commits of each primary, by its address."
    )


class SystemShard(BaseModel):
    """A shard: which slots it has, and its servers."""

    slots: list[Range] = Field(description="Ranges of its region's slots.")
    claim_slots: list[Range] = Field(description="Ranges of slots of phones, e-mails and foreign cards.")
    valkey: str = Field(description="Where its views lie.")
    servers: list[SystemServer] = Field(description="Its Postgres servers, in the order of the topology.")
    projector: SystemProjector | None = Field(description="Its projector; null where the topology names none.")


class SystemRegion(BaseModel):
    """A region as it says it is. One that does not answer is shown as it was heard last, with its age."""

    state: RegionState = Field(description="What the topology says of it.")
    reachable: bool = Field(description="Whether it was heard just now.")
    why: str | None = Field(description="Why it does not answer; null when it does.")
    as_of: datetime | None = Field(description="When it was so; null: it was never heard.")
    age_ms: int | None = Field(description="How long ago that was.")
    share: int | None = Field(
        description="Percent of its own traffic that the front door gives it; null where this node does not know."
    )
    nodes: list[SystemNode] = Field(description="Its command and query nodes.")
    shards: dict[str, SystemShard] = Field(description="Its shards, by name.")


class System(BaseModel):
    """All regions, as seen by the region that answers."""

    model_config = with_example(_EXAMPLE)
    region: str = Field(description="The region whose node looked.")
    epoch: int = Field(description="The epoch of the topology that it goes by.")
    regions: dict[str, SystemRegion] = Field(description="The regions, by name.")
