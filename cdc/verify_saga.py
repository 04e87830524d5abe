"""Holds together what spans shards: transfers, stock, referrals, claims. Gathers from each, judges over all."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cdc.finding import Finding
from cdc.verify_ledger import STATEMENTS
from rules.program import parse_program
from shard_router.member_id import format_member_id

IN_DOUBT_MAX: Final = timedelta(seconds=60)
"""How long a transfer may be under way."""

ALL: Final = "all shards"
Transfer = tuple[int, int]
"""A transfer's name: sender and version of its entry."""


@dataclass(slots=True)
class Halves:
    """What the journals say of one transfer; points by kind of entry."""

    sent_at: datetime | None = None
    points: dict[str, list[int]] = field(default_factory=lambda: defaultdict[str, list[int]](list))


@dataclass(slots=True)
class Across:
    """What was gathered from the shards so far."""

    transfers: dict[Transfer, Halves] = field(default_factory=dict[Transfer, Halves])
    allotted: Counter[str] = field(default_factory=Counter[str])
    redeemed: Counter[str] = field(default_factory=Counter[str])
    referees: Counter[int] = field(default_factory=Counter[int])
    claims: set[tuple[str, str, int]] = field(default_factory=set[tuple[str, str, int]])
    identifiers: set[tuple[str, str, int]] = field(default_factory=set[tuple[str, str, int]])
    programs: dict[int, str] = field(default_factory=dict[int, str])


async def gather(connection: Any, where: str, across: Across) -> list[Finding]:
    """Read one shard in the caller's snapshot; tells what can be judged there already."""
    for row in await connection.fetch(STATEMENTS["transfers"]):
        halves = across.transfers.setdefault((row["sender"], row["transfer"]), Halves())
        halves.points[row["kind"]].append(abs(row["points"]))
        if row["kind"] == "transfer_sent":
            halves.sent_at = row["recorded_at"]
    across.referees.update(row["referee"] for row in await connection.fetch(STATEMENTS["referrals"]))
    across.claims.update(tuple(row.values()) for row in await connection.fetch(STATEMENTS["claims"]))
    across.identifiers.update(tuple(row.values()) for row in await connection.fetch(STATEMENTS["claimed_identifiers"]))
    program = await connection.fetchrow(STATEMENTS["newest_program"])
    if program:
        across.programs[program["version"]] = program["source"]
    return [await _check_stock(connection, where, across)]


def judge(across: Across) -> list[Finding]:
    """Judge over all shards."""
    return [_transfers(across), _stock(across), _referrals(across), _claims(across)]


async def _check_stock(connection: Any, where: str, across: Across) -> Finding:
    finding = Finding("redeemed stock is what the journal redeemed", where)
    for row in await connection.fetch(STATEMENTS["stock"]):
        finding.checked += 1
        across.allotted[row["reward"]] += row["allotted"] + row["moving"]
        across.redeemed[row["reward"]] += row["redeemed"]
        if row["redeemed"] != row["in_journal"]:
            finding.fault(f"{row['reward']}: {row['redeemed']} counted, {row['in_journal']} in the journal")
    return finding


def _transfers(across: Across) -> Finding:
    finding = Finding("transfers are conserved and none is long in doubt", ALL, checked=len(across.transfers))
    for (sender, version), halves in across.transfers.items():
        wrong = _wrong_with(halves)
        if wrong:
            finding.fault(f"transfer {format_member_id(sender)}-{version}: {wrong}")
    return finding


def _wrong_with(halves: Halves) -> str | None:
    sent, received = halves.points["transfer_sent"], halves.points["transfer_received"]
    settled, cancelled = halves.points["transfer_settled"], halves.points["transfer_cancelled"]
    if len(sent) != 1:
        return "received without having been sent"
    if len(received) > 1 or len(settled) + len(cancelled) > 1:
        return f"{len(received)} times received, {len(settled)} settled, {len(cancelled)} cancelled"
    if received and received != sent:
        return f"{sent[0]} sent, {received[0]} received"
    if (settled and not received) or (cancelled and received):
        return "the two halves end differently"
    over = settled or cancelled
    if not over and halves.sent_at and datetime.now(UTC) - halves.sent_at > IN_DOUBT_MAX:
        return f"in doubt since {halves.sent_at:%H:%M:%S}"
    return None


def _stock(across: Across) -> Finding:
    finding = Finding("allotments make up each reward's stock", ALL)
    if not across.programs:
        return finding
    program = parse_program(across.programs[max(across.programs)])
    for reward in program.rewards.values():
        if reward.stock is None:
            continue
        finding.checked += 1
        # A stock that was lowered below what is redeemed already leaves just that.
        expected = max(reward.stock, across.redeemed[reward.code])
        if across.allotted[reward.code] != expected:
            finding.fault(f"{reward.code}: {across.allotted[reward.code]} allotted, the stock is {expected}")
    return finding


def _referrals(across: Across) -> Finding:
    finding = Finding("each referral is credited once", ALL, checked=len(across.referees))
    for referee, times in across.referees.items():
        if times > 1:
            finding.fault(f"{format_member_id(referee)}: {times} times")
    return finding


def _claims(across: Across) -> Finding:
    """A lease that nobody held yet is no fault: the next one who asks settles it."""
    finding = Finding("an identifier has one member in the whole program", ALL, checked=len(across.identifiers))
    holders = Counter((kind, value) for kind, value, _ in across.identifiers)
    for (kind, _), times in holders.items():
        if times > 1:
            finding.fault(f"a {kind} has {times} members")
    claimed = {(kind, value): member_id for kind, value, member_id in across.claims}
    for kind, value, member_id in across.identifiers:
        if claimed.get((kind, value), member_id) != member_id:
            finding.fault(f"a {kind} of {format_member_id(member_id)} is claimed for another")
    return finding
