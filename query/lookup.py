"""What is found by something else than a member id: identifiers and Idempotency-Keys.

A card of ours names its slot. For anything else every shard is asked: those of this region, then the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from query import views
from query.reader import Readers, ShardReader
from shard_router.card import parse_card
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import parse_member_id
from shard_router.topology import Topology

T = TypeVar("T")
KINDS: Final = ("card", "phone", "email")


class Identifier(NamedTuple):
    """A card, phone number or e-mail address, as it is stored."""

    kind: str
    value: str


class Directory:
    """Finds things whose shard is not known. `region` is asked first."""

    def __init__(self, readers: Readers, region: str) -> None:
        self._readers = readers
        self._region = region

    async def find_member(self, topology: Topology, identifier: Identifier) -> int | None:
        """Find the member with an identifier; `shard_unavailable` when not found and a shard could not be asked."""

        async def ask(shard: ShardReader) -> int | None:
            return await _member_on(shard, identifier)

        home = _shard_of_card(topology, identifier)
        if home and (member_id := await ask(self._readers[home])):
            return member_id
        return await self._scatter(topology, ask)

    async def find_command(self, topology: Topology, key: str) -> Any:
        """Find the row of find_command for an Idempotency-Key, or None; `shard_unavailable` as above."""

        async def ask(shard: ShardReader) -> Any:
            rows = await _rows(shard, "find_command", key)
            return rows[0] if rows else None

        return await self._scatter(topology, ask)

    async def _scatter(self, topology: Topology, ask: Callable[[ShardReader], Awaitable[T | None]]) -> T | None:
        own = topology.shards_in(self._region)
        foreign = [name for name in topology.document.shards if name not in own]
        unreachable: list[BaseException] = []
        for names in (own, foreign):
            answers = await asyncio.gather(*(ask(self._readers[name]) for name in names), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    unreachable.append(answer)
                elif answer is not None:
                    return answer
        if unreachable:
            raise unreachable[0]
        return None


def canonical_identifier(kind: str, text: str) -> Identifier:
    """Bring an identifier as typed to the form in which it is stored."""
    value = text.strip()
    if kind == "email":
        value = value.lower()
    if kind == "phone" and text[:1] == " ":
        value = f"+{value}"  # an unescaped plus sign of a URL arrives as a space
    return Identifier(kind, value)


async def _member_on(shard: ShardReader, identifier: Identifier) -> int | None:
    value = await shard.cache.get(views.identifier_key(*identifier))
    if value is not None:
        return parse_member_id(orjson.loads(views.split(value)[1])["member_id"])
    rows = await _rows(shard, "find_identifier", *identifier)
    return rows[0]["member_id"] if rows else None


async def _rows(shard: ShardReader, statement: str, *arguments: object) -> list[Any]:
    """Rows from the first server of a shard that answers."""
    last = ProblemError("shard_unavailable")
    for server in await shard.servers():
        try:
            return await server.fetch(statement, *arguments)
        except ProblemError as error:
            last = error
    raise last


def _shard_of_card(topology: Topology, identifier: Identifier) -> str | None:
    if identifier.kind != "card":
        return None
    try:
        region_number, slot = parse_card(identifier.value)
        return topology.shard_at(region_number, slot)
    except MalformedIdError:
        return None


def only_identifier(query: Iterable[tuple[str, str]]) -> Identifier | None:
    """Read the one identifier of a query string; None when there is none, more than one, or one nobody can have."""
    given = [canonical_identifier(kind, text) for kind, text in query if kind in KINDS and text.strip()]
    return given[0] if len(given) == 1 and given[0].value.isprintable() else None
