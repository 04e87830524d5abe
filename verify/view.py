"""Holds the views in Valkey against the rows they are made of, both ways: every row its view, every view its row.

What a view must be is told by the reader's layout, not by the projector. Rows are read as they are now, and what
differs is read again from both sides: a view may be on its way. Of whom the last clean run has seen the same rows and
the same views (see memory.py) nothing is rendered again, and no key is asked for.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson

from query.valkey import ValkeyConnection, Words
from query.views import (
    HEADER_SIZE,
    RECENT_ENTRIES,
    account_key,
    account_view,
    activity_item,
    activity_key,
    header,
    identifier_key,
    identifier_view,
    profile_key,
    profile_view,
    purchase_key,
    purchase_view,
)
from shard_router.member_id import format_member_id
from shard_router.pool import Connection, ShardServers
from verify.finding import Finding
from verify.memory import Counts, Memory
from verify.shown import Hashes, Sums, add_views, digest_of, keys_of_views, member_of, stored_items, stored_views
from verify.stream import STATEMENTS, Row, of_members

MEMBERS_AT_ONCE: Final = 100  # with all their baskets, some MB
_DIGESTS_AT_ONCE: Final = 5_000
PATIENCE_S: Final = 10.0
"""A view may be on its way when verify starts; what is still wrong after so much waiting in all is wrong."""
RETRY_S: Final = 0.25

ACCOUNTS: Final = "the account view equals the row"
OTHERS: Final = "profile, purchase and identifier views equal their rows"
ACTIVITY: Final = "the activity view shows the newest entries"
GHOSTS: Final = "no view is left without its row"
CHECKS: Final = (ACCOUNTS, OTHERS, ACTIVITY)
"""What is counted by member."""

_ROW_OF: Final[dict[str, tuple[str, Callable[..., str]]]] = {
    "a": (STATEMENTS["journals_there"], account_key),
    "e": (STATEMENTS["journals_there"], activity_key),
    "m": (STATEMENTS["members_there"], profile_key),
    "p": (STATEMENTS["purchases_there"], purchase_key),
    "i": (STATEMENTS["identifiers_there"], identifier_key),
}
"""By the first letter of a view's key: which statement tells that it has a row, and the key of that row."""
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_ID_MAX: Final = 2**63 - 1

Wrong = dict[str, str]
"""Views that are wrong, by key, and how."""
Items = list[tuple[bytes, int]]
"""An activity view: items with their versions, oldest first."""


class Patience:
    """How long a shard's views may still take to arrive, all together."""

    def __init__(self, left_s: float) -> None:
        self._left_s = left_s

    async def until_right(self, look: Callable[[], Awaitable[Wrong]]) -> Wrong:
        """Look again and again while something is wrong and there is time."""
        wrong = await look()
        while wrong and self._left_s > 0:
            self._left_s -= RETRY_S
            await asyncio.sleep(RETRY_S)
            wrong = await look()
        return wrong


@dataclass(slots=True)
class Wanted:
    """The views that some members must have, by key; `wrong` are rows that no view can show, `of` whose each is."""

    views: dict[str, bytes] = field(default_factory=dict[str, bytes])
    activity: defaultdict[str, Items] = field(default_factory=lambda: defaultdict[str, Items](list))
    wrong: Wrong = field(default_factory=Wrong)
    of: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, rows: list[Row], table: str, show: Callable[["Wanted", Row], str]) -> None:
        """Add what each row of a table must show as."""
        for row in rows:
            try:
                key = show(self, row)
            except Exception as error:  # noqa: BLE001 - a stored document may be broken in any way
                key = f"row of {table} {format_member_id(row['member_id'])}-{row['version']}"
                self.wrong[key] = f"no view can show it: {type(error).__name__}: {error}"
            self.of[key] = row["member_id"]

    def put(self, key: str, value: bytes) -> str:
        """Add a view; its key."""
        self.views[key] = value
        return key

    def counts(self) -> dict[int, list[int]]:
        """How many views of each check each member has."""
        counts: dict[int, list[int]] = {}
        for key, member_id in self.of.items():
            if key in self.views or key in self.activity:
                counts.setdefault(member_id, [0] * len(CHECKS))[CHECKS.index(_check_of(key))] += 1
        return counts


@dataclass(slots=True)
class Page:
    """Some members as they were looked at last: their views by their rows, and a digest of these rows."""

    members: list[int]
    wanted: Wanted = field(default_factory=Wanted)
    digests: dict[int, str] = field(default_factory=dict[int, str])


