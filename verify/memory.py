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
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

import query
import rules
import service
import shard_router
import verify
from rules.value import value
from shard_router.statement import load_statements

_STATEMENTS: Final = load_statements(Path(__file__).with_suffix(".sql"))
_CODE: Final = (rules, shard_router, service, query, verify)
_READ: Final = (".py", ".sql")
_SECRET_SIZE: Final = 32
_SEEN_AT_ONCE: Final = 1_000  # as many statements in one call
_TEXTS_KEPT: Final = 4_096  # most members count the same few things


@value
class Counts:
    """What members added to what was checked (a number for each check, in their order) and redeemed (by reward)."""

    checked: tuple[int, ...]
    redeemed: Mapping[str, int]


class Memory:
    """One shard's file, open for one run: `compare` the digests, fold who changed, `remember` each, then `save`."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        """`path` None: nothing is known and nothing is kept."""
        self._file = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._seen: dict[int, bytes | None] = {}
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
        self._write_down()
        self._file.executemany(_STATEMENTS["take_in"], digests)

    def changed(self) -> list[int]:
        """Who is new or not as before; who is gone, or changed, is forgotten."""
        self._write_down()
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
        self._write_down()
        return self._do("is_known", member_id).fetchone() is not None

    def remember(self, member_id: int, counts: Counts | None) -> None:
        """Keep a member who was found without fault; with one (None), forget."""
        self._seen[member_id] = None if counts is None else _text_of(counts.checked, tuple(counts.redeemed.items()))
        if len(self._seen) == _SEEN_AT_ONCE:
            self._write_down()

    def _write_down(self) -> None:
        """Bring to the file who was looked at since; each with the digest that was compared last."""
        if not self._seen:
            return
        self._file.executemany(_STATEMENTS["forget"], [(member_id,) for member_id in self._seen])
        right = [(counts, member_id) for member_id, counts in self._seen.items() if counts is not None]
        self._file.executemany(_STATEMENTS["remember"], right)
        self._seen.clear()

    def _do(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._file.execute(_STATEMENTS[statement], values)

    def save(self) -> None:
        """Keep all of it; without this, the file stays as it was."""
        self._write_down()
        self._file.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@lru_cache(_TEXTS_KEPT)
def _text_of(checked: tuple[int, ...], redeemed: tuple[tuple[str, int], ...]) -> bytes:
    return orjson.dumps([checked, dict(redeemed)])


def fingerprint(*parts: Any) -> str:
    """Of the code that checks and of what else it looks at; another one makes everything unknown."""
    digest = hashlib.sha256(repr(parts).encode())
    for package in _CODE:
        for path in sorted(Path(str(package.__file__)).parent.iterdir()):
            if path.suffix in _READ:
                digest.update(path.read_bytes())
    return digest.hexdigest()
