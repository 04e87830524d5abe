"""Holds the rows of every member of a primary against the fold of their journal, member by member in one pass."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, Final

import orjson

from query.views import is_erased
from rules.codec import parse_state
from rules.fold import FoldedEntry, fold
from rules.state import Account, TierStanding
from rules.version import follows, incarnation_of
from shard_router.errors import MalformedIdError
from verify.books import (
    ANSWERS,
    ERASED,
    FOLD,
    NEGATIVE,
    PERSONAL,
    READABLE,
    SHOWN,
    STOCK,
    TIMELY,
    VERSIONS,
    WHOLE,
    ZERO_SUM,
    Books,
    MemberRows,
    ReadEntry,
)
from verify.counted import REDEEMED, check_counted
from verify.entry import COUNTED_FIELDS, NOTHING, check_answers, check_effect, check_ruling, check_shown
from verify.finding import Finding
from verify.memory import Memory, fingerprint
from verify.offered import check_offers
from verify.part import Audit, Part
from verify.purchase import check_purchases, check_receipts
from verify.stream import STATEMENTS, Row, Rows, arguments_of, attempt, merged, of_members, parsed
from verify.terms import check_limits, check_terms
from verify.timely import wrong_time

_STATE: Final = ("lots", "holds", "redemptions", "tier", "status")
_BUCKETS: Final = ("spent", "expired", "debt", "issued", "available", "pending", "held")
_parts, _points, _columns = attrgetter(*_STATE), attrgetter(*_BUCKETS), itemgetter(*_BUCKETS)
_OF_THE_MEMBER: Final = PERSONAL | {"member_closed"}
"""Entries that write the member's row."""
_DIGESTS_AT_ONCE: Final = 5_000
_MEMBERS_AT_ONCE: Final = 500
_STREAMS: Final = ("accounts", "members", "journal", "purchases", "receipts", "identifiers", "answers")


@dataclass(frozen=True, slots=True)
class Share:
    """What a part of the members came to."""

    findings: list[Finding]
    redeemed: Counter[str]


async def check_ledger(connection: Any, audit: Audit) -> list[Finding]:
    """Check the members of one server inside the caller's snapshot."""
    return await close_ledger(connection, audit, [await check_part(connection, audit, part) for part in audit.parts()])


async def check_part(connection: Any, audit: Audit, part: Part) -> Share:
    """Check some members inside the caller's snapshot."""
    programs = await connection.fetch(STATEMENTS["programs"])
    books = await _opened(connection, audit, programs, told=part.number == 0)
    place = audit.topology.document.shards[audit.shard].slots, sorted(audit.topology.region_of_number.items())
    memory = Memory(audit.known_of(part), fingerprint(list(map(tuple, programs)), books.incarnation, place, part))
    try:
        await _check_members(connection, books, memory, part, every=audit.every)
        memory.save()
    finally:
        memory.close()
    return Share(list(books.findings.values()), books.redeemed)


async def close_ledger(connection: Any, audit: Audit, shares: Sequence[Share]) -> list[Finding]:
    """Check what is of no member, in the snapshot in which all of them were looked at; with what was found of them."""
    books = await _opened(connection, audit, await connection.fetch(STATEMENTS["programs"]), told=False)
    for share in shares:
        books.redeemed.update(share.redeemed)
        for finding in share.findings:
            books[finding.check].add(finding)
    await _check_rest(connection, books)
    return list(books.findings.values())


async def _opened(connection: Any, audit: Audit, programs: Sequence[Row], *, told: bool) -> Books:
    """Empty books; what is wrong with the programs is told once."""
    books = Books(audit.shard, audit.topology)
    books.read_programs(programs)
    books.incarnation = await connection.fetchval(STATEMENTS["incarnation"])
    return books if told else books.without_findings()


