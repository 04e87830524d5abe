"""Faults of the network between tills and nodes, made by the proxies that the campaign puts between them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from benchmarks.chaos_world import World

SLOW_S: Final = 0.3
LASTS_S: Final = 4.0
BITS_BYTES: Final = 16


def weather(side: str, **what: Any) -> Callable[[World], Awaitable[None]]:
    """Weather for a while, on the way to all nodes of a side."""

    async def fault(world: World) -> None:
        for link in world.links[side]:
            link.change(**what)
        try:
            await asyncio.sleep(LASTS_S)
        finally:
            for link in world.links[side]:
                link.change()

    return fault


def refused(side: str) -> Callable[[World], Awaitable[None]]:
    """Connections are refused for a while, and those there are cut."""

    async def fault(world: World) -> None:
        for link in world.links[side]:
            await link.close()
        try:
            await asyncio.sleep(LASTS_S)
        finally:
            for link in world.links[side]:
                await link.open()

    return fault


SLOW: Final = {"delay_s": SLOW_S}
IN_BITS: Final = {"delay_s": 0.002, "bytes_at_once": BITS_BYTES}
SILENT: Final = {"is_silent": True}
ANSWERS_LOST: Final = {"loses_answers": True}
