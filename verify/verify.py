"""`loyalty verify`: the promises, checked on the data at rest.

Each primary is read in one snapshot and held against the fold of its journal; its standby must hold
the same rows, and Valkey the same views. What spans shards is read from all of them at once. A view or a
standby may be a moment behind: it is asked again for some seconds before it counts as wrong.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import redis.asyncio
from redis.exceptions import RedisError

from shard_router.directory import Directory
from shard_router.errors import ProblemError
from shard_router.login import Logins
from shard_router.pool import Connection, ShardPools, ShardServers
from shard_router.topology import NOBODY, Topology, TopologyWatch
from verify.across import ALL, Across, check_across
from verify.finding import Finding
from verify.identifier import check_identifiers
from verify.ledger import check_ledger
from verify.referral import check_referrals
from verify.stream import STATEMENTS
from verify.view import check_views

POOL_SIZE_MAX: Final = 4
STATEMENT_TIMEOUT_MS: Final = 600_000
STANDBY_PATIENCE_S: Final = 10.0
_RETRY_S: Final = 0.25


async def verify(topology_path: Path, logins: Logins = NOBODY) -> list[Finding]:
    """Check every shard of a topology; what cannot be reached or read is a violation too."""
    watch = TopologyWatch(topology_path, logins)
    pools = ShardPools(watch, size_max=POOL_SIZE_MAX, statement_timeout_ms=STATEMENT_TIMEOUT_MS, indexed=False)
    findings: list[Finding] = []
    try:
        for shard, place in watch.current.document.shards.items():
            servers = pools[shard]
            findings += await _readable(_check_ledger(servers, shard, watch.current), "the primary", shard)
            findings += await _readable(_check_views(servers, shard, place.valkey), "the views", shard)
            if len(place.servers) > 1:
                findings += await _readable(_check_standby(servers, shard), "the standby", f"{shard} standby")
        findings += await _readable(_check_across(watch, pools), "all primaries at once", ALL)
    finally:
        await pools.close()
    return findings


async def _readable(check: Awaitable[list[Finding]], what: str, where: str) -> list[Finding]:
    try:
        return await check
    except (ProblemError, RedisError, OSError, asyncpg.PostgresError) as error:
        finding = Finding(f"{what} can be read", where, checked=1)
        finding.fault(str(getattr(error, "detail", "") or error))
        return [finding]


@asynccontextmanager
async def _snapshot(servers: ShardServers) -> AsyncGenerator[Connection]:
    async with (
        servers.primary() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield connection


async def _check_ledger(servers: ShardServers, shard: str, topology: Topology) -> list[Finding]:
    async with _snapshot(servers) as connection:
        return await check_ledger(connection, shard, topology)


async def _check_views(servers: ShardServers, shard: str, valkey: str) -> list[Finding]:
    client: redis.asyncio.Redis = redis.asyncio.from_url(valkey)
    try:
        return await check_views(servers, client, shard)
    finally:
        await client.aclose()


async def _check_across(watch: TopologyWatch, pools: ShardPools) -> list[Finding]:
    async with AsyncExitStack() as stack:
        connections = {
            shard: await stack.enter_async_context(_snapshot(pools[shard])) for shard in watch.current.document.shards
        }
        across = Across(connections, watch.current)
        findings = [*await check_across(across), await check_referrals(across)]
        return findings + await check_identifiers(across, Directory(watch, pools))


async def _check_standby(servers: ShardServers, shard: str) -> list[Finding]:
    finding = Finding("the standby holds what the primary holds", f"{shard} standby")
    until = time.monotonic() + STANDBY_PATIENCE_S
    while True:
        primary, standby = await _digest(servers.primary), await _digest(servers.standby)
        if primary == standby or time.monotonic() > until:
            break
        await asyncio.sleep(_RETRY_S)
    finding.checked = len(primary)
    for table, digest in primary.items():
        if standby.get(table) != digest:
            found = standby.get(table, "what cannot be read, because replay cancels it,")
            finding.fault(f"{table}: {found} on the standby, {digest} on the primary (rows, hash)")
    return [finding]


async def _digest(connect: Callable[[], Any]) -> dict[str, str]:
    """Every table in a few characters; nothing when replay would not wait for it, which is no fault of the rows."""
    try:
        async with connect() as connection:
            return dict(await connection.fetchrow(STATEMENTS["digest"]))
    except asyncpg.SerializationError:
        return {}
