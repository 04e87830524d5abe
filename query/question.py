"""What can be asked about one member. Each question knows its view in Valkey and its statement in Postgres.

An answer says how new the picture is (`seen`: the member's version it includes), so that one chain in
reader.py can hold every question to a Consistency-Token.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from query import views
from query.cache import Cache, Recent
from query.page import decode_page, encode_page, not_of_this_list
from query.replica import Server
from rules.version import VERSION_MAX, place_of
from shard_router.member_id import Reference


class Seen(NamedTuple):
    """What a view or a server showed. `body` None: nothing of that name. `etag`: the version of the body itself."""

    seen: int
    etag: int
    body: bytes | None


class Question(Protocol):
    """One question about one member."""

    @property
    def member_id(self) -> int:
        """Whom it is about."""
        ...

    async def ask_cache(self, cache: Cache) -> Seen | None:
        """Ask Valkey; None when it cannot tell."""
        ...

    async def ask_server(self, server: Server) -> Seen:
        """Ask a server of Postgres; `shard_unavailable` when it cannot tell."""
        ...


NOTHING: Final = Seen(0, 0, None)


@dataclass(frozen=True, slots=True)
class AccountQuestion:
    """The account."""

    member_id: int

    async def ask_cache(self, cache: Cache) -> Seen | None:
        """One key."""
        key = views.account_key(self.member_id)
        value = await cache.get(key)
        if value is None:
            return None
        version, body = views.split(key, value)
        return Seen(version, version, body)

    async def ask_server(self, server: Server) -> Seen:
        """The journal row of the account's version."""
        row = await server.account(self.member_id)
        return Seen(row["version"], row["version"], views.account_view(row)) if row else NOTHING


@dataclass(frozen=True, slots=True)
class MemberQuestion:
    """Profile and account; nothing once the member is erased."""

    member_id: int

    async def ask_cache(self, cache: Cache) -> Seen | None:
        """Two keys, the account first. A profile newer than it was caught between the calls of one batch."""
        account, profile = await cache.get_together(
            views.account_key(self.member_id), views.profile_key(self.member_id)
        )
        if account is None or profile is None:
            return None
        account_view = views.split(views.account_key(self.member_id), account)
        return self.see(account_view, views.split(views.profile_key(self.member_id), profile))

    @staticmethod
    def see(account: tuple[int, bytes], profile: tuple[int, bytes]) -> Seen | None:
        """Put the two together, each with its version; None where the profile is newer."""
        version, profile_version = account[0], profile[0]
        return None if profile_version > version else Seen(version, version, _member_body(profile[1], account[1]))

    async def ask_server(self, server: Server) -> Seen:
        """One row."""
        rows = await server.fetch("find_member", self.member_id)
        if not rows:
            return NOTHING
        (row,) = rows
        account = views.account_view({**row, "version": row["entry_version"]})
        return Seen(row["version"], row["version"], _member_body(views.profile_view(row), account))


@dataclass(frozen=True, slots=True)
class PurchaseQuestion:
    """A purchase; `version` is that of the entry that recorded it."""

    reference: Reference

    @property
    def member_id(self) -> int:
        """Who bought."""
        return self.reference.member_id

    async def ask_cache(self, cache: Cache) -> Seen | None:
        """Read the purchase, and before it the account, which is written last and so tells how new it is at least.

        A purchase does not change with every version.
        """
        purchase_key = views.purchase_key(self.member_id, self.reference.version)
        account_key = views.account_key(self.member_id)
        account, purchase = await cache.get_together(account_key, purchase_key)
        if purchase is None:
            return None
        changed_version, body = views.split(purchase_key, purchase)
        seen = views.version_of(account_key, account) if account else changed_version
        return Seen(max(seen, changed_version), changed_version, body)

    async def ask_server(self, server: Server) -> Seen:
        """One row, with the account's version."""
        rows = await server.fetch("find_purchase", self.member_id, self.reference.version)
        if not rows:
            return NOTHING
        (row,) = rows
        if row["version"] is None:
            return Seen(row["seen_version"], 0, None)
        return Seen(row["seen_version"], row["changed_version"], views.purchase_view(row))


