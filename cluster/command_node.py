"""A command node without HTTP, for work of the command line on all shards: `respell`, `reconcile`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from cluster.document import Documents
from command.node import CommandNode
from service.credential import Credentials
from shard_router.pool import ShardPools
from shard_router.topology import TopologyWatch

POOL_SIZE_MAX = 4
STATEMENT_TIMEOUT_MS = 60_000


@asynccontextmanager
async def command_node(topology: Path) -> AsyncGenerator[CommandNode]:
    """The node of a topology document, as long as the block lasts."""
    watch = TopologyWatch(topology, Documents(topology.parent).logins())
    pools = ShardPools(watch, size_max=POOL_SIZE_MAX, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
    node = CommandNode(next(iter(watch.current.document.regions)), watch, pools, CollectorRegistry())
    credentials = Documents(topology.parent).credentials
    if credentials.exists():
        node.claims.pseudonyms = Credentials(credentials).pseudonyms
    try:
        async with pools.watched():
            yield node
    finally:
        await node.close()
        await pools.close()
