"""The program in force, as this node knows it, and how a new version comes to all shards.

Every batch reads the newest version's number with its first statement, so a node never decides by
an older program than its shard holds.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg

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


async def apply_program(dsns: list[str], source: str) -> int:
    """Make `source` the newest version on every shard; the running version when it is the same text.

    ProgramError when the text is wrong: nothing is changed then. A run cut short is completed by the next.
    """
    parse_program(source)
    connections = [await asyncpg.connect(dsn) for dsn in dsns]
    try:
        newest = [await connection.fetchrow(_STATEMENTS["newest_program"]) for connection in connections]
        versions = [row["version"] for row in newest if row]
        top = max(versions, default=0)
        top_source = next((row["source"] for row in newest if row and row["version"] == top), None)
        version = top if top_source == source else top + 1
        await asyncio.gather(
            *(connection.execute(_STATEMENTS["insert_program"], version, source) for connection in connections)
        )
    finally:
        for connection in connections:
            await connection.close()
    return version
