"""What Valkey shows of each member as one number, so that views are held against rows only where either has changed.

Views are read once, in the order in which Valkey tells them, and each adds its hash to the number of the member it is
of: so one that is missing, changed or too many shows. Hashes are keyed with a secret of the file that keeps the numbers
(memory.py): who cannot read it cannot make up other views of the same sum.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from query.valkey import ValkeyConnection, Words
from query.views import HEADER_SIZE
from shard_router.member_id import parse_member_id

KEYS_AT_ONCE: Final = 1_000
_SIZE: Final = 16
_HALF: Final = 2**64 - 1
_ID_MAX: Final = 2**63 - 1


class Hashes:
    """One view as a number."""

    def __init__(self, secret: bytes) -> None:
        self._keyed = hashlib.blake2b(digest_size=_SIZE, key=secret)

    def of_view(self, key: bytes, value: bytes) -> int:
        """Of a stored value. Whatever position an identifier is of, its view says the same."""
        if key.startswith(b"i:") and len(value) > HEADER_SIZE and value[:HEADER_SIZE].isdigit():
            value = value[HEADER_SIZE:]
        return self._of(b"%d:%b%b" % (len(key), key, value))

    def of_items(self, key: bytes, items: Sequence[tuple[bytes, float]]) -> int:
        """Of a list of entries with their versions."""
        sizes = repr([(float(version), len(item)) for item, version in items]).encode()
        return self._of(b"%d:%b%b%b" % (len(key), key, sizes, b"".join([item for item, _ in items])))

    def _of(self, content: bytes) -> int:
        one = self._keyed.copy()
        one.update(content)
        return int.from_bytes(one.digest(), "big")


@dataclass(slots=True)
class Sums:
    """Of each member, 40 bytes each: the digest of their rows, and the sum of what is shown of them."""

    _ids: "array[int]" = field(default_factory=lambda: array("q"))
    _rows: bytearray = field(default_factory=bytearray)
    _high: "array[int]" = field(default_factory=lambda: array("Q"))
    _low: "array[int]" = field(default_factory=lambda: array("Q"))

    def begin(self, member_id: int, rows: str) -> None:
        """Take in the digest of a member's rows; members come in ascending order, before any view."""
        self._ids.append(member_id)
        self._rows += bytes.fromhex(rows)
        self._high.append(0)
        self._low.append(0)

    def add(self, member_id: int | None, number: int) -> bool:
        """Add a view of a member; whether they are one that has rows."""
        at = bisect_left(self._ids, member_id) if member_id is not None else len(self._ids)
        if at == len(self._ids) or self._ids[at] != member_id:
            return False
        total = (self._high[at] << 64 | self._low[at]) + number
        self._high[at], self._low[at] = total >> 64 & _HALF, total & _HALF
        return True

    def digests(self) -> Iterator[tuple[int, str]]:
        """Each member with the digest of both."""
        for at, member_id in enumerate(self._ids):
            rows = self._rows[_SIZE * at : _SIZE * (at + 1)].hex()
            yield member_id, digest_of(rows, self._high[at] << 64 | self._low[at])


def digest_of(rows: str, number: int) -> str:
    """Of a member's rows and of what is shown of them together."""
    return f"{rows}{number % 2 ** (8 * _SIZE):032x}"


async def stored_views(client: ValkeyConnection, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """The stored values of some keys; of what is no text nothing."""
    asked = list(keys)
    values = await client.ask_one("MGET", *asked) if asked else []
    return [(key, value or b"") for key, value in zip(asked, values, strict=True)]


async def stored_items(client: ValkeyConnection, keys: Iterable[bytes | str]) -> list[Any]:
    """The entries of some activity views with their versions, oldest first; an exception for what is no such list."""
    asked: list[Words] = [("ZRANGE", key, 0, -1, "WITHSCORES") for key in keys]
    replies: list[Any] = await client.ask(asked) if asked else []
    return [
        one if isinstance(one, Exception) else [*zip(one[::2], map(float, one[1::2]), strict=True)] for one in replies
    ]


async def keys_of_views(client: ValkeyConnection) -> AsyncGenerator[set[bytes]]:
    """The keys of all views, some at a time."""
    cursor = b"0"
    while True:
        cursor, keys = await client.ask_one("SCAN", cursor, "MATCH", "[aempi]:*", "COUNT", KEYS_AT_ONCE)
        if keys:
            yield set(keys)
        if cursor == b"0":
            return


async def add_views(client: ValkeyConnection, hashes: Hashes, sums: Sums, keys: set[bytes]) -> int:
    """Add some views to the sums of their members; how many of them are nobody's."""
    lists = [key for key in keys if key.startswith(b"e:")]
    nobodys = 0
    for key, value in await stored_views(client, keys.difference(lists)):
        nobodys += not sums.add(member_of(key, value), hashes.of_view(key, value))
    for key, items in zip(lists, await stored_items(client, lists), strict=True):
        number = hashes.of_view(key, b"") if isinstance(items, Exception) else hashes.of_items(key, items)
        nobodys += not sums.add(member_of(key, b""), number)
    return nobodys


def member_of(key: bytes, value: bytes) -> int | None:
    """Whose view it is, by its key or, of an identifier, by what it says; None where neither tells."""
    if key.startswith(b"i:"):
        try:
            return parse_member_id(orjson.loads(value[HEADER_SIZE:])["member_id"])
        except Exception:  # noqa: BLE001 - whatever stands there
            return None
    name = key[2:].partition(b"-")[0] if key.startswith(b"p:") else key[2:]
    member_id = int(name) if name.isdigit() and len(name) <= len(str(_ID_MAX)) else None
    return member_id if member_id is None or member_id <= _ID_MAX else None
