"""`loyalty verify`: the promises, checked on the data at rest.

Each primary is read in one snapshot and held against the fold of its journal; its standby must hold
the same rows, and Valkey the same views. What spans shards is read from all of them at once. A view or a
standby may be a moment behind: it is asked again for some seconds before it counts as wrong.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
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


async def verify(topology_path: Path, logins: Logins = NOBODY, known: Path | None = None) -> list[Finding]:
    """Check every shard of a topology, one after the other; what cannot be reached or read is a violation too.

    With `known`, a folder that exists, only members who changed since the last clean run are folded (see memory.py).
    """
    async with _pools(topology_path, logins) as (watch, pools):
        findings: list[Finding] = []
        for shard in watch.current.document.shards:
            seen = known / shard if known else None
            findings += await _check_shard(watch, pools, shard, seen, every=known is None)
        return findings + await _readable(_check_across(watch, pools), "all primaries at once", ALL)


async def verify_side_by_side(
    topology_path: Path, logins: Logins, known: Path, *, every: bool = False
) -> list[Finding]:
    """The same with a process for each shard, as many at once as there are cores.

    `every` member is folded all the same, and seen anew.
    """
    shards = list(TopologyWatch(topology_path, logins).current.document.shards)
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(shards), os.cpu_count() or 1), context) as workers:
        work = [
            loop.run_in_executor(workers, _check_shard_alone, topology_path, logins, shard, known / shard, every)
            for shard in shards
        ]
        findings = [finding for found in await asyncio.gather(*work) for finding in found]
    async with _pools(topology_path, logins) as (watch, pools):
        return findings + await _readable(_check_across(watch, pools), "all primaries at once", ALL)


def _check_shard_alone(topology_path: Path, logins: Logins, shard: str, known: Path, every: bool) -> list[Finding]:  # noqa: FBT001 - an executor passes by position
    async def check() -> list[Finding]:
        async with _pools(topology_path, logins) as (watch, pools):
            return await _check_shard(watch, pools, shard, known, every=every)

    return asyncio.run(check())


@asynccontextmanager
async def _pools(topology_path: Path, logins: Logins) -> AsyncGenerator[tuple[TopologyWatch, ShardPools]]:
    watch = TopologyWatch(topology_path, logins)
    pools = ShardPools(watch, size_max=POOL_SIZE_MAX, statement_timeout_ms=STATEMENT_TIMEOUT_MS, indexed=False)
    try:
        yield watch, pools
    finally:
        await pools.close()


async def _check_shard(
    watch: TopologyWatch, pools: ShardPools, shard: str, known: Path | None = None, *, every: bool = True
) -> list[Finding]:
    servers, place = pools[shard], watch.current.document.shards[shard]
    ledger = _check_ledger(servers, shard, watch.current, known, every=every)
    findings = await _readable(ledger, "the primary", shard)
    findings += await _readable(_check_views(servers, shard, place.valkey), "the views", shard)
    if len(place.servers) > 1:
        findings += await _readable(_check_standby(servers, shard), "the standby", f"{shard} standby")
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


async def _check_ledger(
    servers: ShardServers, shard: str, topology: Topology, known: Path | None = None, *, every: bool = True
) -> list[Finding]:
    async with _snapshot(servers) as connection:
        return await check_ledger(connection, shard, topology, known, every=every)


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
