"""Work that never ends: a look at every shard of a region each second, less often while one of them is in trouble."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, ClassVar, Final, TypeVar

import structlog

from command.node import CommandNode
from shard_router.errors import ProblemError

Result = TypeVar("Result")

INTERVAL_S: Final = 1.0
DEADLINE_S: Final = 5.0
_BACKOFF_MAX_S: Final = 30.0


class Rounds(ABC):
    """`kick` makes it look at once instead of at the next second."""

    name: ClassVar[str]
    """As logs call it."""

    def __init__(self, node: CommandNode) -> None:
        self._node = node
        self._kicked = asyncio.Event()

    def kick(self) -> None:
        """Look now."""
        self._kicked.set()

    async def run_for_ever(self) -> None:
        """Do what is due, each second and at every kick."""
        wait_s = INTERVAL_S
        while True:
            try:
                async with asyncio.timeout(wait_s * random.uniform(0.8, 1.2)):  # noqa: S311 - spreads nodes
                    await self._kicked.wait()
            except TimeoutError:
                pass
            self._kicked.clear()
            results = await asyncio.gather(*(self._visit(shard) for shard in self._node.shards()))
            wait_s = INTERVAL_S if all(results) else min(wait_s * 2, _BACKOFF_MAX_S)

    @abstractmethod
    async def work_through(self, shard: str) -> None:
        """Do all that is due at a shard; ProblemError where it must wait."""

    async def _visit(self, shard: str) -> bool:
        try:
            await self.work_through(shard)
        except ProblemError as error:
            structlog.get_logger().warning(f"{self.name}_waits", shard=shard, reason=error.detail)
            return False
        except Exception:  # noqa: BLE001 - it must outlive any one fault
            structlog.get_logger().exception(f"{self.name}_failed", shard=shard)
            return False
        return True

    @staticmethod
    def _deadline() -> float:
        return time.monotonic() + DEADLINE_S

    async def _in_time(self, work: Coroutine[Any, Any, Result], what: str) -> Result:
        """Do it within the deadline: a shard that waits for its standby must not hold up the others."""
        return await self._node.detached.wait(work, deadline=self._deadline(), what=what)
