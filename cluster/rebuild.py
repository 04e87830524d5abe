"""Asks the projectors of a running system to rebuild their views, and waits until they have."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from cluster.document import Documents
from cluster.errors import ClusterError, in_words
from cluster.key import read_keys
from cluster.running import running_topology

HTTP_TIMEOUT_S = 10.0
POLL_S = 0.2
SILENCE_S = 60.0  # a projector that restarts meanwhile answers again within this time


class Rebuilt(NamedTuple):
    """A shard whose views were rebuilt; `refill_s` from the first view written to the last one."""

    shard: str
    members: int
    took_s: float
    refill_s: float

    def __str__(self) -> str:
        """In words."""
        return f"{self.shard}: rebuilt, {self.members:,} members in {self.took_s:.1f} s"


async def rebuild(data: Path, region: str | None, *, duty: float | None = None) -> AsyncGenerator[Rebuilt]:
    """Rebuild the views of one region or all; tells shard by shard that it is done.

    At another duty than the projectors' own where one is given. ClusterError when nothing runs there, and for a
    projector that does not answer.
    """
    documents = Documents(data)
    topology = await running_topology(documents.topology)
    if region is not None and region not in topology.regions:
        raise ClusterError(f"no region {region!r}: there are {', '.join(topology.regions)}")
    chosen = {name: s.cdc for name, s in topology.shards.items() if s.cdc and region in {None, s.region}}
    headers = {"Authorization": f"Bearer {read_keys(documents)['admin']}"}
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        work = [asyncio.create_task(_rebuild(session, name, url, duty)) for name, url in chosen.items()]
        try:
            for one in work:
                yield await one
        finally:
            for one in work:
                one.cancel()


async def _rebuild(session: aiohttp.ClientSession, shard: str, url: str, duty: float | None = None) -> Rebuilt:
    began_at = asyncio.get_running_loop().time()
    order_url = f"{url}/rebuild" if duty is None else f"{url}/rebuild?duty={duty:g}"
    epoch, order = await _ask(session, order_url)
    while True:
        await asyncio.sleep(POLL_S)
        now = await _patiently(session, "GET", f"{url}/status")
        state = now["rebuild"]
        if now["epoch"] != epoch:  # of one that was started anew, which knows nothing of the order
            epoch, order = await _ask(session, order_url)
        elif state["served"] >= order:
            took_s = asyncio.get_running_loop().time() - began_at
            return Rebuilt(shard, state["members_done"], took_s, state["refill_s"])


async def _ask(session: aiohttp.ClientSession, url: str) -> tuple[int, int]:
    """Order a rebuild: the epoch of the projector that was asked, and the number of the order.

    One that is under way may have passed what has changed since: the one asked for follows it.
    """
    asked = await _patiently(session, "POST", url)
    return asked["epoch"], asked["rebuild"]["asked"]


async def _patiently(session: aiohttp.ClientSession, method: str, url: str) -> Any:
    """Its answer, once it answers: it may just be starting."""
    until = asyncio.get_running_loop().time() + SILENCE_S
    while True:
        try:
            async with session.request(method, url) as answer:
                if answer.ok:
                    return await answer.json()
                raise ClusterError(f"the projector at {url} answered {answer.status}: {(await answer.text()).strip()}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if asyncio.get_running_loop().time() > until:
                raise ClusterError(f"the projector at {url} does not answer: {in_words(error)}") from error
            await asyncio.sleep(POLL_S)
