"""Work that takes long lets others have their turn: a batch is decided in pieces of a few milliseconds.

Whoever is refused, and whoever's answer is ready, waits for a turn of the event loop. A batch of 64 baskets takes some
15 ms of CPU in one go, and twice that beside busy neighbours.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

TURN_S: Final = 0.004
"""A fifth of what a refusal may take; a turn of the loop that finds nothing to do costs some 10 us."""


async def each(
    do: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    turn_s: float = TURN_S,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """What `do` gives for each item, in order; whenever `turn_s` has passed, the event loop goes on in between."""
    results: list[Result] = []
    until = clock() + turn_s
    for item in items:
        if clock() >= until:
            await asyncio.sleep(0)
            until = clock() + turn_s
        results.append(do(item))
    return results
