"""A look at everything in one region: its nodes, its servers, its projectors, each asked within a deadline.

What does not answer is told with the reason. Few are asked at a time, however large the region is.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar

import aiohttp
import asyncpg
import orjson

from query.system_shape import Checked, SystemNode, SystemProjector, SystemServer, SystemShard, SystemSlot
from service.status import STATUS
from shard_router.remains import Remains, read_remains
from shard_router.server import SERVER_ERRORS, place_of_server, read_server, read_slots
from shard_router.slot_table import ranges_of
from shard_router.topology import Shard, Topology

T = TypeVar("T")
C = TypeVar("C", bound=Checked)

ASK_TIMEOUT_S: Final = 1.0
"""For one server or node: a frozen one answers nothing."""
ASKED_AT_ONCE_MAX: Final = 16
_SILENT: Final = (aiohttp.ClientError, ValueError, *SERVER_ERRORS)


class Look:
    """One look by one node, with the credential of whoever asks. `done` are what it showed."""

    def __init__(self, topology: Topology, region: str, session: aiohttp.ClientSession, authorization: str) -> None:
        self._topology = topology
        self._region = region
        self._session = session
        self._headers = {"Authorization": authorization}
        self._room = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    async def see(self) -> tuple[list[SystemNode], dict[str, SystemShard]]:
        """Everything of the region."""
        region, names = self._topology.document.regions[self._region], self._topology.shards_in(self._region)
        listed: list[tuple[Literal["command", "query"], str]] = [
            *(("command", url) for url in region.command),
            *(("query", url) for url in region.query),
        ]
        nodes, shards = await asyncio.gather(
            asyncio.gather(*(self._ask(SystemNode(address=url, kind=kind), url) for kind, url in listed)),
            asyncio.gather(*(self._see_shard(self._topology.document.shards[name], name) for name in names)),
        )
        return nodes, dict(zip(names, shards, strict=True))

    async def _see_shard(self, shard: Shard, name: str) -> SystemShard:
        servers = asyncio.gather(*(self._ask_server(url, zone) for url, zone in shard.placed))
        projector = self._ask(SystemProjector(address=shard.cdc), shard.cdc) if shard.cdc else _nothing()
        seen, projected = await asyncio.gather(servers, projector)
        return shape_of_shard(self._topology, name, with_lag(seen), projected)

    async def _ask(self, asked: C, url: str) -> C:
        """What a process of ours says of itself."""

        async def ask() -> C:
            async with self._session.get(url + STATUS, headers=self._headers) as answer:
                body = await answer.read()
                if not answer.ok:
                    return asked.model_copy(update={"why": f"answers {answer.status}"})
                told = orjson.loads(body)
                return type(asked).model_validate({**asked.model_dump(), **told, "reachable": True})

        return await self._within(ask(), asked)

    async def _ask_server(self, url: str, zone: str | None) -> SystemServer:
        asked = SystemServer(address=place_of_server(url), zone=zone)

        async def ask() -> SystemServer:
            connection = await asyncpg.connect(url, server_settings={"application_name": "loyalty system"})
            try:
                row, offset_s = await read_server(connection)
                told = _told(row, await read_slots(connection), offset_s)
                remains = await read_remains(connection) if row["primary"] else None
                return asked.model_copy(update={**told, **_removable(remains)})
            finally:
                connection.terminate()

        return await self._within(ask(), asked)

    async def _within(self, work: Awaitable[T], asked: T) -> T:
        async with self._room:
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    return await work
            except _SILENT as error:
                return _silent(asked, error)


def _silent(asked: Any, error: Exception) -> Any:
    """`asked`, saying why it did not answer."""
    why = f"no answer in {ASK_TIMEOUT_S:.0f} s" if isinstance(error, TimeoutError) else type(error).__name__
    return asked.model_copy(update={"why": why})


async def _nothing() -> None:
    return None


def _told(row: Any, slots: Iterable[Any], offset_s: float) -> Mapping[str, Any]:
    """What a server said; `lag_bytes` holds its position until all of the shard are known."""
    return {
        "reachable": True,
        "version": row["version"],
        "role": "standby" if row["standby"] else "primary",
        "timeline": row["timeline"],
        "lag_bytes": row["lsn"],
        "lag_ms": None if row["lag_seconds"] is None else round(row["lag_seconds"] * 1000),
        "clock_offset_ms": round(offset_s * 1000),
        "slots": [SystemSlot.model_validate(dict(slot)) for slot in slots],
    }


def _removable(remains: Remains | None) -> Mapping[str, Any]:
    return {"hinders": remains.hinders, "receipts_fenced": remains.receipts_fenced} if remains else {}


def with_lag(servers: Iterable[SystemServer]) -> list[SystemServer]:
    """The servers of a shard with their distance from the primary, which is unknown without one."""
    seen = list(servers)
    heads = [one.lag_bytes for one in seen if one.role == "primary" and one.lag_bytes is not None]
    return [
        one.model_copy(update={"lag_bytes": max(0, max(heads) - one.lag_bytes)})
        if heads and one.lag_bytes is not None
        else one.model_copy(update={"lag_bytes": None})
        for one in seen
    ]


@lru_cache(maxsize=2)  # a table of thousands of slots, for the topology in force
def _claims_of(topology: Topology) -> dict[str, list[tuple[int, int]]]:
    return ranges_of(topology.claim_shards)


def shape_of_shard(
    topology: Topology, name: str, servers: list[SystemServer], projector: SystemProjector | None
) -> SystemShard:
    """A shard with what was seen of it."""
    shard = topology.document.shards[name]
    return SystemShard(
        slots=[list(pair) for pair in shard.slots],
        claim_slots=[list(pair) for pair in _claims_of(topology).get(name, [])],
        valkey=place_of_server(shard.valkey),
        servers=servers,
        projector=projector,
    )


def unseen(topology: Topology, region: str, why: str) -> tuple[list[SystemNode], dict[str, SystemShard]]:
    """What the topology alone tells of a region that was never heard."""
    row, shards = topology.document.regions[region], topology.document.shards
    nodes = [SystemNode(address=url, kind="command", why=why) for url in row.command]
    nodes += [SystemNode(address=url, kind="query", why=why) for url in row.query]
    shown: dict[str, SystemShard] = {}
    for name in topology.shards_in(region):
        shard = shards[name]
        servers = [SystemServer(address=place_of_server(url), zone=zone, why=why) for url, zone in shard.placed]
        projector = SystemProjector(address=shard.cdc, why=why) if shard.cdc else None
        shown[name] = shape_of_shard(topology, name, servers, projector)
    return nodes, shown
