"""What is checked of one shard's members: their rows, the promises, and what was found of each."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache, partial
from operator import sub
from typing import Any, Final, Self, cast
from zoneinfo import ZoneInfo

import orjson

from rules.document import PurchaseDocument
from rules.program import Program, parse_program
from rules.stored import full_account, full_postings
from rules.value import value
from shard_router.member_id import format_member_id
from shard_router.topology import Topology
from verify.finding import Finding
from verify.memory import Counts
from verify.stream import Row, attempt, checked, parsed, parsed_purchase

READABLE: Final = "every stored document can be read"
WHOLE: Final = "member, account and journal belong together"
VERSIONS: Final = "versions have no gap"
ZERO_SUM: Final = "postings sum to zero"
NEGATIVE: Final = "no bucket is negative"
FOLD: Final = "balance and lots equal the fold of the journal"
SHOWN: Final = "every entry shows the account as it was then"
RULED: Final = "every entry was decided by a program in force then"
EFFECT: Final = "an entry's points are what its postings moved"
COUNTED: Final = "what is counted of a member is in the journal"
ANSWERS: Final = "every stored answer matches its entry"
RECEIPTS: Final = "every receipt has its one entry and every purchase its receipt"
PURCHASES: Final = "a purchase earned and gave back what its entries say"
ERASED: Final = "nothing personal is left of an erased member"
TIMELY: Final = "points are available, end and are spent in their time"
TERMS: Final = "prices, thanks and limits are those of the program"
STOCK: Final = "redeemed stock is what the journal redeemed"
CHECKS: Final = (
    READABLE, WHOLE, VERSIONS, ZERO_SUM, NEGATIVE, FOLD, SHOWN, RULED, EFFECT, COUNTED, ANSWERS, RECEIPTS, PURCHASES,
    ERASED, STOCK, TIMELY, TERMS,
)  # fmt: skip

PERSONAL: Final = frozenset({"member_enrolled", "identifiers_changed"})
"""Entries whose stored answers show personal data."""

_WAYS_KEPT: Final = 64  # there are seven buckets, and fewer ways between them


@value
class ReadEntry:
    """A row of the journal with its documents read.

    `name` is `<member>-<version>`, as people know it, `version` the one the entry made; `moved` are its points by way
    (see `moved_points`).
    """

    name: str
    version: int
    kind: str
    row: Row
    postings: list[dict[str, Any]]
    detail: dict[str, Any]
    account_after: dict[str, Any]
    moved: Counter[str]

    @property
    def is_short(self) -> bool:
        """Whether it was written in the short form of today (rules/stored.py), so by no version of long ago."""
        return self.row["account_after"].startswith("[")


@dataclass(slots=True)
class MemberRows:
    """All rows under one member id; `journal` as stored, `entries` those of it that can be read, by version."""

    member_id: int
    account: Row | None
    member: Row | None
    journal: list[Row]
    purchases: list[Row]
    receipts: list[Row]
    identifiers: list[Row]
    answers: list[Row]
    entries: dict[int, ReadEntry] = field(default_factory=dict[int, ReadEntry])
    name: str = field(init=False)
    """the member id as people know it"""
    _documents: dict[int, PurchaseDocument] = field(default_factory=dict[int, PurchaseDocument])
    _bought: dict[int, Row] = field(init=False)

    def __post_init__(self) -> None:
        self.name = format_member_id(self.member_id)
        self._bought = {row["version"]: row for row in self.purchases}

    def purchase(self, row: Row) -> PurchaseDocument:
        """The document of one of the purchases, read once; whoever asks must expect that it is broken."""
        found = self._documents.get(row["version"])
        if found is None:
            found = self._documents[row["version"]] = parsed_purchase(row)
        return found

    def bought(self, version: int) -> PurchaseDocument | None:
        """The document of the purchase that an entry made; None where it is not there."""
        row = self._bought.get(version)
        return None if row is None else self.purchase(row)

    @property
    def complete(self) -> bool:
        """Whether every entry can be read."""
        return len(self.entries) == len(self.journal)


@dataclass(slots=True)
class Books:
    """One shard's findings by promise, the programs it holds, and what its journal redeemed of each stock."""

    shard: str
    topology: Topology
    programs: dict[int, Program] = field(default_factory=dict[int, Program])
    incarnation: int = 0
    redeemed: Counter[str] = field(default_factory=Counter[str])
    in_force: Program | None = None
    """the newest program, knowing since when each has counted"""
    findings: dict[str, Finding] = field(init=False)
    _zones: dict[str, frozenset[ZoneInfo]] = field(default_factory=dict[str, frozenset[ZoneInfo]])

    def __post_init__(self) -> None:
        self.without_findings()

    def __getitem__(self, check: str) -> Finding:
        return self.findings[check]

    def without_findings(self) -> Self:
        """The same with nothing found yet."""
        self.findings = {check: Finding(check, self.shard) for check in CHECKS}
        return self

    @property
    def faults(self) -> int:
        """All faults so far."""
        return sum([finding.violations for finding in self.findings.values()])

    def counts(self) -> Counts:
        """What was checked and redeemed so far."""
        return Counts(tuple([finding.checked for finding in self.findings.values()]), dict(self.redeemed))

    def counts_since(self, before: Counts) -> Counts:
        """What was checked and redeemed since; what was given back counts below zero."""
        checked = [finding.checked for finding in self.findings.values()]
        redeemed = {reward: n for reward, now in self.redeemed.items() if (n := now - before.redeemed.get(reward, 0))}
        return Counts(tuple(map(sub, checked, before.checked)), redeemed)

    def count(self, counts: Counts) -> None:
        """Take in what was checked and redeemed before."""
        for finding, count in zip(self.findings.values(), counts.checked, strict=True):
            finding.checked += count
        self.redeemed.update(counts.redeemed)

    def read_programs(self, rows: Iterable[Row]) -> None:
        """Read the programs of the shard; one that cannot be read is a fault."""
        since: list[tuple[datetime, Program]] = []
        for row in rows:
            version, name = row["version"], f"program {row['version']}"
            program = attempt(self[READABLE], name, parse_program, row["source"], version)
            if program is not None:
                self.programs[version] = program
                since.append((row["effective_at"], program))
        if since:
            self.in_force = since[-1][1].with_history(since)

    def days_of(self, store: str, moment: datetime) -> set[date]:
        """What may be the business date of a store's document of an instant: its day by one version or another."""
        if store not in self._zones:
            self._zones[store] = frozenset(program.zone_of(store) for program in self.programs.values())
        return {moment.astimezone(zone).date() for zone in self._zones[store]}

    def read_entries(self, rows: MemberRows) -> None:
        """Read the documents of a member's entries; what cannot be read is a fault that names the column."""
        for row in rows.journal:
            name = f"{rows.name}-{row['version']}"
            try:
                entry = _entry(name, row, rows.name)
            except Exception:  # noqa: BLE001 - a stored document may be broken in any way
                self._tell_unreadable(name, row, rows.name)
            else:
                rows.entries[entry.version] = entry
        self[READABLE].checked += len(rows.journal)

    def _tell_unreadable(self, name: str, row: Row, member: str) -> None:
        """Look column by column for what cannot be read."""
        read = partial(attempt, self[READABLE])
        postings = read(f"{name}: postings", _postings, row)
        read(f"{name}: detail", parsed, row["detail"], dict)
        read(f"{name}: account_after", _account, row, member)
        if postings is not None:
            read(f"{name}: postings", moved_points, postings)


