"""The program in force, as this node knows it, and how a new version comes to all shards.

Every batch reads the newest version's number with its first statement, so a node never decides by
an older program than its shard holds. What happened under an older version than the last ones has that
version read for its batch.
"""

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from command.stock import allot
from rules.program import Program, parse_program
from rules.program_check import read_document
from shard_router.pool import ShardServers
from shard_router.server import connection_to, wait_for_standby
from shard_router.statement import load_statements

APPLY_WAIT_S: Final = 10.0
"""Applying takes well under a second; who takes longer waits for a standby, and that may be long."""

VERSIONS_KNOWN: Final = 50
"""A tier period that ended under a still older version, unsettled since, is decided by the oldest of these."""
_PARSED_MAX: Final = 4 * VERSIONS_KNOWN
"""A program with thousands of stores takes a megabyte; whoever replays years of history meets old ones again."""

_STATEMENTS: Final = load_statements(Path(__file__).with_name("program.sql"))


class NoProgramError(Exception):
    """A shard without any program in force: `loyalty program apply` was never run."""


class ApplyUnderWayError(Exception):
    """Somebody else is applying a program and does not come to an end."""


class ProgramCache:
    """Parsed programs by version, each knowing the earlier ones; versions never change once applied."""

    def __init__(self) -> None:
        self._parsed: dict[int, Program] = {}
        self._programs: dict[int, Program] = {}
        self.newest: Program | None = None

    async def get(self, connection: Any, version: int | None) -> Program:
        """Look a version up, reading it from the shard when it is new; NoProgramError for None."""
        if version is None:
            raise NoProgramError("the shard holds no program: run `loyalty program apply FILE`")
        if version not in self._programs:
            history = [
                (row["effective_at"], self._parse(row["version"], row["source"]))
                for row in await connection.fetch(_STATEMENTS["find_programs"], version, VERSIONS_KNOWN)
            ]
            self._programs[version] = history[0][1].with_history(history)
        if self.newest is None or self.newest.version < version:
            self.newest = self._programs[version]
        return self._programs[version]

    async def covering(self, connection: Any, program: Program, moments: Iterable[datetime]) -> Program:
        """The program, knowing the versions in force at some instants also where those are older than the last ones."""
        older = list({moment for moment in moments if not program.knows(moment)})
        if not older:
            return program
        rows = await connection.fetch(_STATEMENTS["versions_at"], older, program.version)
        known = [(row["moment"], self._parse(row["version"], row["source"])) for row in rows]
        return program.with_history([*program.history, *known])

    async def in_force(self, connection: Any) -> Program:
        """The version that a shard has in force now."""
        return await self.get(connection, await connection.fetchval(_STATEMENTS["program_in_force"]))

    async def begin(self, connection: Any, version: int) -> None:
        """Keep a version in force that is about to decide, whichever server takes over; nothing when it has begun."""
        await connection.execute(_STATEMENTS["begin_program"], version)

    def _parse(self, version: int, source: str) -> Program:
        if version not in self._parsed:
            if len(self._parsed) >= _PARSED_MAX:
                del self._parsed[next(iter(self._parsed))]
            self._parsed[version] = parse_program(source, version)
        return self._parsed[version]


async def learn_program(servers: ShardServers, programs: ProgramCache) -> None:
    """Read the program in force; `shard_unavailable` (ProblemError), or NoProgramError when the shard has none."""
    async with servers.primary() as connection:
        await programs.in_force(connection)


async def apply_program(dsns: list[str], source: str, effective_at: datetime | None = None) -> int:
    """Make `source` the newest version on every shard (at once, or from an instant on), with its rewards' stock.

    The running version's number when it is the same text. ProgramError when the text is wrong, ApplyUnderWayError when
    somebody else is at it for long: nothing is changed then. A run cut short is completed by the next, and a shard that
    is new gets all there are. `dsns` are in the topology's order: the first shard holds the lock, and has every version
    first.
    """
    program = parse_program(source)
    async with AsyncExitStack() as stack:
        connections = [await _connect(stack, dsn) for dsn in dsns]
        await _wait_for_others(connections[0])
        found = [await connection.fetchrow(_STATEMENTS["newest_program"]) for connection in connections]
        newest = {row["version"]: row for row in found if row is not None}
        version, since = _version_of(newest[max(newest)] if newest else None, source, effective_at)
        if version not in newest:  # where all shards were restored, they may have lost a version of this number
            version = max(version, min([await one.fetchval(_STATEMENTS["incarnation"]) for one in connections]))
        await _complete(connections)
        insert = (_STATEMENTS["insert_program"], version, source, since)
        # The first shard first: should the lock be lost now, the next one sees this number taken and goes on from it.
        # And one by one: when one fails, no other is in a commit that closing its connection would cancel.
        for connection in connections:
            await connection.execute(*insert)
            await wait_for_standby(connection)
        await allot(connections, program)
    return version


async def _complete(connections: Sequence[Any]) -> None:
    """Give shards that were added the versions from before: a basket is decided by that of its instant.

    The newest alone may even be one to come. What a shard lacks behind its first version is left as it is: baskets of
    that time are decided.
    """
    held = [[number for (number,) in await one.fetch(_STATEMENTS["program_numbers"])] for one in connections]
    longest = max(range(len(held)), key=lambda place: len(held[place]))
    known, source = held[longest], connections[longest]
    for numbers, target in zip(held, connections, strict=True):
        async with target.transaction():  # cut short in between it would not look so any more
            for number in (one for one in known if not numbers or one < numbers[0]):
                row = await source.fetchrow(_STATEMENTS["program_numbered"], number)
                await target.execute(_STATEMENTS["insert_program"], *row)


async def _connect(stack: AsyncExitStack, dsn: str) -> Any:
    connection = await asyncpg.connect(dsn)
    stack.push_async_callback(connection.close)
    return connection


async def _wait_for_others(first: Any) -> None:
    try:
        await first.execute(_STATEMENTS["lock_apply"], timeout=APPLY_WAIT_S)
    except TimeoutError as error:
        raise ApplyUnderWayError(
            f"somebody else has been applying a program for more than {APPLY_WAIT_S:.0f} s; "
            "nothing was changed: try again when that is done"
        ) from error


def _version_of(top: Any, source: str, effective_at: datetime | None) -> tuple[int, datetime]:
    """The number and instant of a version: those of the newest when it is the same, else the next."""
    if top is not None and effective_at is None and _same_rules(top["source"], source):
        return top["version"], top["effective_at"]
    return (top["version"] if top else 0) + 1, effective_at or datetime.now(UTC)


def _same_rules(one: str, other: str) -> bool:
    """Comments and layout make no version."""
    return one == other or read_document(one, applied=True) == read_document(other)


async def newest_source(dsn: str) -> tuple[int, str] | None:
    """Number and text of the newest version of a shard; None when it has none."""
    async with connection_to(dsn) as connection:
        row = await connection.fetchrow(_STATEMENTS["newest_program"])
    return (row["version"], row["source"]) if row else None


async def programs_since(connection: Any, moment: datetime) -> list[Program]:
    """All versions of a shard that counted since an instant, or will; the oldest first."""
    rows = await connection.fetch(_STATEMENTS["programs_since"], moment)
    return [parse_program(row["source"], row["version"]) for row in rows]
