"""What the last clean run has seen of each member, so that the exact fold is for those who changed since.

A member's digest is over every row under the id (Postgres makes it, set-based). A row that was tampered with has
another digest, like one that was written, so it is folded again. Kept is only what was found without fault. All is
forgotten when the rules, this auditor, the programs or the shard's place change: the same rows may then mean another
thing. Who can write the file as well as the database can hide what was done there; `--all` does not look at it.
"""

import hashlib
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

import query
import rules
import service
import shard_router
import verify
from shard_router.statement import load_statements

_STATEMENTS: Final = load_statements(Path(__file__).with_suffix(".sql"))
_CODE: Final = (rules, shard_router, service, query, verify)
_READ: Final = (".py", ".sql")
_SECRET_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class Counts:
    """What members added to what was checked (a number for each check, in their order) and redeemed (by reward)."""

    checked: tuple[int, ...]
    redeemed: Mapping[str, int]


class Memory:
    """One shard's file, open for one run: `compare` the digests, fold who changed, `remember` each, then `save`."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        """`path` None: nothing is known and nothing is kept."""
        self._file = sqlite3.connect(path or ":memory:", isolation_level=None)
        for table in ("mark", "secret", "known", "fresh"):
            self._do(table)
        self._file.execute("BEGIN")
        if self._do("find_mark").fetchone() != (fingerprint,):
            for statement in ("forget_everybody", "drop_mark", "drop_secret"):
                self._do(statement)
            self._do("set_mark", fingerprint)
            self._do("set_secret", secrets.token_bytes(_SECRET_SIZE))
        (self.secret,) = self._do("find_secret").fetchone()
        (self.members,) = self._do("count_known").fetchone()

    def compare(self, digests: Iterable[tuple[int, str]]) -> None:
        """Take in some members' digests of now; a later one of a member counts."""
        self._file.executemany(_STATEMENTS["take_in"], digests)

    def changed(self) -> list[int]:
        """Who is new or not as before; who is gone, or changed, is forgotten."""
        self._do("forget_changed")
        (self.members,) = self._do("count_known").fetchone()
        return [member_id for (member_id,) in self._do("changed")]

    def unchanged(self) -> Iterator[Counts]:
        """What each of those who are as before had counted."""
        with closing(self._do("counts")) as rows:
            for (counts,) in rows:
                checked, redeemed = orjson.loads(counts)
                yield Counts(tuple(checked), redeemed)

    def __contains__(self, member_id: int) -> bool:
        """Whether somebody is known as they are now."""
        return self._do("is_known", member_id).fetchone() is not None

    def remember(self, member_id: int, counts: Counts | None) -> None:
        """Keep a member who was found without fault; with one (None), forget."""
        self._do("forget", member_id)
        if counts is not None:
            self._do("remember", orjson.dumps([counts.checked, counts.redeemed]), member_id)

    def _do(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._file.execute(_STATEMENTS[statement], values)

    def save(self) -> None:
        """Keep all of it; without this, the file stays as it was."""
        self._file.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def fingerprint(*parts: Any) -> str:
    """Of the code that checks and of what else it looks at; another one makes everything unknown."""
    digest = hashlib.sha256(repr(parts).encode())
    for package in _CODE:
        for path in sorted(Path(str(package.__file__)).parent.iterdir()):
            if path.suffix in _READ:
                digest.update(path.read_bytes())
    return digest.hexdigest()
