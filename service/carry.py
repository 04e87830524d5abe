"""A request that another node has on a link: handed on without a task, until it is answered or something is wrong."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from service.bulkhead import Crossing
from service.link import Link, LinkError
from service.trial import NodeAnswer, Trial

Outcome = NodeAnswer | Exception | None
"""What comes of it: an answer, the problem that no answer means, or None: no node gave one, and this one is to."""


@dataclass(slots=True, eq=False)
class Carried:
    """The request, the node that has it, the others to ask in turn, and who is told what comes of it."""

    trial: Trial
    node: str
    others: Iterator[str]
    crossing: Crossing
    link: Link
    done: Callable[[Outcome], None]
    rest: "asyncio.Future[NodeAnswer] | None" = None
    """What is still awaited of the link, once somebody does."""

    def wait(self) -> None:
        """Have the rest awaited. Who gives up waiting ends the connection."""
        self.rest = asyncio.get_running_loop().create_future()
        self.rest.add_done_callback(self._left)

    def give(self, came: NodeAnswer | LinkError | None) -> None:
        """Hand over what came to whoever awaits it."""
        if self.rest is None or self.rest.done():
            return
        if isinstance(came, LinkError):
            self.rest.set_exception(came)
        elif came is not None:
            self.rest.set_result(came)

    def _left(self, rest: "asyncio.Future[NodeAnswer]") -> None:
        if rest.cancelled():
            self.link.abort()


async def in_time(rest: "asyncio.Future[NodeAnswer]", wait_s: float) -> NodeAnswer:
    """The rest; TimeoutError when it takes longer."""
    async with asyncio.timeout(wait_s):
        return await rest
