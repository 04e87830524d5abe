"""Reads the rows that views are made of, from a server that shows all a rebuild must see.

What the stream has brought runs ahead of what its slot has confirmed, and does not come again to a Valkey that lost
it. So a rebuild reads where every commit up to its own start shows: on a standby that has replayed so far, else on the
primary, once the transactions under way at that moment have ended.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from cdc.project import Operations, project
from cdc.slot import STATEMENTS as SLOT_STATEMENTS
from cdc.source import Change
from query.views import RECENT_ENTRIES, account_key, header, identifier_key, profile_key, purchase_key
from shard_router.errors import LoyaltyError, ProblemError
from shard_router.pool import Connection, ShardServers
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("rows.sql"))
TABLES: Final = ("journal", "purchase", "identifier")
"""What else there is of a member."""
STANDBY_PATIENCE_S: Final = 5.0  # a standby behind a long query is let go by max_standby_streaming_delay in this time
PRIMARY_PATIENCE_S: Final = 10.0
SETTLE_PATIENCE_S: Final = 30.0  # at a start the stream itself may take as long
_POLL_S: Final = 0.02

_MEMBER_KEY: Final = re.compile(r"[am]:(\d+)")
_PURCHASE_KEY: Final = re.compile(r"p:(\d+)-(\d+)")
_IDENTIFIER_KEY: Final = re.compile(r"i:([^:]+):(.+)", re.DOTALL)


class NotReady(LoyaltyError):  # noqa: N818 - it tells a state
    """The slot or a server is not where a rebuild needs it yet; try again."""


class Overtaken(LoyaltyError):  # noqa: N818
    """The primary goes on with another past than the one a bound was taken from."""


class Bound(NamedTuple):
    """What a server must show to be read: every commit up to `lsn`, none of them by a transaction from `xid` on.

    Changes that the stream may still bring lie above `floor`; every change below it shows. Positions mean something
    only in the `history` they are of.
    """

    floor: int
    lsn: int
    xid: int
    history: str


class Rows:
    """The tables of one shard."""

    def __init__(self, servers: ShardServers, slot: str) -> None:
        self._servers = servers
        self._slot = slot

    async def bound(self) -> Bound:
        """All that was delivered until now. Gives a standby a moment to show it."""
        async with self._servers.primary() as connection:
            floor = await self._floor(connection)
            lsn = await connection.fetchval(STATEMENTS["wal_position"])
            xid = await connection.fetchval(STATEMENTS["newest_transaction"])
            bound = Bound(floor, lsn, xid, await _history(connection))
        with suppress(ProblemError):
            async with self._servers.standby() as connection:
                await _until(connection, "shows", bound.lsn, bound.xid, patience_s=STANDBY_PATIENCE_S)
        return bound

    async def prove(self, bound: Bound) -> None:
        """Overtaken unless there is a primary that goes on with the history of this bound."""
        async with self._servers.primary() as connection:
            if (history := await _history(connection)) != bound.history:
                raise Overtaken(f"the primary goes on with {history}, not with {bound.history}")

    @asynccontextmanager
    async def reader(self, bound: Bound) -> AsyncGenerator[Connection]:
        """A standby that shows everything up to the bound, else the primary; NotReady while that does not."""
        async with AsyncExitStack() as stack:
            connection = await self._standby(stack, bound)
            if connection is None:
                connection = await stack.enter_async_context(self._servers.primary())
                if not await _until(connection, "shows", bound.lsn, bound.xid, patience_s=PRIMARY_PATIENCE_S):
                    raise NotReady(
                        "a transaction that was under way has not ended, and no standby shows what came after"
                    )
            yield connection

    async def more_members_than(self, count: int) -> bool:
        """Whether the primary has."""
        async with self._servers.primary() as connection:
            return await connection.fetchval(STATEMENTS["more_members_than"], count)

    async def truth(self, keys: Collection[str]) -> Operations:
        """What the views of these keys should be by the primary, as it shows itself now."""
        async with self._servers.primary() as connection:
            return await read_views(connection, keys, await self._floor(connection))

    async def settled_truth(self, keys: Collection[str]) -> Operations | None:
        """The same, with everything the stream has brought until this call; None when that does not come to show."""
        async with self._servers.primary() as connection:
            newest = await connection.fetchval(STATEMENTS["newest_transaction"])
            if not await _until(connection, "settled", newest, self._slot, patience_s=SETTLE_PATIENCE_S):
                return None
            return await read_views(connection, keys, await self._floor(connection))

    async def of_changes(self, changes: Iterable[Change]) -> Operations:
        """The rows of the members of these changes, which has them show: a change comes before its commit does."""
        members = sorted({change.row["member_id"] for change in changes})
        async with self._servers.primary() as connection:
            floor = await self._floor(connection)
            xids = [change.xid for change in changes]
            if not await _until(connection, "ended", xids, patience_s=PRIMARY_PATIENCE_S):
                raise NotReady("the transaction of a change to read again has not ended")
            return await read_members(connection, members, floor)

    async def _floor(self, connection: Connection) -> int:
        found = await connection.fetchrow(SLOT_STATEMENTS["slot"], self._slot)
        if found is None or found["confirmed"] is None:
            raise NotReady("the slot does not exist yet")
        if found["lost"]:
            raise NotReady("the slot has lost changes and is about to be made anew")
        return found["floor"]

    async def _standby(self, stack: AsyncExitStack, bound: Bound) -> Connection | None:
        try:
            connection = await stack.enter_async_context(self._servers.standby())
            shows = await connection.fetchval(STATEMENTS["shows"], bound.lsn, bound.xid)
        except ProblemError:
            return None
        return connection if shows else None


async def read_members(connection: Connection, members: list[int], floor: int) -> Operations:
    """The operations that make the views of these members from what the tables hold."""
    return project(await rows_of(connection, members, floor))


async def rows_of(connection: Connection, members: list[int], floor: int) -> list[Change]:
    """What the tables hold of these members, as if it had just been inserted."""
    rows = await connection.fetch(STATEMENTS["member"], members)
    return as_changes("member", rows, floor) + await _other_rows_of(connection, members, floor)


async def rows_after(connection: Connection, after: int, size: int, floor: int) -> tuple[list[int], list[Change]]:
    """So many members behind this one in key order, and what the tables hold of them."""
    rows = await connection.fetch(STATEMENTS["members_after"], after, size)
    members = [row["member_id"] for row in rows]
    return members, as_changes("member", rows, floor) + await _other_rows_of(connection, members, floor)


async def _other_rows_of(connection: Connection, members: list[int], floor: int) -> list[Change]:
    changes: list[Change] = []
    for table in TABLES:
        limit = (RECENT_ENTRIES,) if table == "journal" else ()
        rows = await connection.fetch(STATEMENTS[table], members, *limit)
        changes += as_changes(table, rows, floor)
    return changes


async def read_views(connection: Connection, keys: Collection[str], floor: int) -> Operations:
    """The same for those members whose views these are, and for these identifiers: without a row they are removed."""
    members = {int(key[2:].partition("-")[0]) for key in keys if not key.startswith("i:")}
    operations = await read_members(connection, sorted(members), floor)
    identifiers = dict(_matches(_IDENTIFIER_KEY, keys))
    rows = await _named(connection, "identifiers_present", identifiers.values())
    found = project(as_changes("identifier", rows, floor)).identifiers
    operations.identifiers |= {key: gone(floor) for key in identifiers} | found
    return operations


async def without_row(connection: Connection, keys: Collection[str]) -> list[str]:
    """Which of these keys are of views that have no row. Keys that are no view's are none of them."""
    found: set[str] = set()
    members = dict(_matches(_MEMBER_KEY, keys))
    for row in await connection.fetch(STATEMENTS["members_present"], [int(member) for (member,) in members.values()]):
        found |= {account_key(row["member_id"]), profile_key(row["member_id"])}
    purchases = dict(_matches(_PURCHASE_KEY, keys))
    numbers = [tuple(map(int, name)) for name in purchases.values()]
    for row in await _named(connection, "purchases_present", numbers):
        found.add(purchase_key(row["member_id"], row["version"]))
    identifiers = dict(_matches(_IDENTIFIER_KEY, keys))
    for row in await _named(connection, "identifiers_present", identifiers.values()):
        found.add(identifier_key(row["kind"], row["value"]))
    return [key for key in (*members, *purchases, *identifiers) if key not in found]


