"""Phones and e-mails of a whole system in their one form: once when a release first meets a system, or when asked.

A mark beside the migrations tells that every shard was looked at; collisions are left to people, and told again by
`loyalty respell` and `loyalty verify`.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from cluster.document import Documents
from cluster.errors import ClusterError
from command.migrate import find_mark, set_mark
from command.node import CommandNode
from command.respell import Respelling, respell
from shard_router.errors import ProblemError
from shard_router.member_id import format_member_id
from shard_router.pool import ShardPools
from shard_router.topology import TopologyWatch

MARK = "identifiers in one form, 1"
POOL_SIZE_MAX = 4
STATEMENT_TIMEOUT_MS = 60_000


async def respell_system(topology: Path, *, once: bool = False) -> Respelling | None:
    """Bring what all shards of a topology document store to its one form; None when it is asked `once` and was done.

    ClusterError when a shard cannot be reached; what was done until then stays done.
    """
    try:
        async with _node(topology) as node:
            shards = list(node.topology.current.document.shards)
            if once and all([await _is_marked(node, shard) for shard in shards]):
                return None
            told = await respell(node, shards)
            for shard in shards:
                async with node.pools[shard].primary() as connection:
                    await set_mark(connection, MARK)
            return told
    except ProblemError as error:
        raise ClusterError(
            f"identifiers could not be brought to their one form: {error.detail or error.code}"
        ) from error


@asynccontextmanager
async def _node(topology: Path) -> AsyncGenerator[CommandNode]:
    watch = TopologyWatch(topology, Documents(topology.parent).logins())
    pools = ShardPools(watch, size_max=POOL_SIZE_MAX, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
    node = CommandNode(next(iter(watch.current.document.regions)), watch, pools, CollectorRegistry())
    try:
        yield node
    finally:
        await node.close()
        await pools.close()


async def _is_marked(node: CommandNode, shard: str) -> bool:
    async with node.pools[shard].primary() as connection:
        return await find_mark(connection, MARK)


def lines_of(told: Respelling) -> list[str]:
    """What came of it, for people; an identifier is named by its kind and its members."""
    lines = [f"{told.changed} phones and e-mails were brought to their one form"]
    for one in told.collisions:
        other = format_member_id(one.holder) if one.holder is not None else "another member"
        lines.append(f"the {one.kind} of {format_member_id(one.member_id)}, written otherwise, is that of {other}")
    return lines