async def _check_members(connection: Any, books: Books, memory: Memory, part: Part, *, every: bool) -> None:
    """Fold who is not known as they are now; those who are known count as they did."""
    cursor = await connection.cursor(of_members("member_digests", part), *arguments_of(part))
    while rows := await cursor.fetch(_DIGESTS_AT_ONCE):
        memory.compare([tuple(row) for row in rows])
    changed = memory.changed()
    if memory.members == 0 or every:
        await _fold(connection, books, memory, part)
        return
    for counts in memory.unchanged():
        books.count(counts)
    for first in range(0, len(changed), _MEMBERS_AT_ONCE):
        await _fold(connection, books, memory, changed[first : first + _MEMBERS_AT_ONCE])


async def _fold(connection: Any, books: Books, memory: Memory, members: list[int] | Part) -> None:
    """Check these members; who is without fault is remembered."""
    streams = [Rows(connection, stream, "member_id", members=members) for stream in _STREAMS]
    async for member_id, rows in merged(streams):
        accounts, found, journal, purchases, receipts, identifiers, answers = rows
        one = MemberRows(member_id, _only(accounts), _only(found), journal, purchases, receipts, identifiers, answers)
        before, faults = books.counts(), books.faults
        if not _is_of_another_shard(books, one):
            check_member(books, one)
        memory.remember(member_id, books.counts_since(before) if books.faults == faults else None)


async def _check_rest(connection: Any, books: Books) -> None:
    for row in await connection.fetch(STATEMENTS["answers_of_nothing"]):
        books[ANSWERS].fault(f"key {row['key']}: a yes that names no entry of a member")
    for row in await connection.fetch(STATEMENTS["answers_out_of_place"]):
        books[ANSWERS].fault(f"key {row['key']} of {row['credential']}: in the name space of others")
    _check_stock(books, await connection.fetch(STATEMENTS["stock"]))


