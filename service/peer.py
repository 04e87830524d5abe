"""The other nodes as seen from here: who is asked about a member, and who is left alone until it answers again.

A slot of a region belongs to one of its nodes by the highest of hashes, so a node that comes or goes changes nobody
else's slots. Who refuses a connection, falls silent or says that it stops is away: it gets nothing but a probe, at
growing intervals, and is asked again when it answers that. When all are away, all are asked.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, TypeVar

import aiohttp
import structlog

from shard_router.ending import end

T = TypeVar("T")

SUSPECT_S: Final = 0.3
"""An answer that takes longer is a reason to ask whether its node lives; so much later again."""
PROBE_TIMEOUT_S: Final = 0.4
"""With SUSPECT_S within a second. A loop that is away for longer serves nobody well just then."""
_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 1.0
_ALIVE: Final = "/livez"


class SilentPeerError(Exception):
    """A node took a request and does not answer anything any more."""


@lru_cache(maxsize=16_384)  # every slot of a few regions
def ranked(nodes: tuple[str, ...], slot: int) -> tuple[str, ...]:
    """Nodes of a region in the order in which they serve a slot."""
    return tuple(sorted(nodes, key=lambda node: blake2b(f"{slot} {node}".encode(), digest_size=8).digest()))


class Peers:
    """The nodes that this one asks."""

    def __init__(self, client: Callable[[], aiohttp.ClientSession], listed: Callable[[], Sequence[str]]) -> None:
        """`listed` are the nodes there are now: one that is no more is forgotten."""
        self._client = client
        self._listed = listed
        self._away: dict[str, asyncio.Task[None]] = {}
        self._probes: dict[str, asyncio.Task[bool]] = {}

    def present(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """Those that are not away."""
        return tuple(node for node in nodes if node not in self._away) if self._away else tuple(nodes)

    def put_away(self, node: str, why: str) -> None:
        """Leave a node alone until it answers a probe."""
        if node not in self._away:
            structlog.get_logger().warning("node_left_alone", node=node, reason=why)
            self._away[node] = asyncio.get_running_loop().create_task(self._await_return(node))

    async def attend(self, node: str, work: Coroutine[Any, Any, T], *, suspect_s: float = SUSPECT_S) -> T:
        """Await a node's answer as long as the node lives; SilentPeerError, and it is away, when it does not.

        `suspect_s`: how long from now until it is asked whether it does.
        """
        task = asyncio.get_running_loop().create_task(work)
        try:
            while not (await asyncio.wait((task,), timeout=suspect_s))[0]:
                suspect_s = SUSPECT_S
                if not await self._answers(node) and not task.done():
                    self.put_away(node, "silent")
                    raise SilentPeerError(node)
            return task.result()
        finally:
            task.cancel()

    async def close(self) -> None:
        """Stop looking for those that are away."""
        await end(*self._away.values(), *self._probes.values())

    async def _await_return(self, node: str) -> None:
        pause_s = _PAUSE_MIN_S
        while node in self._listed():
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the askers
            if await self._answers(node):
                structlog.get_logger().info("node_answers_again", node=node)
                break
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
        del self._away[node]

    async def _answers(self, node: str) -> bool:
        """Whether a node lives and goes on; all who want to know it now share one probe."""
        if node not in self._probes:
            self._probes[node] = probe = asyncio.get_running_loop().create_task(self._probe(node))
            probe.add_done_callback(lambda _: self._probes.pop(node, None))
        return await asyncio.shield(self._probes[node])

    async def _probe(self, node: str) -> bool:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
            async with self._client().get(node + _ALIVE, timeout=timeout) as answer:
                return answer.ok and not stops(answer)
        except TimeoutError:
            # Who waited far longer than it wanted to was itself away, and knows nothing about the other.
            return loop.time() - began_at > 2 * PROBE_TIMEOUT_S
        except (aiohttp.ClientError, OSError):
            return False


def stops(answer: aiohttp.ClientResponse) -> bool:
    """Whether the node that gave an answer wants no more requests."""
    return answer.headers.get("Connection", "").lower() == "close"
