"""What the system says of itself: `/v1/system`, from the first query node that answers."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson

from query.system import PATH, PATIENCE_S
from query.system_shape import System, SystemRegion
from shard_router.topology import TopologyDocument

ASK_TIMEOUT_S: Final = PATIENCE_S + 0.5
CLOCK_OFFSET_MS_MAX: Final = 1_000
_SECOND_MS: Final = 1_000


async def ask_system(topology: TopologyDocument, keys: Mapping[str, str]) -> System | None:
    """What one node of each region is asked, all at once, and the first answer; None when nobody gives one."""
    key = keys.get("admin")
    urls = [region.query[0] for region in topology.regions.values() if region.query]
    if not key or not urls:
        return None
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {key}"}) as session:
        asking = [asyncio.ensure_future(_ask(session, url)) for url in urls]
        try:
            for answer in asyncio.as_completed(asking):
                if (system := await answer) is not None:
                    return system
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
    return None


async def _ask(session: aiohttp.ClientSession, url: str) -> System | None:
    try:
        async with session.get(url + PATH) as answer:
            body = await answer.read()
            return System.model_validate(orjson.loads(body)) if answer.ok else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None


def lag_ms_of(system: System | None, shard: str) -> int | None:
    """The age of a shard's views, where its projector was heard just now."""
    for region in system.regions.values() if system else ():
        seen = region.shards.get(shard)
        if seen and seen.projector and region.reachable:
            return seen.projector.lag_ms
    return None


def warnings_of(system: System | None) -> list[str]:
    """What only the parts together tell: regions that are not heard, versions that differ, clocks of servers."""
    if system is None:
        return []
    regions = system.regions
    told = [f"{name} does not hear {other}: {_why(seen)}" for name, other, seen in _unheard(system)]
    versions = {node.version for region in regions.values() for node in region.nodes if node.version}
    if len(versions) > 1:
        told.append(f"nodes run different versions: {', '.join(sorted(versions))}")
    for region in regions.values():
        for shard in region.shards.values():
            told += [
                f"the clock of {server.address} is {server.clock_offset_ms / _SECOND_MS:+.1f} s off"
                for server in shard.servers
                if abs(server.clock_offset_ms or 0) > CLOCK_OFFSET_MS_MAX and server.clock_offset_ms
            ]
    return [*told, *_leaving(regions)]


def _leaving(regions: Mapping[str, SystemRegion]) -> list[str]:
    """Of regions and shards that are to go: what they wait for, and what is not done meanwhile."""
    told: list[str] = []
    for name, region in regions.items():
        for shard, seen in region.shards.items():
            for server in seen.servers:
                if region.state == "draining":
                    told += [f"{name} is draining and cannot be removed: {shard} {why}" for why in server.hinders or ()]
                if server.receipts_fenced:
                    again = f"`loyalty region remove {name}` goes on, `loyalty region add {name}` has it stay"
                    told.append(f"{shard} claims no receipts, as its removal has begun: {again}")
    return told


def _unheard(system: System) -> list[tuple[str, str, SystemRegion]]:
    return [(system.region, name, seen) for name, seen in system.regions.items() if not seen.reachable]


def _why(seen: SystemRegion) -> str:
    ago = "never heard" if seen.age_ms is None else f"heard {seen.age_ms / _SECOND_MS:.0f} s ago"
    return f"{seen.why} ({ago})"


def document_of(system: System | None) -> dict[str, Any] | None:
    """As JSON."""
    return system.model_dump(mode="json") if system else None