def _only(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None


def _is_of_another_shard(books: Books, rows: MemberRows) -> bool:
    """Whether all there is under an id are receipts that another shard's member has claimed (see receipt.py)."""
    others = rows.account or rows.member or rows.journal or rows.purchases or rows.identifiers or rows.answers
    if others or any(row["kind"] != "purchase" for row in rows.receipts):
        return False
    try:
        return books.topology.shard_of(rows.member_id) != books.shard
    except MalformedIdError:
        return False


def check_member(books: Books, rows: MemberRows) -> None:
    """Check all rows under one member id."""
    books.read_entries(rows)
    _check_whole(books, rows)
    check_answers(books, rows)
    check_receipts(books, rows)
    check_purchases(books, rows)
    check_terms(books, rows)
    for entry in rows.entries.values():
        check_effect(books, entry)
        check_ruling(books, entry)
        if entry.kind in REDEEMED:
            attempt(books[READABLE], f"{entry.name}: detail", _count_redeemed, books, rows, entry)
    if rows.account is None:
        return
    _check_versions(books, rows, rows.account)
    _check_columns(books, rows.name, rows.account)
    _check_erasure(books[ERASED], rows, rows.account)
    stored = attempt(books[READABLE], f"{rows.name}-{rows.account['version']}: state", _stored, rows.account)
    if stored is not None and rows.complete:
        _check_fold(books, rows, rows.account, stored)


def _check_whole(books: Books, rows: MemberRows) -> None:
    finding = books[WHOLE]
    finding.checked += 1
    parts = {"account": rows.account, "member": rows.member, "journal": rows.journal}
    missing = [part for part, found in parts.items() if not found]
    if missing or rows.member is None:
        others = ("purchases", "receipts", "identifiers", "answers")
        there = [part for part, found in parts.items() if found] + [part for part in others if getattr(rows, part)]
        finding.fault(f"{rows.name}: {', '.join(there)} without {', '.join(missing)}")
        return
    wrong = attempt(books[READABLE], f"{rows.name}: profile", next, _misplaced(books, rows, rows.member), None)
    if wrong:
        finding.fault(f"{rows.name}: {wrong}")


def _misplaced(books: Books, rows: MemberRows, member: Row) -> Iterator[str]:
    try:
        home = books.topology.shard_of(rows.member_id)
    except MalformedIdError as error:
        home = str(error)
    if home != books.shard:
        yield f"lives on {home}, the rows are on {books.shard}"
    kinds = {row["version"]: row["kind"] for row in rows.journal}
    if next(iter(kinds.values()), "member_enrolled") != "member_enrolled":
        yield f"the journal begins with {next(iter(kinds.values()))}"
    changed = max((version for version, kind in kinds.items() if kind in _OF_THE_MEMBER), default=None)
    if changed is not None and member["version"] != changed:
        yield f"the member row is of version {member['version']}, entry {changed} wrote it last"
    for row in rows.identifiers:
        if kinds.get(row["version"]) not in PERSONAL:
            yield f"a {row['kind']} of version {row['version']}, whose entry gives none"
    profile = parsed(member["profile"], dict)
    found_by = {(row["kind"], row["value"]) for row in rows.identifiers}
    for kind in ("card", "phone", "email"):
        if kind in profile and (kind, profile[kind]) not in found_by:
            yield f"the profile shows a {kind} by which the member is not found"


def _check_versions(books: Books, rows: MemberRows, account: Row) -> None:
    finding = books[VERSIONS]
    finding.checked += 1
    before = 0
    for version in (row["version"] for row in rows.journal):
        if not follows(version, before):
            finding.fault(f"{rows.name}: version {version} stands where {before + 1} should")
            return
        before = version
    if account["version"] != before:
        finding.fault(f"{rows.name}: account at version {account['version']}, journal at {before}")
    if incarnation_of(before) > books.incarnation:
        finding.fault(f"{rows.name}: version {before} is of an incarnation that the shard never had")


def _check_columns(books: Books, member: str, account: Row) -> None:
    zero_sum, negative = books[ZERO_SUM], books[NEGATIVE]
    zero_sum.checked += 1
    negative.checked += 1
    buckets = {name: account[name] for name in ("available", "pending", "held", "spent", "expired", "debt")}
    below = [name for name, points in buckets.items() if points < 0]
    if below:
        negative.fault(f"{member}: {', '.join(below)}")
    held = sum(buckets.values()) - 2 * buckets["debt"]
    if held != account["issued"]:
        zero_sum.fault(f"{member}: {account['issued']} issued, {held} in buckets")


def _check_erasure(finding: Finding, rows: MemberRows, account: Row) -> None:
    erased = rows.member is not None and is_erased(rows.member["profile"].encode())
    if account["status"] == "open" and not erased:
        return
    finding.checked += 1
    answered = [one["key"] for one in rows.answers if _kind(rows, one["version"]) in PERSONAL]
    if account["status"] == "open" or not erased:
        finding.fault(f"{rows.name}: the account is {account['status']}, the profile {'' if erased else 'not '}erased")
    elif rows.identifiers:
        finding.fault(f"{rows.name}: is still found by {', '.join(row['kind'] for row in rows.identifiers)}")
    elif answered:
        finding.fault(f"{rows.name}: the answer to key {answered[0]} still shows personal data")


def _kind(rows: MemberRows, version: int) -> str | None:
    entry = rows.entries.get(version)
    return entry.kind if entry else None


def _stored(row: Row) -> Account:
    totals = {name: row[name] for name in ("spent", "expired", "debt", "issued")}
    state = orjson.loads(row["state"])
    return parse_state(row["member_id"], state, version=row["version"], status=row["status"], totals=totals)


def _check_fold(books: Books, rows: MemberRows, row: Row, stored: Account) -> None:
    """Fold the journal entry by entry: each shows the account as it was, and the last leaves it as it is stored."""
    finding, last = books[FOLD], rows.journal[-1]["version"] if rows.journal else 0
    finding.checked += 1
    folded = _blank(books, rows, stored)
    due = folded.due_at
    for entry in rows.entries.values():
        after = attempt(finding, entry.name, fold, folded, (_foldable(entry),))
        if after is None:
            return
        due_after = after.due_at
        _check_time(books, entry, due, after, due_after)
        if entry.kind == "purchase_recorded":
            attempt(books[READABLE], f"{entry.name}: document", check_offers, books, rows, entry, folded.tier.code)
        folded, due = after, due_after
        books[SHOWN].checked += 1
        shown = (stored, NOTHING) if entry.version == last == stored.version else (folded, COUNTED_FIELDS)
        attempt(books[SHOWN], entry.name, check_shown, books, entry, *shown)
    wrong = attempt(finding, rows.name, _wrong_with, row, stored, folded)
    if wrong is None and rows.journal and stored.changed_at != rows.journal[-1]["recorded_at"]:
        wrong = f"changed at {stored.changed_at}, its last entry is of {rows.journal[-1]['recorded_at']}"
    if wrong:
        finding.fault(f"{rows.name}: {wrong}")
    if stored.status == "open":  # who is closed is counted no more
        check_counted(books, rows, stored)
        check_limits(books, rows, stored)


def _check_time(
    books: Books, entry: ReadEntry, due: datetime | None, after: Account, due_after: datetime | None
) -> None:
    """Check the time of an entry; of long ago other rules may have been."""
    if not entry.is_short:
        return
    books[TIMELY].checked += 1
    wrong = attempt(books[TIMELY], entry.name, partial(next, wrong_time(entry, due, after, due_after), None))
    if wrong:
        books[TIMELY].fault(f"{entry.name}: {wrong}")


def _blank(books: Books, rows: MemberRows, stored: Account) -> Account:
    """The account before its first entry: in the first tier of the program that enrolled it."""
    tier = stored.tier  # of a program that is not there nothing can be told
    first = rows.entries.get(rows.journal[0]["version"]) if rows.journal else None
    program = books.programs.get(first.row["program_version"]) if first else None
    if first and program:
        tier = TierStanding(program.tiers[0].code, first.row["recorded_at"])
    return Account(rows.member_id, stored.changed_at, tier)


def _foldable(entry: ReadEntry) -> FoldedEntry:
    return FoldedEntry(entry.version, entry.kind, entry.postings, entry.detail)


def _wrong_with(row: Row, stored: Account, folded: Account) -> str | None:
    same = _parts(stored) == _parts(folded) and _points(stored) == _points(folded) == _columns(row)
    for name in () if same else (*_STATE, *_BUCKETS):
        is_, should = getattr(stored, name), getattr(folded, name)
        column = row.get(name, should)
        if is_ != should or (isinstance(should, int) and column != should):
            return f"{name} is {is_} (column {column}), the journal gives {should}"
    if row["due_at"] != stored.due_at:
        return f"due_at is {row['due_at']}, time next changes the account at {stored.due_at}"
    return None


def _count_redeemed(books: Books, rows: MemberRows, entry: ReadEntry) -> None:
    """Count what an entry took from a stock, or gave back: there was one if the redemption's program had one."""
    redemption = rows.entries[entry.detail["redemption"]]
    program = books.programs.get(redemption.row["program_version"])
    reward = program.rewards.get(entry.detail["reward"]) if program else None
    if reward is not None and reward.stock is not None:
        books.redeemed[reward.code] += REDEEMED[entry.kind] * entry.detail["quantity"]


def _check_stock(books: Books, stock: list[Row]) -> None:
    finding = books[STOCK]
    counted = {row["reward"]: row["redeemed"] for row in stock}
    for reward in sorted(counted.keys() | books.redeemed.keys()):
        finding.checked += 1
        redeemed = books.redeemed[reward]
        if counted.get(reward) != redeemed:
            finding.fault(f"{reward}: {counted.get(reward)} counted, {redeemed} in the journal")
