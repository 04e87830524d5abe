"""`loyalty reconcile`: what is left to do once a shard was restored and runs again. May be run again at any time."""

from pathlib import Path

from cluster.command_node import command_node
from cluster.errors import ClusterError, in_words
from command.node import CommandNode
from command.reconcile import reconcile
from command.reconciliation import Reconciliation
from shard_router.errors import ProblemError
from shard_router.incarnation import begin_incarnation, ensure_incarnation, is_unreconciled
from shard_router.server import CDC_SLOT, SERVER_ERRORS
from shard_router.topology import TopologyDocument


async def reconcile_system(topology: Path, region: str | None) -> Reconciliation:
    """Begin an incarnation of each restored shard unless that was done, and reconcile all shards.

    A shard tells by itself that it was restored. Those of a named region count as restored, whatever they say.
    ClusterError when a shard cannot be reached; what was done until then stays done.
    """
    try:
        async with command_node(topology) as node:
            document = node.topology.current.document
            if region is not None and region not in document.regions:
                raise ClusterError(f"no region {region!r}: there are {', '.join(document.regions)}")
            for shard in document.shards:
                await _begin(node, shard, by_hand=document.shards[shard].region == region)
            return await reconcile(node)
    except (ProblemError, *SERVER_ERRORS) as error:
        raise ClusterError(
            f"not everything is reconciled: {in_words(error)}\nRun `loyalty reconcile` again."
        ) from error


async def _begin(node: CommandNode, shard: str, *, by_hand: bool) -> None:
    async with node.pools[shard].primary() as connection:
        await ensure_incarnation(connection, CDC_SLOT)
        if by_hand and not await is_unreconciled(connection):
            await begin_incarnation(connection, "`loyalty reconcile --region` said so", CDC_SLOT)


def regions_to_rebuild(document: TopologyDocument, work: Reconciliation, region: str | None) -> list[str]:
    """The regions whose views have to be looked at: those of restored shards."""
    restored = {document.shards[shard].region for shard in work.restored}
    return sorted(restored | ({region} if region else set()))


def lines_of(work: Reconciliation) -> list[str]:
    """What came of it, for people."""
    restored = ", ".join(sorted(work.restored)) or "no shard"
    lines = [f"{restored} had been restored and not reconciled"]
    done = [f"{count:,} {what}" for what, count in sorted(work.done.items()) if count]
    return [*lines, *done, *work.notes] if done else [*lines, *work.notes, "nothing had to be brought back"]
