"""Faults of the network between tills and nodes, and between servers, made by proxies that the campaign puts there."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from benchmarks.chaos_proxy import Proxy
from benchmarks.chaos_world import STATEMENTS, World

SLOW_S: Final = 0.3
LASTS_S: Final = 4.0
BITS_BYTES: Final = 16
PORT: Final = re.compile(r"\bport=(\d+)")


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


def between_servers(**what: Any) -> Callable[[World], Awaitable[None]]:
    """Weather for a while between the primary and a standby, which is told to come by a proxy."""

    async def fault(world: World) -> None:
        name = await world.server(standby=True)
        async with world.session(world.port(name), "postgres") as standby:
            told = str(await standby.fetchval("SHOW primary_conninfo"))
            link = Proxy(int(PORT.search(told)[1]))  # pyright: ignore[reportOptionalSubscript]
            link.change(**what)
            await link.open()
            try:
                by_proxy = PORT.sub(f"port={link.port}", told)
                await standby.execute(f"ALTER SYSTEM SET primary_conninfo = '{by_proxy}'")
                await standby.execute(STATEMENTS["reload"])
                await asyncio.sleep(LASTS_S)
            finally:
                await standby.execute("ALTER SYSTEM RESET primary_conninfo")
                await standby.execute(STATEMENTS["reload"])
                await link.close()

    return fault


SLOW: Final = {"delay_s": SLOW_S}
FAR: Final = {"delay_s": 0.05}
"""As to another continent."""
IN_BITS: Final = {"delay_s": 0.002, "bytes_at_once": BITS_BYTES}
SILENT: Final = {"is_silent": True}
ANSWERS_LOST: Final = {"loses_answers": True}
