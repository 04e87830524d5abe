"""Lets go of a primary that shuts down.

A server that shuts down ends its clients first and then waits for its walsenders, until each client has confirmed all
there is. A projector confirms what is in Valkey, so never the WAL after the last commit: the server would wait for it
until somebody kills it. To leave costs nothing: what was not confirmed comes again, from whoever is the primary then.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final, NoReturn

import asyncpg

from cdc.slot import connect, find_primary
from shard_router.errors import LoyaltyError

PAUSE_S: Final = 0.5  # between two connections that are ended, one after the other


class PrimaryLeaves(LoyaltyError):  # noqa: N818 - it tells what happens
    """The primary ended our connection and takes no other: it shuts down, or is gone."""


async def leave_with(connection: asyncpg.Connection, dsn: str) -> NoReturn:
    """PrimaryLeaves as soon as the primary goes; `connection` is one to it, and is used up.

    One that was ended alone, by an operator or on the way, is replaced.
    """
    try:
        while True:
            await _ended(connection)
            if await find_primary([dsn]) is None:
                raise PrimaryLeaves("the primary shuts down, or is gone")
            await asyncio.sleep(PAUSE_S)
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await connect(dsn)
    finally:
        connection.terminate()


async def _ended(connection: asyncpg.Connection) -> None:
    """Return when a connection is no more."""
    ended = asyncio.Event()

    def tell(_: Any) -> None:
        ended.set()

    connection.add_termination_listener(tell)
    try:
        if not connection.is_closed():
            await ended.wait()
    finally:
        connection.remove_termination_listener(tell)
