"""The program of a running system: what its shards hold, what a file would change, and applying it to all of them.

All shards hold the same versions; one that misses some was out of reach while an apply was cut short, and applying
the file again completes it.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import asyncpg

from cdc.slot import find_primary
from cluster.errors import ClusterError, in_words
from cluster.login import CONNECT_TIMEOUT_S
from cluster.postgres import STATEMENTS
from cluster.running import running_topology
from cluster.setup import with_password
from cluster.version import Numbered
from command.program import ApplyUnderWayError, apply_program
from rules.program import Program, ProgramError, parse_program
from rules.program_compare import compare_programs
from shard_router.server import SERVER_ERRORS

_HEADER: Final = re.compile(r"\A(# (program )?version \d+(, | is )in force (since|from) .*\n)+")
"""What `program show` once wrote above the text, and files made of it still begin with: no part of a program."""
PASSWORD_VARIABLE: Final = "LOYALTY_POSTGRES_PASSWORD"  # noqa: S105 - its name


@dataclass(frozen=True, slots=True)
class Version(Numbered):
    """One version of the program as applied."""

    source: str


@dataclass(frozen=True, slots=True)
class Shards:
    """The primaries of a system and the versions they hold: the running one and those to come, by number."""

    urls: dict[str, str]
    versions: dict[int, Version]
    behind: tuple[str, ...]

    @property
    def running(self) -> Version | None:
        """The version in force; None when there is none yet."""
        return next((version for version in self.versions.values() if version.running), None)

    @property
    def to_come(self) -> list[Version]:
        """Versions in force later."""
        return [version for version in self.versions.values() if not version.running]

    def overtaken(self, at: datetime | None) -> list[Version]:
        """Versions to come that a new one of an instant (None: now) keeps from ever starting."""
        return [version for version in self.to_come if at is None or version.effective_at >= at]


def read_file(path: Path) -> tuple[str, Program]:
    """Text and program of a file; ClusterError names every line that is wrong."""
    try:
        source = _HEADER.sub("", path.read_text(encoding="utf-8"))
        return source, parse_program(source)
    except ProgramError as error:
        raise ClusterError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path}: {in_words(error)}") from error


async def look_at(topology: Path) -> Shards:
    """What the shards of a topology document hold; ClusterError when one has no primary that answers."""
    document = with_password(await running_topology(topology), os.environ.get(PASSWORD_VARIABLE))
    names = list(document.shards)
    found = await asyncio.gather(*(find_primary(document.shards[name].servers) for name in names))
    unreachable = [name for name, url in zip(names, found, strict=True) if url is None]
    if unreachable:
        raise ClusterError(f"{', '.join(unreachable)}: no Postgres server takes writes")
    urls = {name: url for name, url in zip(names, found, strict=True) if url is not None}
    held = dict(zip(names, await asyncio.gather(*(_versions(url) for url in urls.values())), strict=True))
    versions = {number: one for shard in held.values() for number, one in shard.items()}
    newest = max((number for number, one in versions.items() if one.running), default=0)
    versions = {number: versions[number] for number in sorted(versions) if number >= newest}
    behind = tuple(name for name in names if not versions.keys() <= held[name].keys())
    return Shards(urls, versions, behind)


async def check_store(topology: Path, store: str) -> None:
    """ClusterError when no version of the program, in force or to come, has a store."""
    shards = await look_at(topology)
    programs = [parse_program(version.source, version.number) for version in shards.versions.values()]
    known = sorted({code for program in programs for code in program.stores})
    if store not in known:
        near = get_close_matches(store, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "add it under [[stores]] first"
        raise ClusterError(f"the program has no store {store!r}: {hint}")


async def _versions(url: str) -> dict[int, Version]:
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            rows = await connection.fetch(STATEMENTS["programs"])
        finally:
            await connection.close()
    except SERVER_ERRORS as error:
        raise ClusterError(f"{url.rpartition('@')[2]}: {in_words(error)}") from error
    return {row["version"]: Version(*row) for row in rows}


def changes(running: Version | None, new: Program) -> Sequence[str]:
    """What a program would change against the running one, a line each."""
    return compare_programs(parse_program(running.source, running.number) if running else None, new)


async def apply_everywhere(shards: Shards, source: str, at: datetime | None) -> int:
    """Make a text the newest version on every shard.

    ClusterError when that was cut short (apply it again then), or while somebody else is applying.
    """
    if at is None and any(version.source == source for version in shards.to_come):
        at = datetime.now(UTC)  # wanted earlier than it was planned
    try:
        return await apply_program(list(shards.urls.values()), source, at)
    except ApplyUnderWayError as error:
        raise ClusterError(str(error)) from error
    except SERVER_ERRORS as error:
        raise ClusterError(f"not every shard has it yet ({in_words(error)}): apply it again") from error
