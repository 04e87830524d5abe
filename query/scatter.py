"""A question that every shard is asked, of which one answer is enough: who knows is believed, whoever is silent.

The shards of the own region come first. Those of the others are asked when none of these knows, or one takes long: a
shard that is silent must not keep what another one knows.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 0.25
"""How long the own region's shards are waited for before the others are asked too: they answer in milliseconds."""


class Scatter(Generic[T]):
    """Questions under way; what is not needed any more is cancelled at the end of the block."""

    def __init__(self) -> None:
        self._asked = set[asyncio.Task[T | None]]()
        self.failures: list[Exception] = []
        """Of those that could not be asked."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for one in self._asked:
            one.cancel()

    def ask(self, questions: Iterable[Awaitable[T | None]]) -> None:
        """Ask more."""
        self._asked |= {asyncio.ensure_future(self._noted(one)) for one in questions}

    async def first(self, *, within_s: float | None = None) -> T | None:
        """The first answer there is; None when nobody has one, or not in time: the question goes on."""
        until = None if within_s is None else asyncio.get_running_loop().time() + within_s
        while self._asked:
            left_s = None if until is None else until - asyncio.get_running_loop().time()
            done, self._asked = await asyncio.wait(self._asked, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return None
            for one in done:
                if (answer := one.result()) is not None:
                    return answer
        return None

    async def _noted(self, question: Awaitable[T | None]) -> T | None:
        try:
            return await question
        except Exception as error:  # noqa: BLE001 - whatever it is: another shard may know
            self.failures.append(error)
            return None


async def first_of(questions: Iterable[Awaitable[T | None]]) -> T | None:
    """The first answer of several; None when nobody has one. What kept somebody from answering is raised then."""
    async with Scatter[T]() as scatter:
        scatter.ask(questions)
        found = await scatter.first()
        if found is None and scatter.failures:
            raise scatter.failures[0]
        return found
