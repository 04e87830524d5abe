"""Whether a process answers at all, asked again and again; used from one event loop.

Each question goes its own way, whether or not earlier ones were answered: one that is lost says nothing.
"""

import asyncio

from cluster.process import Probe

NO_ANSWER = "no answer"


class Questions:
    """Those that are under way, in order."""

    def __init__(self) -> None:
        self._asked: list[asyncio.Task[str | None]] = []
        self.last_words = NO_ANSWER
        """What the last one met that was not answered well."""

    def ask(self, alive: Probe) -> None:
        """Begin one more."""

        async def question() -> str | None:
            return await alive()

        self._asked.append(asyncio.create_task(question()))

    def take_answer(self) -> bool:
        """Whether one was answered well since the last look; then those asked before it are given up."""
        under_way: list[asyncio.Task[str | None]] = []
        answered = False
        for one in self._asked:
            if not one.done():
                under_way.append(one)
            elif (words := one.result()) is not None:
                self.last_words = words
            else:
                _give_up(under_way)
                answered, under_way, self.last_words = True, [], NO_ANSWER
        self._asked = under_way
        return answered

    def forget(self) -> None:
        """Give up all of them."""
        _give_up(self._asked)
        self._asked, self.last_words = [], NO_ANSWER


def _give_up(asked: list[asyncio.Task[str | None]]) -> None:
    for one in asked:
        one.cancel()
