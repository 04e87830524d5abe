"""Whose turn it is among the nodes of one side of a region, as behind a balancer with health checks.

A node that does not say within CHECK_TIMEOUT_S that it is ready, because it is gone, hangs or drains, is left out; it
is asked further, at growing intervals, and has its turn again when it answers. When none answers, all have their turn.
What is under way at a node when it falls silent waits as it would for any client.
"""

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Final

from benchmarks.wire import Client, WireError

CHECK_EVERY_S: Final = 0.4
CHECK_TIMEOUT_S: Final = 0.4
"""With CHECK_EVERY_S within a second."""
_PAUSE_MAX_S: Final = 1.0
_OK: Final = 200


class Turns:
    """Clients of the nodes of one side; the checks begin with the first turn. Used from one event loop."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._cycle = itertools.cycle(clients)
        self._away = set[Client]()
        self._checks: list[asyncio.Task[None]] = []

    @property
    def next(self) -> Client:
        """The client whose turn it is."""
        if len(self._clients) > 1 and not self._checks:
            self._checks = [asyncio.get_running_loop().create_task(self._check(client)) for client in self._clients]
        for client in itertools.islice(self._cycle, len(self._clients)):
            if client not in self._away:
                return client
        return next(self._cycle)

    @property
    def sent_again(self) -> int:
        """How many requests were (see Client)."""
        return sum(client.sent_again for client in self._clients)

    def close(self) -> None:
        """End the checks and close the connections."""
        for check in self._checks:
            check.cancel()
        for client in self._clients:
            client.close()

    async def _check(self, client: Client) -> None:
        pause_s = CHECK_EVERY_S
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.0))
            if ready := await _is_ready(client):
                self._away.discard(client)
            else:
                self._away.add(client)
            pause_s = CHECK_EVERY_S if ready else min(pause_s * 2, _PAUSE_MAX_S)


async def _is_ready(client: Client) -> bool:
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    try:
        return (await client.send(client.request("GET", "/readyz", {}), timeout_s=CHECK_TIMEOUT_S)).status == _OK
    except WireError:
        # Who waited far longer than it wanted to was itself away, and knows nothing about the node.
        return loop.time() - began_at > 2 * CHECK_TIMEOUT_S
