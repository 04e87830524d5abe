"""Rows in the order of a key, some at a time, and streams of them merged: no table is ever held.

Whatever the size of a shard, `verify` holds what is under one key and the next rows of each stream.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import orjson

from rules.document import PurchaseDocument
from rules.stored import full_purchase
from shard_router.statement import load_statements
from verify.finding import Finding
from verify.part import Part

STATEMENTS: Final = load_statements(Path(__file__).with_name("verify.sql"))
ROWS_AT_ONCE: Final = 500  # of the widest, baskets with what each line earned, some MB

Row = Any
Result = TypeVar("Result")


class Rows:
    """What a statement reads inside the caller's transaction, ordered by the columns of its key.

    `members`: only what is under these ids, for a statement that gives a `member_id`.
    """

    def __init__(self, connection: Any, statement: str, *key: str, members: list[int] | Part | None = None) -> None:
        self._connection = connection
        self._statement = STATEMENTS[statement] if members is None else of_members(statement, members)
        self._arguments: tuple[Any, ...] = arguments_of(members) if members is not None else ()
        self._key = itemgetter(*key)
        self._cursor: Any = None
        self._rows: list[Row] = []
        self._at = 0
        self._head: Any = None

    @property
    def head(self) -> Any:
        """The key of the next row; None when there is none, or `read` has not been called."""
        return self._head

    async def read(self) -> None:
        """Read the first rows."""
        await self._fetch()

    async def take(self, key: Any) -> list[Row]:
        """The next rows, as far as they have this key."""
        taken: list[Row] = []
        while self._head == key:
            taken.append(self._rows[self._at])
            self._at += 1
            if self._at < len(self._rows):
                self._head = self._key(self._rows[self._at])
            else:
                await self._fetch()
        return taken

    async def _fetch(self) -> None:
        if self._cursor is None:
            self._cursor = await self._connection.cursor(self._statement, *self._arguments)
        self._rows = await self._cursor.fetch(ROWS_AT_ONCE)
        self._at = 0
        self._head = self._key(self._rows[0]) if self._rows else None


def of_members(statement: str, members: list[int] | Part) -> str:
    """A statement that gives a `member_id`, only of these; it takes `arguments_of` them."""
    stream = f"({STATEMENTS[statement].rstrip().removesuffix(';')}) AS stream"
    name = "of_part" if isinstance(members, Part) else "of_members"
    return STATEMENTS[name].replace("FROM account AS stream", f"FROM {stream}")


def arguments_of(members: list[int] | Part) -> tuple[Any, ...]:
    """What `of_members` asks with."""
    return (members.first, members.last) if isinstance(members, Part) else (members,)


async def merged(streams: Sequence[Rows]) -> AsyncGenerator[tuple[Any, list[list[Row]]]]:
    """Key by key, ascending, what each stream has under it."""
    for stream in streams:
        await stream.read()
    while heads := [head for stream in streams if (head := stream.head) is not None]:
        key = min(heads)
        yield key, [await stream.take(key) if stream.head == key else [] for stream in streams]


def attempt(finding: Finding, name: str, work: Callable[..., Result], *arguments: Any) -> Result | None:
    """What `work` comes to; a fault and None where it cannot be done, because what is stored has another shape."""
    try:
        return work(*arguments)
    except Exception as error:  # noqa: BLE001 - a stored document may be broken in any way
        finding.fault(f"{name}: {type(error).__name__}: {error}")
        return None


def parsed_purchase(row: Row) -> PurchaseDocument:
    """The document of a purchase's row; whoever reads it must expect that it is broken."""
    return cast("PurchaseDocument", checked(full_purchase(orjson.loads(row["document"])), dict))


def parsed(text: str, shape: type[Result]) -> Result:
    """A stored document; TypeError when it has another shape."""
    return checked(orjson.loads(text), shape)


def checked(value: Any, shape: type[Result]) -> Result:
    """A value that has this shape; TypeError when it has another."""
    if not isinstance(value, shape):
        raise TypeError(f"a {shape.__name__} is expected, not a {type(value).__name__}")
    return value
