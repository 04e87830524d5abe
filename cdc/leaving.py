"""Lets go of a primary that shuts down, or that another server has overtaken.

A server that shuts down ends its clients first and then waits for its walsenders, until each client has confirmed all
there is. A projector confirms what is in Valkey, so never the WAL after the last commit: the server would wait for it
until somebody kills it. One that is frozen says nothing at all while another takes its place. To leave costs nothing:
what was not confirmed comes again, from whoever is the primary then.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

import asyncpg

from cdc.slot import connect, find_primary
from shard_router.errors import LoyaltyError
from shard_router.server import SERVER_ERRORS

PAUSE_S: Final = 0.5  # between two connections that are ended, one after the other
LOOK_EVERY_S: Final = 1.0


class PrimaryLeaves(LoyaltyError):  # noqa: N818 - it tells what happens
    """The primary ended our connection and takes no other, or another server is the primary now."""


async def leave_with(
    connection: asyncpg.Connection, dsn: str, timeline: int, primary: Callable[[], tuple[int, str]]
) -> NoReturn:
    """PrimaryLeaves as soon as the primary on this timeline goes; `connection` is one to it, and is used up.

    `primary` tells who was seen last, and on which timeline. A connection that was ended alone is replaced.
    """
    try:
        while True:
            ended = await _ended(connection)
            seen, other = primary()
            if seen > timeline and other != dsn:
                raise PrimaryLeaves("another server is the primary now")
            if not ended:
                continue
            if await find_primary([dsn]) is None:
                raise PrimaryLeaves("the primary shuts down, or is gone")
            await asyncio.sleep(PAUSE_S)
            with suppress(*SERVER_ERRORS):
                connection = await connect(dsn)
    finally:
        connection.terminate()


async def _ended(connection: asyncpg.Connection) -> bool:
    """Whether a connection is no more, at once or in a moment."""
    ended = asyncio.Event()

    def tell(_: Any) -> None:
        ended.set()

    connection.add_termination_listener(tell)
    try:
        if not connection.is_closed():
            async with asyncio.timeout(LOOK_EVERY_S):
                await ended.wait()
    except TimeoutError:
        return False
    else:
        return True
    finally:
        connection.remove_termination_listener(tell)
