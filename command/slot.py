"""Slots that a shard has given to another: no enrolment ends there any more, whatever topology its node goes by.

An enrolment takes a shared lock, then looks whether its slot was given, then writes; who gives slots takes the lock
alone, sees that nobody lives in them, and writes that they are given. So of the two one is first: either the member
is seen, or the enrolment learns that its slot has gone, and has done nothing. Its refusals are kept under the lock
too: the same key finds them where the slot is then.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shard_router.errors import SlotGivenError
from shard_router.pool import Connection
from shard_router.server import wait_for_standby
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("slot.sql"))
REFUSALS_AT_ONCE: Final = 1_000
NOBODY: Final = "-"
"""Who is given the slots of a shard whose region goes (no shard has this name)."""


async def enter_slots(connection: Connection, slots: Iterable[int]) -> None:
    """In a transaction, before it writes enrolments of these slots; SlotGivenError when one is not here any more."""
    await connection.execute(STATEMENTS["enter_slots"])
    given = await connection.fetch(STATEMENTS["given_slots"], sorted(set(slots)))
    if given:
        raise SlotGivenError(f"slot {given[0]['slot']} belongs to {given[0]['receiver']} now; nothing was done")


async def empty_slots(connection: Connection, region_number: int, slots: Iterable[int]) -> list[int]:
    """Which of some slots of a region nobody ever lived in, as far as this shard knows just now."""
    rows = await connection.fetch(STATEMENTS["empty_slots"], region_number, sorted(slots))
    return [row["slot"] for row in rows]


@asynccontextmanager
async def _closed(connection: Connection, lock_timeout_ms: int) -> AsyncGenerator[None]:
    """A transaction in which nobody is enrolled; asyncpg.LockNotAvailableError when enrolments do not end in time."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {lock_timeout_ms:d}")
        await connection.execute(STATEMENTS["close_slots"])
        yield
        await wait_for_standby(connection)


async def give_slots(
    connection: Connection, region_number: int, wanted: Iterable[int], *, receiver: str, lock_timeout_ms: int
) -> list[int]:
    """Give those of some slots to a shard that are empty; all that it has been given by now, also by an earlier call.

    asyncpg.LockNotAvailableError when enrolments do not end in time; nothing was given then.
    """
    async with _closed(connection, lock_timeout_ms):
        empty = await empty_slots(connection, region_number, wanted)
        await connection.execute(STATEMENTS["give_slots"], empty, receiver)
    return await given_to(connection, receiver)


@dataclass(frozen=True, slots=True)
class SlotsBack:
    """Gives the slots of a shard that is to go back to another of its region, all of them or none.

    Each step may be done twice: cut short, it is gone on with from what the two shards say.
    """

    giver: tuple[str, Connection]
    receiver: tuple[str, Connection]
    region_number: int
    lock_timeout_ms: int

    async def give(self, has: Iterable[int], switch: Callable[[set[int]], Awaitable[None]]) -> list[int]:
        """Give slots that the topology says the giver has; those in which somebody lives, and then none was given.

        `switch` has the topology say that they are the receiver's, and returns when every node knows: only then does
        the receiver take anybody in them. asyncpg.LockNotAvailableError as in `give_slots`.
        """
        (giver, giving), (_, receiving) = self.giver, self.receiver
        slots = {*has, *await given_to(receiving, giver)}
        await receiving.execute(STATEMENTS["close_given"], sorted(slots), giver)
        if taken := await give_all(
            giving, self.region_number, slots, receiver=self.receiver[0], lock_timeout_ms=self.lock_timeout_ms
        ):
            return taken
        await take_refusals(giving, receiving, self.region_number, sorted(slots))
        await switch(slots)
        await open_slots(receiving, slots)
        return []


async def give_all(
    connection: Connection, region_number: int, slots: set[int], *, receiver: str, lock_timeout_ms: int
) -> list[int]:
    """Give slots to a shard; those in which somebody lives, and then none is given. May be done twice.

    asyncpg.LockNotAvailableError when enrolments do not end in time; nothing was given then.
    """
    async with _closed(connection, lock_timeout_ms):
        missing = slots - set(await given_to(connection, receiver))
        empty = await empty_slots(connection, region_number, missing)
        if taken := sorted(missing - set(empty)):
            return taken
        await connection.execute(STATEMENTS["give_slots"], empty, receiver)
    return []


async def open_slots(connection: Connection, slots: Iterable[int]) -> None:
    """Have a shard take members in slots that it had given away: the topology says they are its own."""
    await connection.execute(STATEMENTS["open_slots"], sorted(slots))
    await wait_for_standby(connection)


async def given_to(connection: Connection, receiver: str) -> list[int]:
    """The slots that a shard was given."""
    return [row["slot"] for row in await connection.fetch(STATEMENTS["slots_given_to"], receiver)]


async def take_refusals(giver: Connection, receiver: Connection, region_number: int, slots: list[int]) -> int:
    """Have the receiver know each "no" to an enrolment in its slots, as often as one likes; how many there are."""
    count, after = 0, ""
    while rows := await giver.fetch(STATEMENTS["refusals_in_slots"], region_number, slots, after, REFUSALS_AT_ONCE):
        columns: list[list[Any]] = [list(column) for column in zip(*(tuple(row) for row in rows), strict=True)]
        await receiver.execute(STATEMENTS["take_refusals"], *columns)
        count, after = count + len(rows), rows[-1]["key"]
    await wait_for_standby(receiver)
    return count
