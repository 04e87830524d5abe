"""`loyalty verify`: the promises, checked on the data at rest.

Each primary is read in one snapshot and held against the fold of its journal; its standby must hold
the same rows, and Valkey the same views. What spans shards is read from all of them at once. A view or a
standby may be a moment behind: it is asked again for some seconds before it counts as wrong. A server that does not
answer breaks no promise: what it holds could not be looked at.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as ValkeyTimeoutError

from query.valkey import ValkeyConnection
from shard_router.directory import Directory
from shard_router.errors import LoyaltyError, ProblemError
from shard_router.login import Logins
from shard_router.pool import Connection, ShardPools, ShardServers
from shard_router.server import SERVER_ERRORS, trouble_of
from shard_router.topology import NOBODY, TopologyWatch
from verify.across import ALL, Across, check_across
from verify.finding import Finding
from verify.identifier import check_identifiers
from verify.ledger import check_ledger
from verify.memory import Memory, fingerprint
from verify.part import Audit
from verify.receipt import check_receipts
from verify.referral import check_referrals
from verify.stream import STATEMENTS
from verify.view import Views

POOL_SIZE_MAX: Final = 4
STATEMENT_TIMEOUT_MS: Final = 600_000
STANDBY_PATIENCE_S: Final = 10.0
VALKEY_PATIENCE_S: Final = 10.0  # for a thousand keys or their values, beside other work
SERVER_PATIENCE_S: Final = 5.0  # one probe may take a second, and a busy machine more than that to connect
FAULTS: Final = (ProblemError, RedisError, *SERVER_ERRORS)
UNREACHABLE: Final = (OSError, TimeoutError, ValkeyConnectionError, ValkeyTimeoutError)
REPLAY: Final = "replay did not wait for it to be read"
_RETRY_S: Final = 0.25


class UnreadableError(LoyaltyError):
    """What another process could not read, in words: not every error can be sent."""


class UnreachableError(UnreadableError):
    """The same of a server that does not answer."""


def is_unreachable(error: BaseException) -> bool:
    """Whether it says that a server does not answer, and nothing of what it holds."""
    if isinstance(error, ProblemError):
        return error.code == "shard_unavailable"
    return isinstance(error, (UnreachableError, *UNREACHABLE))


async def verify(topology_path: Path, logins: Logins = NOBODY, known: Path | None = None) -> list[Finding]:
    """Check every shard of a topology, one after the other; what cannot be read is a violation too.

    With `known`, a folder that exists, only members who changed since the last clean run are folded (see memory.py).
    """
    async with pools_of(topology_path, logins) as (watch, pools):
        findings: list[Finding] = []
        for shard in watch.current.document.shards:
            audit = Audit(shard, watch.current, known / shard if known else None, every=known is None)
            findings += await _check_shard(pools, audit)
        return findings + await readable(across_shards(watch, pools), "all primaries at once", ALL)


@asynccontextmanager
async def pools_of(topology_path: Path, logins: Logins) -> AsyncGenerator[tuple[TopologyWatch, ShardPools]]:
    """The servers of a topology, for reading much at a time."""
    watch = TopologyWatch(topology_path, logins)
    pools = ShardPools(
        watch,
        size_max=POOL_SIZE_MAX,
        statement_timeout_ms=STATEMENT_TIMEOUT_MS,
        indexed=False,
        patience_s=SERVER_PATIENCE_S,
    )
    try:
        async with pools.watched():
            yield watch, pools
    finally:
        await pools.close()


async def _check_shard(pools: ShardPools, audit: Audit) -> list[Finding]:
    servers, shard = pools[audit.shard], audit.shard
    findings = await readable(_check_ledger(servers, audit), "the primary", shard)
    findings += await readable(views_of(servers, audit), "the views", shard)
    if len(audit.topology.document.shards[shard].servers) > 1:
        findings += await readable(standby_of(servers, shard), "the standby", f"{shard} standby")
    return findings


async def readable(check: Awaitable[list[Finding]], what: str, where: str) -> list[Finding]:
    """What a check finds; what cannot be read is a fault like any, unless nobody answers."""
    try:
        return await check
    except (*FAULTS, UnreadableError) as error:
        finding = Finding(f"{what} can be read", where, checked=1)
        (finding.miss if is_unreachable(error) else finding.fault)(words_of(error))
        return [finding]


def words_of(error: BaseException) -> str:
    """What was wrong with a server."""
    if isinstance(error, SERVER_ERRORS):
        return trouble_of(error)
    return str(getattr(error, "detail", "") or error)


@asynccontextmanager
async def snapshot_of(servers: ShardServers, adopted: str | None = None) -> AsyncGenerator[Connection]:
    """A connection that sees one moment: this one, or that of a session which has exported it."""
    async with (
        servers.primary() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        if adopted:
            await connection.execute(STATEMENTS["adopt_snapshot"].replace("exported", adopted))
        yield connection


async def _check_ledger(servers: ShardServers, audit: Audit) -> list[Finding]:
    async with snapshot_of(servers) as connection:
        return await check_ledger(connection, audit)


async def views_of(servers: ShardServers, audit: Audit) -> list[Finding]:
    """Check the views of a shard."""
    client = ValkeyConnection(audit.topology.document.shards[audit.shard].valkey, timeout_s=VALKEY_PATIENCE_S)
    async with servers.primary() as connection:
        incarnation = await connection.fetchval(STATEMENTS["incarnation"])
    memory = Memory(audit.known_views, fingerprint("views", incarnation))
    try:
        findings = await Views(servers, client, audit.shard, memory).check(every=audit.every)
        memory.save()
    finally:
        memory.close()
        await client.close()
    return findings


async def across_shards(watch: TopologyWatch, pools: ShardPools) -> list[Finding]:
    """Check what spans shards."""
    async with AsyncExitStack() as stack:
        connections = {
            shard: await stack.enter_async_context(snapshot_of(pools[shard])) for shard in watch.current.document.shards
        }
        across = Across(connections, watch.current)
        findings = [*await check_receipts(across), *await check_across(across), await check_referrals(across)]
        return findings + await check_identifiers(across, Directory(watch, pools))


async def standby_of(servers: ShardServers, shard: str) -> list[Finding]:
    """Hold a shard's standby against its primary."""
    finding = Finding("the standby holds what the primary holds", f"{shard} standby")
    until = time.monotonic() + STANDBY_PATIENCE_S
    while True:
        primary, standby = await _digest(servers.primary), await _digest(servers.standby)
        if primary == standby or time.monotonic() > until:
            break
        await asyncio.sleep(_RETRY_S)
    if not standby:
        finding.miss(REPLAY)
        return [finding]
    finding.checked = len(primary)
    for table, digest in primary.items():
        if standby.get(table) != digest:
            finding.fault(f"{table}: {standby.get(table)} on the standby, {digest} on the primary (rows, hash)")
    return [finding]


async def _digest(connect: Callable[[], Any]) -> dict[str, str]:
    """Every table in a few characters; nothing when replay would not wait for it, which is no fault of the rows."""
    try:
        async with connect() as connection:
            return dict(await connection.fetchrow(STATEMENTS["digest"]))
    except asyncpg.SerializationError:
        return {}
