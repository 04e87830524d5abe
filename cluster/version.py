"""The versions of the program that a server holds: the one in force and those to come, without their texts."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from cluster.postgres import STATEMENTS
from rules.codec import instant_text


@dataclass(frozen=True, slots=True)
class Numbered:
    """One version of the program."""

    number: int
    effective_at: datetime
    running: bool

    @property
    def instant(self) -> str:
        """From when it counts: RFC 3339."""
        return instant_text(self.effective_at.replace(microsecond=0))

    @property
    def since(self) -> str:
        """From when it counts, in words."""
        return f"in force since {self.instant}" if self.running else f"in force from {self.instant} on"


async def read_versions(server: asyncpg.Connection) -> list[Numbered]:
    """The version in force and those to come, by number; empty where there is none."""
    return [Numbered(*row) for row in await server.fetch(STATEMENTS["program_versions"])]
