"""The same as `verify`, by a process for each core: parts of a ledger and of its views are checked side by side.

All parts of a ledger are looked at in one snapshot: this process holds it open, the others adopt it.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from shard_router.login import Logins
from shard_router.pool import ShardPools
from shard_router.topology import TopologyWatch
from verify.across import ALL
from verify.finding import Finding
from verify.ledger import Share, check_part, close_ledger
from verify.part import Audit, Part
from verify.stream import STATEMENTS
from verify.verify import (
    FAULTS,
    UnreachableError,
    UnreadableError,
    across_shards,
    is_unreachable,
    pools_of,
    readable,
    snapshot_of,
    standby_of,
    views_of,
    words_of,
)

CONTEXT: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Job:
    """A part of the work on a shard, as another process is told of it."""

    topology_path: Path
    logins: Logins
    shard: str
    known: Path
    every: bool

    async def ledger(self, part: Part, snapshot: str) -> Share:
        """Fold some members, as they were in that snapshot."""
        async with self._servers() as (watch, pools), snapshot_of(pools[self.shard], snapshot) as connection:
            return await check_part(connection, self.audit(watch), part)

    async def views(self) -> list[Finding]:
        """All views of the shard."""
        async with self._servers() as (watch, pools):
            return await views_of(pools[self.shard], self.audit(watch))

    def audit(self, watch: TopologyWatch) -> Audit:
        """What is to be checked of the shard."""
        return Audit(self.shard, watch.current, self.known / self.shard, self.every)

    def _servers(self) -> AbstractAsyncContextManager[tuple[TopologyWatch, ShardPools]]:
        return pools_of(self.topology_path, self.logins)


def _run(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in this process, one of several."""
    try:
        return asyncio.run(work(*arguments))
    except FAULTS as error:
        raise (UnreachableError if is_unreachable(error) else UnreadableError)(words_of(error)) from None


async def verify_side_by_side(
    topology_path: Path, logins: Logins, known: Path, *, every: bool = False
) -> list[Finding]:
    """Check every shard; only members who changed since the last clean run are folded.

    `every` member is folded all the same, and seen anew.
    """
    with ProcessPoolExecutor(os.cpu_count() or 1, CONTEXT) as workers:
        async with pools_of(topology_path, logins) as (watch, pools):
            away = partial(asyncio.get_running_loop().run_in_executor, workers, _run)
            jobs = [Job(topology_path, logins, shard, known, every) for shard in watch.current.document.shards]
            work = [_check_shard(job, watch, pools, away) for job in jobs]
            across = readable(across_shards(watch, pools), "all primaries at once", ALL)
            return [finding for found in await asyncio.gather(*work, across) for finding in found]


async def _check_shard(
    job: Job, watch: TopologyWatch, pools: ShardPools, away: Callable[..., Awaitable[Any]]
) -> list[Finding]:
    shard = job.shard
    # The views are one piece, so they are handed out before the parts of the ledger.
    views = asyncio.ensure_future(readable(away(job.views), "the views", shard))
    work: list[Awaitable[list[Finding]]] = [readable(_ledger(job, watch, pools, away), "the primary", shard), views]
    if len(watch.current.document.shards[shard].servers) > 1:
        work.append(readable(standby_of(pools[shard], shard), "the standby", f"{shard} standby"))
    return [finding for found in await asyncio.gather(*work) for finding in found]


async def _ledger(
    job: Job, watch: TopologyWatch, pools: ShardPools, away: Callable[..., Awaitable[Any]]
) -> list[Finding]:
    audit = job.audit(watch)
    async with snapshot_of(pools[job.shard]) as connection:
        snapshot = await connection.fetchval(STATEMENTS["export_snapshot"])
        shares = await _all(away(job.ledger, part, snapshot) for part in audit.parts())
        return await close_ledger(connection, audit, shares)


async def _all(work: Any) -> list[Any]:
    """What all of it comes to, once all of it has ended; the first failure."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for one in outcomes:
        if isinstance(one, BaseException):
            raise one
    return outcomes