def _entry(name: str, row: Row, member: str) -> ReadEntry:
    postings, detail, account_after = _postings(row), parsed(row["detail"], dict), _account(row, member)
    moved = moved_points(postings)
    return ReadEntry(name, row["version"], row["kind"], row, postings, detail, account_after, moved)


def _postings(row: Row) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", full_postings(parsed(row["postings"], list)))


def _account(row: Row, member: str) -> dict[str, Any]:
    stored, version = orjson.loads(row["account_after"]), row["version"]
    shown = full_account(stored, member=member, version=version, as_of=row["recorded_at"])
    return checked(cast("dict[str, Any]", shown), dict)


def moved_points(postings: list[dict[str, Any]]) -> Counter[str]:
    """Points by way: `program>` all that left the program, `>spent` all that was spent, `held>available`; `forfeited`.

    What stays in its bucket and only expires later is not moved.
    """
    moved = Counter[str]()
    for posting in postings:
        source, target, points = posting["from"], posting["to"], posting["points"]
        if not isinstance(points, int):
            raise TypeError(f"a posting of {points!r} points")
        if source != target:
            for way in _ways(source, target):
                moved[way] = moved.get(way, 0) + points
        if posting["reason"] == "forfeited":
            moved["forfeited"] += points
    return moved


@lru_cache(_WAYS_KEPT)
def _ways(source: str, target: str) -> tuple[str, str, str]:
    return f"{source}>", f">{target}", f"{source}>{target}"
