"""Holds receipts together over all shards: one basket earns once, whoever it was booked for.

A purchase is recorded at its member's home; the shard that keeps its store's receipts has a row of the same name for it
(command/register.py). Of several purchases of one name, all but one have been taken back.
"""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rules.returning import is_reversed
from shard_router.errors import MalformedIdError
from shard_router.member_id import format_member_id
from verify.across import ALL, Across
from verify.finding import Finding
from verify.stream import STATEMENTS, Row, attempt, merged, parsed_purchase

SETTLED_WITHIN: Final = timedelta(seconds=60)
"""How long two shards may disagree about a receipt."""

Entry = tuple[int, int]
"""Member id and version."""


async def check_receipts(across: Across) -> list[Finding]:
    """Check that no receipt has two purchases, and that each claim is of a purchase that is there."""
    unique = Finding("every receipt is unique over all shards", ALL)
    claims = Finding("every claimed receipt is of a purchase that is there", ALL)
    shards = list(across.connections)
    streams = across.streams("receipt_names", "store", "till", "business_date", "receipt", "kind", "subject")
    async for name, found in merged(streams):
        unique.checked += 1
        places: defaultdict[Entry, set[str]] = defaultdict(set)
        for shard, rows in zip(shards, found, strict=True):
            for row in rows:
                places[row["member_id"], row["version"]].add(shard)
        at_home = [entry for entry, where in places.items() if _home(across, entry) in where]
        claims.checked += sum(len(where) for where in places.values()) - len(at_home)
        words = " ".join(map(str, name))
        for entry in places.keys() - set(at_home):
            claims.fault(f"{words}: claimed for {_named(entry)}, whose home does not know it")
        if len(at_home) > 1:
            await _check_conflict(across, unique, words, at_home)
    return [unique, claims]


async def _check_conflict(across: Across, finding: Finding, name: str, entries: list[Entry]) -> None:
    standing: list[Entry] = []
    reversed_ = 0
    latest = datetime.min.replace(tzinfo=UTC)
    for entry in entries:
        row = await across.connection_of(entry[0]).fetchrow(STATEMENTS["purchase_standing"], *entry)
        taken_back = row and row["document"] and attempt(finding, f"purchase {_named(entry)}", _is_reversed, row)
        reversed_ += bool(taken_back)
        if row and row["status"] == "open" and not taken_back:
            standing.append(entry)
            latest = max(latest, row["recorded_at"])
    told = ", ".join(map(_named, entries))
    if len(standing) > 1 and datetime.now(UTC) - latest > SETTLED_WITHIN:
        finding.fault(f"{name}: {len(standing)} times, by {', '.join(map(_named, standing))}")
    elif reversed_ == len(entries):
        finding.fault(f"{name}: taken back from all who had it, {told}")


def _is_reversed(row: Row) -> bool:
    return is_reversed(parsed_purchase(row))


def _home(across: Across, entry: Entry) -> Any:
    try:
        return across.topology.shard_of(entry[0])
    except MalformedIdError:
        return None


def _named(entry: Entry) -> str:
    return f"{format_member_id(entry[0])}-{entry[1]}"
