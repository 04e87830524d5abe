"""Holds the rows of a primary against the fold of its journal."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson

from cdc.finding import EXAMPLES_MAX, Finding
from rules.codec import parse_state
from rules.fold import FoldedEntry, fold
from rules.state import Account, TierStanding
from shard_router.member_id import format_member_id
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("verify.sql"))
PREFETCH: Final = 2_000

_STATE: Final = ("lots", "holds", "redemptions", "tier", "status")
_BUCKETS: Final = ("spent", "expired", "debt", "issued", "available", "pending", "held")
_NO_TIER: Final = TierStanding("", datetime(1970, 1, 1, tzinfo=UTC))

Row = Any


async def check_ledger(connection: Any, where: str) -> tuple[list[Finding], dict[int, tuple[int, str]]]:
    """Check every member of one server inside the caller's snapshot.

    Also returns version and account text of each member's newest entry: what its view must show.
    """
    zero_sum = Finding("postings sum to zero", where)
    balance = Finding("balance and lots equal the fold of the journal", where)
    versions = Finding("versions have no gap", where)
    negative = Finding("no bucket is negative", where)
    newest: dict[int, tuple[int, str]] = {}
    async with aclosing(_members(connection)) as members:
        async for account_row, entries in members:
            member = format_member_id(account_row["member_id"])
            for finding in (zero_sum, balance, versions, negative):
                finding.checked += 1
            _check_versions(versions, member, account_row, entries)
            _check_columns(zero_sum, negative, member, account_row)
            _check_fold(balance, member, account_row, entries)
            if entries:
                newest[account_row["member_id"]] = (entries[-1]["version"], entries[-1]["account_after"])
    return [zero_sum, balance, versions, negative], newest


async def check_answers(connection: Any, where: str) -> list[Finding]:
    """Check stored answers, receipts and purchases against the journal."""
    answers = Finding("every stored answer matches its entry", where)
    answers.checked = await connection.fetchval(STATEMENTS["answer_count"])
    for row in await connection.fetch(STATEMENTS["answers_that_differ"], EXAMPLES_MAX):
        answers.fault(f"key {row['key']}: entry {row['member_id']}-{row['version']}")
    receipts = Finding("every receipt has its one entry and every purchase its receipt", where)
    receipts.checked = await connection.fetchval(STATEMENTS["receipt_count"])
    for row in await connection.fetch(STATEMENTS["receipts_without_entry"], EXAMPLES_MAX):
        receipts.fault(" ".join(str(value) for value in row.values()))
    for row in await connection.fetch(STATEMENTS["entries_without_purchase"], EXAMPLES_MAX):
        receipts.fault(f"entry {format_member_id(row['member_id'])}-{row['version']} has no purchase")
    return [answers, receipts]


async def _members(connection: Any) -> AsyncGenerator[tuple[Row, list[Row]]]:
    """Merge accounts and their entries; both come ordered by member. Entries of no account come with a made-up row."""
    journal = _buffered(connection.cursor(STATEMENTS["journal"], prefetch=PREFETCH))
    entry = await anext(journal, None)
    async for account in connection.cursor(STATEMENTS["accounts"], prefetch=PREFETCH):
        entries: list[Row] = []
        while entry is not None and entry["member_id"] <= account["member_id"]:
            entries.append(entry)
            entry = await anext(journal, None)
        yield account, entries


async def _buffered(cursor: Any) -> AsyncGenerator[Row]:
    async for row in cursor:
        yield row


def _check_versions(finding: Finding, member: str, account: Row, entries: list[Row]) -> None:
    expected = count(1)
    for entry in entries:
        if entry["member_id"] != account["member_id"]:
            finding.fault(f"{format_member_id(entry['member_id'])}: entries without an account")
            return
        version = next(expected)
        if entry["version"] != version:
            finding.fault(f"{member}: version {entry['version']} stands where {version} should")
            return
    if account["version"] != len(entries):
        finding.fault(f"{member}: account at version {account['version']}, journal at {len(entries)}")


def _check_columns(zero_sum: Finding, negative: Finding, member: str, account: Row) -> None:
    buckets = {name: account[name] for name in ("available", "pending", "held", "spent", "expired", "debt")}
    below = [name for name, points in buckets.items() if points < 0]
    if below:
        negative.fault(f"{member}: {below}")
    held = sum(buckets.values()) - 2 * buckets["debt"]
    if held != account["issued"]:
        zero_sum.fault(f"{member}: {account['issued']} issued, {held} in buckets")


def _check_fold(finding: Finding, member: str, row: Row, entries: list[Row]) -> None:
    totals = {name: row[name] for name in ("spent", "expired", "debt", "issued")}
    stored = parse_state(
        row["member_id"], orjson.loads(row["state"]), version=row["version"], status=row["status"], totals=totals
    )
    blank = Account(stored.member_id, stored.changed_at, _NO_TIER)
    try:
        folded = fold(blank, (_entry(entry) for entry in entries))
    except (ValueError, KeyError) as error:
        finding.fault(f"{member}: {error}")
        return
    if folded.tier == _NO_TIER:  # never changed: it is the first tier of the program of that day
        folded = replace(folded, tier=stored.tier)
    for name in (*_STATE, *_BUCKETS):
        is_, should = getattr(stored, name), getattr(folded, name)
        column = row.get(name, should)
        if is_ != should or (isinstance(should, int) and column != should):
            finding.fault(f"{member}: {name} is {is_} (column {column}), the journal gives {should}")
            return


def _entry(row: Row) -> FoldedEntry:
    return FoldedEntry(row["version"], row["kind"], orjson.loads(row["postings"]), orjson.loads(row["detail"]))
