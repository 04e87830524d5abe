"""Waits until every node has a topology in force: who goes by an older one may still do what nobody looks for there."""

import asyncio
import time
from typing import Final

from cluster.errors import ClusterError
from cluster.figure import read_figure
from service.health import EPOCH_METRIC
from shard_router.topology import TopologyDocument

DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.2
_HTTP_TIMEOUT_S: Final = 2.0


async def everybody_knows(topology: TopologyDocument) -> None:
    """Return when every node of a topology has its epoch or a later one; ClusterError names who has not."""
    urls = [url for region in topology.regions.values() for url in (*region.command, *region.query)]
    urls += [shard.cdc for shard in topology.shards.values() if shard.cdc]
    until = time.monotonic() + DEADLINE_S
    while behind := await _behind(urls, topology.epoch):
        if time.monotonic() > until:
            raise ClusterError(f"{', '.join(behind)} did not take epoch {topology.epoch} in {DEADLINE_S:.0f} s")
        await asyncio.sleep(_POLL_S)


async def _behind(urls: list[str], epoch: int) -> list[str]:
    epochs = await asyncio.gather(*(read_figure(url, EPOCH_METRIC, timeout_s=_HTTP_TIMEOUT_S) for url in urls))
    return [url for url, known in zip(urls, epochs, strict=True) if known is None or known < epoch]