class Views:
    """The views of one shard, and what was found of them so far."""

    def __init__(self, servers: ShardServers, client: ValkeyConnection, where: str, memory: Memory) -> None:
        self._servers, self._client = servers, client
        self._memory, self._hashes = memory, Hashes(memory.secret)
        self.findings = {check: Finding(check, where) for check in (*CHECKS, GHOSTS)}

    async def check(self, *, every: bool) -> list[Finding]:
        """Check that every view is what its rows say, and that none is left without."""
        if every or not self._memory.members:
            await self._check_members(_members(self._servers))
            await self._check_ghosts(None)
            return list(self.findings.values())
        keys, nobodys = await self._look()
        changed = self._memory.changed()
        for counts in self._memory.unchanged():
            self._count(counts.checked)
        await self._check_members(_in_pages(changed))
        if changed or nobodys:
            await self._check_ghosts(frozenset(changed))
        else:
            self.findings[GHOSTS].checked = keys
        return list(self.findings.values())

    async def _look(self) -> tuple[int, int]:
        """Compare everybody's rows and views with what is known of them; how many views there are, and nobody's."""
        sums = Sums()
        async with (
            self._servers.primary() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            cursor = await connection.cursor(STATEMENTS["shown_digests"])
            while rows := await cursor.fetch(_DIGESTS_AT_ONCE):
                for row in rows:
                    sums.begin(row["member_id"], row["digest"])
        count = nobodys = 0
        async for keys in keys_of_views(self._client):
            count += len(keys)
            nobodys += await add_views(self._client, self._hashes, sums, keys)
        self._memory.compare(sums.digests())
        return count, nobodys

    async def _check_members(self, pages: AsyncGenerator[list[int]]) -> None:
        patience = Patience(PATIENCE_S)
        async for members in pages:
            page = Page(members)
            wrong = await patience.until_right(partial(self._differing, page))
            for key, words in wrong.items():
                self.findings[_check_of(key)].fault(f"{_shown(key)}: {words}")
            self._remember(page, wrong)

    async def _differing(self, page: Page) -> Wrong:
        """The views of some members that are not what their rows say."""
        async with (
            self._servers.primary() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            page.wanted = wanted = await wanted_views(connection, page.members)
            rows = await connection.fetch(of_members("shown_digests", page.members), page.members)
        page.digests = {row["member_id"]: row["digest"] for row in rows}
        found: list[Any] = await self._client.ask_one("MGET", *wanted.views) if wanted.views else []
        wrong = dict(wanted.wrong)
        for (key, value), view in zip(wanted.views.items(), found, strict=True):
            words = _difference(value, view, ordered=not key.startswith("i:"))
            if words:
                wrong[key] = words
        return wrong | await _differing_activity(self._client, wanted.activity)

    def _remember(self, page: Page, wrong: Wrong) -> None:
        """Keep who was found without fault, with just the rows and views that were held against each other."""
        sums, wanted = dict.fromkeys(page.members, 0), page.wanted
        for key, value in wanted.views.items():
            sums[wanted.of[key]] += self._hashes.of_view(key.encode(), value)
        for key, items in wanted.activity.items():
            sums[wanted.of[key]] += self._hashes.of_items(key.encode(), items)
        faulty, counts = {wanted.of[key] for key in wrong}, wanted.counts()
        for counted in counts.values():
            self._count(counted)
        self._memory.compare((one, digest_of(rows, sums[one])) for one, rows in page.digests.items())
        for one in page.members:
            right = one in page.digests and one not in faulty
            self._memory.remember(one, Counts(tuple(counts[one]), {}) if right and one in counts else None)

    def _count(self, checked: Sequence[int]) -> None:
        for check, count in zip(CHECKS, checked, strict=True):
            self.findings[check].checked += count

    async def _check_ghosts(self, changed: frozenset[int] | None) -> None:
        """Look for views without a row; where it is known who has changed, only among theirs and nobody's."""
        finding, patience = self.findings[GHOSTS], Patience(PATIENCE_S)
        async for keys in keys_of_views(self._client):
            finding.checked += len(keys)
            suspects = keys if changed is None else await self._suspects(keys, changed)
            wrong = await patience.until_right(partial(_ghosts, self._servers, self._client, suspects))
            for key, words in wrong.items():
                finding.fault(f"{_shown(key)}: {words}")

    async def _suspects(self, keys: set[bytes], changed: frozenset[int]) -> set[bytes]:
        """Those of the keys that are no views of members whose views are all known."""
        named = [(key, b"") for key in keys if not key.startswith(b"i:")]
        named += await stored_views(self._client, keys.difference(key for key, _ in named))
        owners = [(key, member_of(key, value)) for key, value in named]
        return {key for key, one in owners if one is None or one in changed or one not in self._memory}


def _check_of(key: str) -> str:
    """Which check a view, or a row that none can show, belongs to."""
    return {"a": ACCOUNTS, "e": ACTIVITY}.get(key[0], OTHERS)


def _shown(key: str) -> str:
    """A key without what a member is found by."""
    return f"i:{key.split(':')[1]}:..." if key.startswith("i:") else key


async def _members(servers: ShardServers) -> AsyncGenerator[list[int]]:
    last = -_ID_MAX
    while True:
        async with servers.primary() as connection:
            rows = await connection.fetch(STATEMENTS["member_page"], last, MEMBERS_AT_ONCE)
        if not rows:
            return
        last = rows[-1]["member_id"]
        yield [row["member_id"] for row in rows]


async def _in_pages(members: list[int]) -> AsyncGenerator[list[int]]:
    for first in range(0, len(members), MEMBERS_AT_ONCE):
        yield members[first : first + MEMBERS_AT_ONCE]


async def wanted_views(connection: Connection, members: list[int]) -> Wanted:
    """The views that some members must have, from their rows as they are now."""
    wanted = Wanted()
    wanted.add(await connection.fetch(STATEMENTS["profiles_shown"], members), "member", _show_profile)
    entries = await connection.fetch(STATEMENTS["entries_shown"], members, RECENT_ENTRIES)
    wanted.add(entries, "journal", _show_entry)
    newest = {row["member_id"]: row for row in entries}  # they come oldest first
    wanted.add([*newest.values()], "journal", _show_account)
    wanted.add(await connection.fetch(STATEMENTS["purchases_shown"], members), "purchase", _show_purchase)
    wanted.add(await connection.fetch(STATEMENTS["identifiers_shown"], members), "identifier", _show_identifier)
    return wanted


def _show_profile(wanted: Wanted, row: Row) -> str:
    return wanted.put(profile_key(row["member_id"]), header(row["version"]) + profile_view(row))


def _show_entry(wanted: Wanted, row: Row) -> str:
    key, item = activity_key(row["member_id"]), activity_item(row)  # or none, before there is a list of it
    wanted.activity[key].append((item, row["version"]))
    return key


def _show_account(wanted: Wanted, row: Row) -> str:
    return wanted.put(account_key(row["member_id"]), header(row["version"]) + account_view(row))


def _show_purchase(wanted: Wanted, row: Row) -> str:
    key = purchase_key(row["member_id"], row["version"])
    return wanted.put(key, header(row["changed_version"]) + purchase_view(row))


def _show_identifier(wanted: Wanted, row: Row) -> str:
    """Identifiers are ordered by the position of their change, which no row shows: only the body is compared."""
    return wanted.put(identifier_key(row["kind"], row["value"]), header(0) + identifier_view(row))


def _difference(value: bytes, view: bytes | None, *, ordered: bool) -> str | None:
    if view is None:
        return "is missing"
    version, body = view[:HEADER_SIZE], view[HEADER_SIZE:]
    if not version.isdigit() or (ordered and version != value[:HEADER_SIZE]):
        return f"is of version {version.decode(errors='replace').lstrip('0')}, not {int(value[:HEADER_SIZE])}"
    return None if body == value[HEADER_SIZE:] else "has other content"


async def _differing_activity(client: ValkeyConnection, wanted: dict[str, Items]) -> Wrong:
    wrong: Wrong = {}
    for (key, items), found in zip(wanted.items(), await stored_items(client, wanted), strict=True):
        words = "is no list of entries" if isinstance(found, Exception) else _difference_of_items(items, found)
        if words:
            wrong[key] = words
    return wrong


def _difference_of_items(items: Items, found: Items) -> str | None:
    if [version for _, version in found] != [version for _, version in items]:
        newest = int(found[-1][1]) if found else None
        return f"{len(found)} entries up to {newest}, not {len(items)} up to {items[-1][1]}"
    others = [version for (item, version), (is_, _) in zip(items, found, strict=True) if item != is_]
    return f"entry {others[-1]} has other content" if others else None


async def _ghosts(servers: ShardServers, client: ValkeyConnection, keys: set[bytes]) -> Wrong:
    """The views of what is no row, or not any more."""
    async with servers.primary() as connection:
        suspects = sorted(keys - await _with_row(connection, keys))
    asked: list[Words] = [("TYPE", key) for key in suspects]
    kinds = await client.ask(asked) if asked else []
    there = [key for key, kind in zip(suspects, kinds, strict=True) if kind != b"none"]
    return {key.decode(errors="replace"): await _leads_to(client, key) for key in there}


async def _with_row(connection: Connection, keys: set[bytes]) -> set[bytes]:
    """Those of the keys that have a row."""
    asked: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for key in keys:
        name = _name_of_row(key)
        if name:
            asked[chr(key[0])].append(name)
    there: set[bytes] = set()
    for kind, names in asked.items():
        statement, key_of = _ROW_OF[kind]
        rows = await connection.fetch(statement, *map(list, zip(*names, strict=True)))
        there.update(key_of(*row.values()).encode() for row in rows)
    return there


def _name_of_row(key: bytes) -> tuple[Any, ...] | None:
    """What the row of a view is asked for by; None when no row can have such a view."""
    try:
        kind, _, name = key.decode().partition(":")
    except UnicodeDecodeError:
        return None
    if kind == "i":
        return tuple(name.split(":", 1)) if ":" in name and "\0" not in name else None
    numbers = name.split("-")
    ids = [int(number) for number in numbers if _NUMBER.fullmatch(number)]
    is_name = len(ids) == len(numbers) == (2 if kind == "p" else 1) and max(ids) <= _ID_MAX
    return tuple(ids) if is_name else None


async def _leads_to(client: ValkeyConnection, key: bytes) -> str:
    """What a view without a row still tells; a look-up must not find anybody by it."""
    leads = "there is no such row"
    with suppress(Exception):  # whatever stands there
        if key.startswith(b"i:"):
            member = orjson.loads((await client.ask_one("GET", key) or b"")[HEADER_SIZE:])["member_id"]
            leads = f"still leads to {member}, {leads}"
    return leads
