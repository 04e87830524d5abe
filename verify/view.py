"""Holds the views in Valkey against the rows they are made of, both ways: every row its view, every view its row.

What a view must be is told by the reader's layout, not by the projector. Rows are read as they are now, and what
differs is read again from both sides: a view may be on its way.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson
from redis.asyncio import Redis

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
from verify.part import EVERYBODY, Part
from verify.stream import STATEMENTS, Row

MEMBERS_AT_ONCE: Final = 100  # with all their baskets, some MB
KEYS_AT_ONCE: Final = 1_000
PATIENCE_S: Final = 10.0
"""A view may be on its way when verify starts; what is still wrong after so much waiting in all is wrong."""
RETRY_S: Final = 0.25

ACCOUNTS: Final = "the account view equals the row"
OTHERS: Final = "profile, purchase and identifier views equal their rows"
ACTIVITY: Final = "the activity view shows the newest entries"
GHOSTS: Final = "no view is left without its row"

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
    """The views that some members must have, by key; `wrong` are rows that no view can show."""

    views: dict[str, bytes] = field(default_factory=dict[str, bytes])
    activity: defaultdict[str, Items] = field(default_factory=lambda: defaultdict[str, Items](list))
    wrong: Wrong = field(default_factory=Wrong)

    def add(self, rows: list[Row], table: str, show: Callable[["Wanted", Row], None]) -> None:
        """Add what each row of a table must show as."""
        for row in rows:
            try:
                show(self, row)
            except Exception as error:  # noqa: BLE001 - a stored document may be broken in any way
                name = f"{format_member_id(row['member_id'])}-{row['version']}"
                self.wrong[f"row of {table} {name}"] = f"no view can show it: {type(error).__name__}: {error}"


async def check_views(servers: ShardServers, client: Redis, where: str, part: Part = EVERYBODY) -> list[Finding]:
    """Check that the views of these members are what their rows say."""
    findings = {check: Finding(check, where) for check in (ACCOUNTS, OTHERS, ACTIVITY)}
    patience = Patience(PATIENCE_S)
    async for members in _members(servers, part):
        looked: dict[str, int] = {}
        wrong = await patience.until_right(partial(_differing, servers, client, members, looked))
        for check, count in looked.items():
            findings[check].checked += count
        for key, words in wrong.items():
            findings[{"a": ACCOUNTS, "e": ACTIVITY}.get(key[0], OTHERS)].fault(f"{_shown(key)}: {words}")
    return list(findings.values())


async def check_ghosts(servers: ShardServers, client: Redis, where: str) -> list[Finding]:
    """Check that every view of a shard has its row."""
    finding, patience = Finding(GHOSTS, where), Patience(PATIENCE_S)
    async for keys in _keys(client):
        finding.checked += len(keys)
        wrong = await patience.until_right(partial(_ghosts, servers, client, keys))
        for key, words in wrong.items():
            finding.fault(f"{_shown(key)}: {words}")
    return [finding]


def _shown(key: str) -> str:
    """A key without what a member is found by."""
    return f"i:{key.split(':')[1]}:..." if key.startswith("i:") else key


async def _members(servers: ShardServers, part: Part) -> AsyncGenerator[list[int]]:
    last = max(part.first - 1, -_ID_MAX)
    while True:
        async with servers.primary() as connection:
            rows = await connection.fetch(STATEMENTS["member_page"], last, part.last, MEMBERS_AT_ONCE)
        if not rows:
            return
        last = rows[-1]["member_id"]
        yield [row["member_id"] for row in rows]


async def _differing(servers: ShardServers, client: Redis, members: list[int], looked: dict[str, int]) -> Wrong:
    """The views of some members that are not what their rows say; `looked` counts them by check."""
    async with servers.primary() as connection:
        wanted = await wanted_views(connection, members)
    wrong = dict(wanted.wrong)
    found: list[Any] = await client.mget(list(wanted.views)) if wanted.views else []
    for (key, value), view in zip(wanted.views.items(), found, strict=True):
        words = _difference(value, view, ordered=not key.startswith("i:"))
        if words:
            wrong[key] = words
    accounts = sum(key.startswith("a:") for key in wanted.views)
    looked |= {ACCOUNTS: accounts, OTHERS: len(wanted.views) - accounts, ACTIVITY: len(wanted.activity)}
    return wrong | await _differing_activity(client, wanted.activity)


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


def _show_profile(wanted: Wanted, row: Row) -> None:
    wanted.views[profile_key(row["member_id"])] = header(row["version"]) + profile_view(row)


def _show_entry(wanted: Wanted, row: Row) -> None:
    wanted.activity[activity_key(row["member_id"])].append((activity_item(row), row["version"]))


def _show_account(wanted: Wanted, row: Row) -> None:
    wanted.views[account_key(row["member_id"])] = header(row["version"]) + account_view(row)


def _show_purchase(wanted: Wanted, row: Row) -> None:
    key = purchase_key(row["member_id"], row["version"])
    wanted.views[key] = header(row["changed_version"]) + purchase_view(row)


def _show_identifier(wanted: Wanted, row: Row) -> None:
    """Identifiers are ordered by the position of their change, which no row shows: only the body is compared."""
    wanted.views[identifier_key(row["kind"], row["value"])] = header(0) + identifier_view(row)


def _difference(value: bytes, view: bytes | None, *, ordered: bool) -> str | None:
    if view is None:
        return "is missing"
    version, body = view[:HEADER_SIZE], view[HEADER_SIZE:]
    if not version.isdigit() or (ordered and version != value[:HEADER_SIZE]):
        return f"is of version {version.decode(errors='replace').lstrip('0')}, not {int(value[:HEADER_SIZE])}"
    return None if body == value[HEADER_SIZE:] else "has other content"


async def _differing_activity(client: Redis, wanted: dict[str, Items]) -> Wrong:
    pipeline = client.pipeline(transaction=False)
    for key in wanted:
        pipeline.zrange(key, 0, -1, withscores=True)
    wrong: Wrong = {}
    for (key, items), found in zip(wanted.items(), await pipeline.execute(raise_on_error=False), strict=True):
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


async def _keys(client: Redis) -> AsyncGenerator[set[bytes]]:
    """The keys of all views, some at a time."""
    cursor: Any = 0
    while True:
        found: Any = await client.scan(cursor, match="[aempi]:*", count=KEYS_AT_ONCE)
        cursor = found[0]
        if found[1]:
            yield set(found[1])
        if not cursor:
            return


async def _ghosts(servers: ShardServers, client: Redis, keys: set[bytes]) -> Wrong:
    """The views of what is no row, or not any more."""
    async with servers.primary() as connection:
        suspects = sorted(keys - await _with_row(connection, keys))
    pipeline = client.pipeline(transaction=False)
    for key in suspects:
        pipeline.exists(key)
    there = [key for key, exists in zip(suspects, await pipeline.execute(), strict=True) if exists]
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


async def _leads_to(client: Redis, key: bytes) -> str:
    """What a view without a row still tells; a look-up must not find anybody by it."""
    leads = "there is no such row"
    with suppress(Exception):  # whatever stands there
        if key.startswith(b"i:"):
            member = orjson.loads((await client.get(key) or b"")[HEADER_SIZE:])["member_id"]
            leads = f"still leads to {member}, {leads}"
    return leads
