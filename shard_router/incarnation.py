"""Incarnations of a shard: a restore takes acknowledged entries back, and begins the next.

Entries carry the number in their versions (rules.version), so nothing that the lost future gave is ever given again. No
back-up holds a replication slot. So beside the projector's slot, on the primary and on each standby that follows it,
stands another one that nobody uses. A shard with entries and neither of the two was restored, whoever did that and
however; where that one still is, only the slot was lost, unless views show more than the server has.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog

from shard_router.statement import load_statements

_STATEMENTS: Final = load_statements(Path(__file__).with_name("incarnation.sql"))


async def ensure_incarnation(connection: Any, slot: str, shown: Callable[[], Awaitable[int]] | None = None) -> None:
    """Begin the next incarnation if this primary was restored; call before its slot is made anew.

    `shown` tells up to where in the WAL of this database its views have come, and is asked only where that decides.
    """
    found = await connection.fetchrow(_STATEMENTS["find_incarnation"], slot)
    if why := await _why_restored(connection, slot, found, shown):
        await begin_incarnation(connection, why, slot)
    elif found["number"] is None:
        await connection.execute(_STATEMENTS["first_incarnation"])


async def _why_restored(connection: Any, slot: str, found: Any, shown: Callable[[], Awaitable[int]] | None) -> str:
    """Why a shard counts as restored; empty when it provably was not."""
    if found["has_slot"] or (found["number"] is None and not found["has_entries"]):
        return ""
    if not await is_continuous(connection, slot):
        return f"the slot {slot} was not there"
    if shown is not None and await shown() > found["ends_at"]:
        return f"the slot {slot} was not there, and views show more than this server has"
    structlog.get_logger().warning("slot_lost_without_data", slot=slot)
    return ""


async def is_continuous(connection: Any, slot: str) -> bool:
    """Whether this server has been the shard's since its slot was made: nobody has put a back-up in its place."""
    return bool((await connection.fetchrow(_STATEMENTS["find_continuity"], slot))["proven"])


async def prove_continuity(connection: Any, slot: str) -> None:
    """Leave the proof on a primary that has its slot, or on a standby that follows one that has the proof.

    A server without room for it goes on without: where its slot is lost it counts as restored.
    """
    found = await connection.fetchrow(_STATEMENTS["find_continuity"], slot)
    try:
        for outdated in found["outdated"]:
            await connection.execute(_STATEMENTS["drop_continuity"], outdated)
        if found["name"] is not None and not found["proven"]:
            await connection.execute(_STATEMENTS["create_continuity"], found["name"])
    except asyncpg.DuplicateObjectError:
        return  # somebody was faster
    except asyncpg.PostgresError as error:
        structlog.get_logger().warning("continuity_not_proven", error=f"{type(error).__name__}: {error}")


async def is_unreconciled(connection: Any) -> bool:
    """Whether an incarnation was begun and what other shards hold about this one not yet brought back."""
    return bool(await connection.fetchval(_STATEMENTS["is_unreconciled"]))


async def begin_incarnation(connection: Any, why: str, slot: str) -> int:
    """Begin the next incarnation of a shard, all at once for everybody; its number.

    Whoever is at work there, or reads its changes, is cut off: what they have read before must not be written after.
    Of each stock only what is redeemed already stays here, for the other shards may hold the rest.
    """
    async with connection.transaction():
        await connection.execute(_STATEMENTS["lock_accounts"])
        await connection.execute(_STATEMENTS["cut_off_others"], slot)
        number = await connection.fetchval(_STATEMENTS["begin_incarnation"], why)
        await connection.execute(_STATEMENTS["give_up_stock"])
    structlog.get_logger().warning("incarnation_begun", number=number, why=why)
    return number