def gone(floor: int) -> bytes:
    """An identifier without a row: newer than any row read with that floor, older than what the stream may bring."""
    return header(floor + 1)


def as_changes(table: str, rows: Iterable[Any], floor: int) -> list[Change]:
    """Rows as if they had just been inserted; they stay records, which are read by name as a dict is."""
    return [Change(table, "insert", row, 0, floor) for row in rows]


def _matches(pattern: re.Pattern[str], keys: Iterable[str]) -> Iterable[tuple[str, tuple[Any, ...]]]:
    return ((key, match.groups()) for key in keys if (match := pattern.fullmatch(key)))


async def _named(connection: Connection, statement: str, pairs: Collection[tuple[Any, ...]]) -> list[Any]:
    firsts, seconds = zip(*pairs, strict=True) if pairs else ((), ())
    return await connection.fetch(STATEMENTS[statement], list(firsts), list(seconds)) if firsts else []


async def _history(connection: Connection) -> str:
    """Which database a primary has, and which of its pasts it goes on with: a failover begins another timeline."""
    timeline = await connection.fetchval(SLOT_STATEMENTS["timeline_of_primary"])
    return f"{await connection.fetchval(SLOT_STATEMENTS['system'])}, timeline {timeline}"


async def _until(connection: Connection, statement: str, *args: Any, patience_s: float) -> bool:
    """Ask until the answer is yes or patience ends; never cancelled, which would make the server look broken."""
    until = time.monotonic() + patience_s
    while True:
        if await connection.fetchval(STATEMENTS[statement], *args):
            return True
        if time.monotonic() > until:
            return False
        await asyncio.sleep(_POLL_S)
