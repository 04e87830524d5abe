"""What is found by something else than a member id: identifiers and Idempotency-Keys.

A card of ours names its slot. For anything else every shard is asked: those of this region, then the others.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson

from query import views
from query.cache import Cache
from query.question import Seen
from query.reader import Readers, ShardReader
from query.replica import Role, Server
from query.scatter import PATIENCE_S, Scatter, first_of
from rules.text import canonical_text
from service.bulkhead import Bulkhead
from service.credential import Principal
from service.idempotency import stored_key
from service.identifier import EMAIL_MAX, KINDS, canonical_identifier, forms_of
from service.problem import malformed_parameter
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import parse_member_id
from shard_router.topology import Topology

T = TypeVar("T")


class Identifier(NamedTuple):
    """A card, phone number or e-mail address."""

    kind: str
    value: str


class FoundCommand(NamedTuple):
    """A row of find_command, and which server told it."""

    row: Any
    source: Role


@dataclass(frozen=True, slots=True)
class HolderQuestion:
    """Who has an identifier, asked on the shard of a member who may have it; the body is an identifier view.

    Telling takes equally long whether another member or nobody has it.
    """

    member_id: int
    identifier: Identifier

    async def ask_cache(self, cache: Cache) -> Seen | None:
        """Believe the view when it names the member; that they no longer have an identifier only a server tells."""
        keys = views.account_key(self.member_id), views.identifier_key(*self.identifier)
        account, holder = await cache.get_together(*keys)
        if account is None or holder is None:
            return None
        version, (_, body) = views.version_of(keys[0], account), views.split(keys[1], holder)
        return Seen(version, version, body) if _holder_in(keys[1], body) == self.member_id else None

    async def ask_server(self, server: Server) -> Seen:
        """One row, with the member's version."""
        (row,) = await server.fetch("find_holder", self.member_id, *self.identifier)
        version, holder = row["seen_version"] or 0, row["holder"]
        return Seen(version, version, None if holder is None else views.identifier_view({"member_id": holder}))


class Lookup:
    """Finds things whose shard is not known. `region` is asked first; the others by their compartments of `abroad`."""

    def __init__(self, readers: Readers, region: str, abroad: Bulkhead, *, places: int) -> None:
        self._readers, self._region = readers, region
        self._abroad, self._places = abroad, places

    async def find_member(self, topology: Topology, identifier: Identifier, *, but_on: str | None = None) -> int | None:
        """Find the member with an identifier, but not on a shard that was asked already.

        `shard_unavailable` when not found and a shard could not be asked.
        """

        async def ask(shard: ShardReader) -> int | None:
            return await _member_on(shard, identifier)

        home = _shard_of_card(topology, identifier)
        if home and home != but_on and (member_id := await ask(self._readers[home])):
            return member_id
        return await self._scatter(topology, ask, but_on=but_on)

    async def find_command(self, topology: Topology, principal: Principal, key: str) -> FoundCommand | None:
        """Find the command of an Idempotency-Key, if any; `shard_unavailable` as above.

        Two tills may have used one key on two shards: the principal's own command comes first, and tills see no other.
        """
        stored = stored_key(principal, key)

        async def ask(shard: ShardReader, credential: str | None) -> FoundCommand | None:
            source, rows = await _rows(shard, "find_command", stored, credential, sure=True)
            return FoundCommand(rows[0], source) if rows else None

        own = await self._scatter(topology, lambda shard: ask(shard, principal.credential))
        if own or principal.role == "pos":
            return own
        return await self._scatter(topology, lambda shard: ask(shard, None))

    async def _scatter(
        self, topology: Topology, ask: Callable[[ShardReader], Awaitable[T | None]], *, but_on: str | None = None
    ) -> T | None:
        # All at once, for a shard may leave the topology meanwhile.
        shards = {name: self._readers[name] for name in topology.document.shards if name != but_on}
        own = [shards[name] for name in topology.shards_in(self._region) if name in shards]
        others = [region for region in topology.document.regions if region != self._region]
        async with Scatter[T]() as scatter:
            scatter.ask(map(ask, own))
            found = await scatter.first(within_s=PATIENCE_S)
            if found is None:
                there = {one: [shards[name] for name in topology.shards_in(one) if name in shards] for one in others}
                scatter.ask(self._ask_abroad(region, map(ask, readers)) for region, readers in there.items())
                found = await scatter.first()
            if found is None and scatter.failures:
                raise scatter.failures[0]
            return found

    async def _ask_abroad(self, region: str, questions: Iterable[Awaitable[T | None]]) -> T | None:
        """The first answer of another region's shards: one place of the few there are for that."""
        with self._abroad.through(region, places=self._places):
            return await first_of(questions)


def holder_of(identifier_view: bytes) -> int:
    """Read the member in the body of an identifier view."""
    return parse_member_id(orjson.loads(identifier_view)["member_id"])


def _holder_in(key: str, body: bytes) -> int:
    """The same of a view in Valkey; DamagedViewError when it names nobody."""
    try:
        return holder_of(body)
    except MalformedIdError as error:
        raise views.DamagedViewError(key) from error


async def _member_on(shard: ShardReader, identifier: Identifier) -> int | None:
    key = views.identifier_key(*identifier)
    value = await shard.cache.get(key)
    try:
        if value is not None:
            return _holder_in(key, views.split(key, value)[1])
    except views.DamagedViewError as damaged:
        shard.cache.report(damaged.key)
    _, rows = await _rows(shard, "find_identifier", *identifier)
    return rows[0]["member_id"] if rows else None


async def _rows(shard: ShardReader, statement: str, *arguments: object, sure: bool = False) -> tuple[Role, list[Any]]:
    """Rows from the first server of a shard that answers, and which that is.

    `sure`: one that has none may be behind, so the next is asked too, and has the last word if it answers.
    """
    found: tuple[Role, list[Any]] | ProblemError = ProblemError("shard_unavailable")
    for server in await shard.servers():
        try:
            found = server.role, await server.fetch(statement, *arguments)
        except ProblemError as error:
            found = error if isinstance(found, ProblemError) else found
            continue
        if found[1] or not sure:
            break
    if isinstance(found, ProblemError):
        raise found
    return found


def _shard_of_card(topology: Topology, identifier: Identifier) -> str | None:
    home = topology.home_of_card(identifier.value) if identifier.kind == "card" else None
    return topology.shard_at(topology.document.regions[home[0]].number, home[1]) if home else None


def only_name(query: Iterable[tuple[str, str]]) -> Identifier | None:
    """Read the one identifier of a query string, as it was sent; None when there is none or more than one.

    Phone numbers and e-mail addresses have no blanks: one is an unescaped plus sign.
    """
    given = [(kind, text) for kind, text in query if kind in KINDS and text]
    if len(given) != 1:
        return None
    kind, text = given[0]
    try:
        trimmed = canonical_text(text)
    except ValueError:
        return None
    return Identifier(kind, trimmed if kind == "card" else text.replace(" ", "+"))


def nobody(name: Identifier) -> ProblemError:
    """Make the problem of an identifier that no member has; `malformed` for one that nobody can have."""
    try:
        canonical_identifier(*name)
    except ValueError as error:
        return malformed_parameter(name.kind, str(error))
    return ProblemError("member_not_found")


def stored_forms(name: Identifier) -> list[Identifier]:
    """Make of an identifier as it was sent those under which it may be stored; `malformed` for one too long for any."""
    if name.kind == "email" and len(name.value) > EMAIL_MAX:
        raise malformed_parameter(name.kind, f"no address has more than {EMAIL_MAX} characters")
    return [Identifier(name.kind, form) for form in forms_of(*name)]
