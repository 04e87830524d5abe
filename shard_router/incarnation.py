"""Incarnations of a shard: a restore takes acknowledged entries back, and begins the next.

Entries carry the number in their versions (rules.version), so nothing that the lost future gave is ever given again. No
back-up holds a replication slot: a shard with entries and without its slot was restored, whoever did that and however.
A slot that was only lost looks the same; an incarnation too many costs views that would be rebuilt anyway.
"""

from pathlib import Path
from typing import Any, Final

import structlog

from shard_router.statement import load_statements

_STATEMENTS: Final = load_statements(Path(__file__).with_name("incarnation.sql"))


async def ensure_incarnation(connection: Any, slot: str) -> None:
    """Begin the next incarnation if this primary was restored; call before its slot is made anew."""
    found = await connection.fetchrow(_STATEMENTS["find_incarnation"], slot)
    if found["number"] is None and (found["has_slot"] or not found["has_entries"]):
        await connection.execute(_STATEMENTS["first_incarnation"])
    elif not found["has_slot"]:
        await begin_incarnation(connection, f"the slot {slot} was not there", slot)


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
