"""`loyalty verify`: the promises, checked on the data at rest.

Each primary is read in one snapshot and held against the fold of its journal; its standby must hold
the same rows, and Valkey the same views. A view or a standby may be a moment behind: it is asked
again for some seconds before it counts as wrong.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError

from cdc.finding import Finding
from cdc.verify_ledger import STATEMENTS, check_answers, check_ledger
from cdc.verify_saga import Across, gather, judge
from cdc.verify_view import check_views
from shard_router.errors import ProblemError
from shard_router.pool import ShardPools, ShardServers
from shard_router.topology import TopologyWatch

POOL_SIZE_MAX: Final = 4
STATEMENT_TIMEOUT_MS: Final = 600_000
STANDBY_PATIENCE_S: Final = 10.0
_RETRY_S: Final = 0.25


async def verify(topology_path: Path) -> list[Finding]:
    """Check every shard of a topology; what cannot be reached is a violation too."""
    watch = TopologyWatch(topology_path)
    pools = ShardPools(watch, size_max=POOL_SIZE_MAX, statement_timeout_ms=STATEMENT_TIMEOUT_MS, indexed=False)
    findings: list[Finding] = []
    receipts: Counter[tuple[str, ...]] = Counter()
    across = Across()
    try:
        for shard, place in watch.current.document.shards.items():
            work = _check_shard(pools, shard, place.valkey, receipts, across)
            findings += await _reachable(work, shard, "primary and views")
            if len(place.servers) > 1:
                findings += await _reachable(_check_standby(pools[shard], shard), f"{shard} standby", "standby")
    finally:
        await pools.close()
    return [*findings, _check_receipts(receipts), *judge(across)]


async def _reachable(check: Awaitable[list[Finding]], where: str, what: str) -> list[Finding]:
    try:
        return await check
    except (ProblemError, RedisError, OSError) as error:
        finding = Finding(f"{what} can be read", where, checked=1)
        finding.fault(str(getattr(error, "detail", "") or error))
        return [finding]


async def _check_shard(
    pools: ShardPools, shard: str, valkey: str, receipts: Counter[tuple[str, ...]], across: Across
) -> list[Finding]:
    client: redis.asyncio.Redis = redis.asyncio.from_url(valkey)
    try:
        async with (
            pools[shard].primary() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            findings, newest = await check_ledger(connection, shard)
            findings += await check_answers(connection, shard)
            for row in await connection.fetch(STATEMENTS["receipt_names"]):
                receipts[tuple(row.values())] += 1
            findings += await gather(connection, shard, across)
            return findings + await check_views(connection, client, shard, newest)
    finally:
        await client.aclose()


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
        if standby[table] != digest:
            finding.fault(f"{table}: {standby[table]} on the standby, {digest} on the primary (rows, hash)")
    return [finding]


async def _digest(connect: Callable[[], Any]) -> dict[str, str]:
    async with connect() as connection:
        return dict(await connection.fetchrow(STATEMENTS["digest"]))


def _check_receipts(receipts: Counter[tuple[str, ...]]) -> Finding:
    """A shard's key sees to its own receipts; the same one on two shards would be one basket earned twice."""
    finding = Finding("every receipt is unique over all shards", "all shards", checked=len(receipts))
    for name, times in receipts.items():
        if times > 1:
            finding.fault(f"{' '.join(name)}: {times} times")
    return finding