@dataclass(frozen=True, slots=True)
class ActivityQuestion:
    """A page of entries with versions up to `top`, newest first; `top` None: from the newest on."""

    member_id: int
    top: int | None
    size: int

    async def ask_cache(self, cache: Cache) -> Seen | None:
        """Read a page that lies wholly in the recent entries: places have no holes, so a hole is a missing entry."""
        items = await cache.recent(Recent(self.member_id, self.top or VERSION_MAX, self.size))
        if not items:
            return None
        versions = views.versions_of(self.member_id, items)
        first, last = versions[0], versions[-1]
        without_hole = place_of(first) - place_of(last) == len(items) - 1 and self._begins(first) is not False
        if not without_hole or (len(items) < self.size and place_of(last) != 1):
            return None
        return self._page(items, first=first, last=last, more=place_of(last) > 1)

    async def ask_server(self, server: Server) -> Seen:
        """One index range, backwards."""
        rows = await server.fetch("find_activity", self.member_id, self.top or VERSION_MAX, self.size + 1)
        if not rows:
            return NOTHING
        items = [views.activity_item(row) for row in rows[: self.size]]
        first, last = rows[0]["version"], rows[len(items) - 1]["version"]
        return self._page(items, first=first, last=last, more=len(rows) > self.size)

    def _page(self, items: list[bytes], *, first: int, last: int, more: bool) -> Seen:
        """Render the page. Nothing newer can change one that begins with the entry it was asked to begin with."""
        following = b',"next_page_token":"%b"' % encode_activity_page(self.member_id, last - 1) if more else b""
        body = b'{"items":[' + b",".join(items) + b"]" + following + b"}"
        return Seen(VERSION_MAX if self._begins(first) else first, first, body)

    def _begins(self, first: int) -> bool | None:
        """Whether an entry is the first of the page that was asked for; None: the newest was asked for.

        `top` is one less than the version that came before: the entry at the place below it is the one.
        """
        return None if self.top is None else place_of(first) == place_of(self.top + 1) - 1


@dataclass(frozen=True, slots=True)
class UnlessErased:
    """A question whose answer is nothing once the member is erased."""

    question: Question

    @property
    def member_id(self) -> int:
        """Whom it is about."""
        return self.question.member_id

    async def ask_cache(self, cache: Cache) -> Seen | None:
        """Read the profile, which alone tells, and before it the account, whose version tells how new that is."""
        account_key, profile_key = views.account_key(self.member_id), views.profile_key(self.member_id)
        account_asked, profile_asked = cache.get(account_key), cache.get(profile_key)
        seen, account, profile = await self.question.ask_cache(cache), await account_asked, await profile_asked
        if seen is None or account is None or profile is None:
            return None
        is_erased = views.is_erased(views.split(profile_key, profile)[1])
        return _unless_erased(seen, views.version_of(account_key, account), is_erased=is_erased)

    async def ask_server(self, server: Server) -> Seen:
        """The account's status, asked together with others of this moment."""
        seen, row = await asyncio.gather(self.question.ask_server(server), server.account(self.member_id))
        return _unless_erased(seen, row["version"], is_erased=row["status"] != "open") if row else NOTHING


@dataclass(frozen=True, slots=True)
class StandingQuestion:
    """What deciding on a member takes: see find_standing. `holds` are versions that may have placed one.

    `at` is when it is decided, `occurred_at` when the basket was bought.
    """

    member_id: int
    holds: tuple[int, ...]
    at: datetime
    occurred_at: datetime

    async def ask_cache(self, cache: Cache) -> Seen | None:  # noqa: ARG002
        """No view holds it."""
        return None

    async def ask_server(self, server: Server) -> Seen:
        """One row."""
        rows = await server.fetch("find_standing", self.member_id, self.holds, self.at, self.occurred_at)
        if not rows:
            return NOTHING
        return Seen(rows[0]["version"], rows[0]["version"], rows[0]["standing"].encode())


def _unless_erased(seen: Seen, known_version: int, *, is_erased: bool) -> Seen:
    """Tell what was seen by someone who knows of an erasure up to a version: no more than both show."""
    return Seen(min(seen.seen, known_version), seen.etag, None if is_erased else seen.body)


def encode_activity_page(member_id: int, top: int) -> bytes:
    """Make the page token that goes on with version `top`."""
    return encode_page(_listing(member_id), top).encode()


def decode_activity_page(member_id: int, token: str) -> int:
    """Read the version with which a page of this member's activity begins; `malformed` for any other token."""
    top = decode_page(_listing(member_id), token)
    if type(top) is not int or not 0 < top < VERSION_MAX:
        raise not_of_this_list()
    return top


def _listing(member_id: int) -> str:
    return f"activity {member_id}"


def _member_body(profile: bytes, account: bytes) -> bytes | None:
    if views.is_erased(profile):
        return None
    return b'{"profile":' + profile + b',"account":' + account + b"}"
