"""The program in force, as this node knows it, and how a new version comes to all shards.

Every batch reads the newest version's number with its first statement, so a node never decides by
an older program than its shard holds.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from command.stock import allot
from rules.program import Program, parse_program
from shard_router.pool import ShardServers
from shard_router.statement import load_statements

_STATEMENTS: Final = load_statements(Path(__file__).with_name("program.sql"))


class NoProgramError(Exception):
    """A shard without any program: `loyalty program apply` was never run."""


class ProgramCache:
    """Parsed programs by version; versions never change once applied."""

    def __init__(self) -> None:
        self._programs: dict[int, Program] = {}
        self.newest: Program | None = None

    async def get(self, connection: Any, version: int | None) -> Program:
        """Look a version up, reading it from the shard when it is new; NoProgramError for None."""
        if version is None:
            raise NoProgramError("the shard holds no program: run `loyalty program apply FILE`")
        if version not in self._programs:
            source = await connection.fetchval(_STATEMENTS["find_program"], version)
            self._programs[version] = parse_program(source, version)
        if self.newest is None or self.newest.version < version:
            self.newest = self._programs[version]
        return self._programs[version]


async def learn_program(servers: ShardServers, programs: ProgramCache) -> None:
    """Read the newest program of a shard; `shard_unavailable` (ProblemError) or NoProgramError when there is none."""
    async with servers.primary() as connection:
        row = await connection.fetchrow(_STATEMENTS["newest_program"])
        await programs.get(connection, row["version"] if row else None)


async def apply_program(dsns: list[str], source: str, effective_at: datetime | None = None) -> int:
    """Make `source` the newest version on every shard (at once, or from an instant on), with its rewards' stock.

    The running version's number when it is the same text. ProgramError when the text is wrong: nothing is changed
    then. A run cut short is completed by the next.
    """
    program = parse_program(source)
    connections = [await asyncpg.connect(dsn) for dsn in dsns]
    try:
        found = [await connection.fetchrow(_STATEMENTS["newest_program"]) for connection in connections]
        newest = {row["version"]: row for row in found if row is not None}
        version, since = _version_of(newest[max(newest)] if newest else None, source, effective_at)
        await asyncio.gather(
            *(connection.execute(_STATEMENTS["insert_program"], version, source, since) for connection in connections)
        )
        await allot(connections, program)
    finally:
        for connection in connections:
            await connection.close()
    return version


def _version_of(top: Any, source: str, effective_at: datetime | None) -> tuple[int, datetime]:
    """The number and instant of a version: those of the newest when it is the same, else the next."""
    if top is not None and effective_at is None and _same_rules(top["source"], source):
        return top["version"], top["effective_at"]
    return (top["version"] if top else 0) + 1, effective_at or datetime.now(UTC)


def _same_rules(one: str, other: str) -> bool:
    """Comments and layout make no version."""
    return one == other or parse_program(one).document == parse_program(other).document


async def newest_source(dsn: str) -> tuple[int, str] | None:
    """Number and text of the newest version of a shard; None when it has none."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(_STATEMENTS["newest_program"])
    finally:
        await connection.close()
    return (row["version"], row["source"]) if row else None
