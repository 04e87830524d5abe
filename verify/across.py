"""Holds together what spans shards: transfers, stock, programs. Read from all of them at once.

Each shard is read in its own snapshot, and the streams of all are merged by what names the thing: of a
transfer, a newcomer or a receipt only what all shards say under that name is held at a time.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from rules.program import Program, parse_program
from rules.stored import full_postings
from shard_router.errors import MalformedIdError
from shard_router.member_id import format_member_id
from shard_router.topology import Topology
from verify.finding import Finding
from verify.stream import STATEMENTS, Row, Rows, attempt, merged

IN_DOUBT_MAX: Final = timedelta(seconds=60)
"""How long a transfer may be under way."""

ALL: Final = "all shards"
_NUMBER: Final = re.compile("[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Across:
    """A connection to each shard, inside a transaction, and who lives where."""

    connections: dict[str, Any]
    topology: Topology

    def streams(self, statement: str, *key: str) -> list[Rows]:
        """What each shard says, to be merged."""
        return [Rows(connection, statement, *key) for connection in self.connections.values()]

    def connection_of(self, member_id: int) -> Any:
        """The connection to a member's home; None when there is no such place."""
        try:
            return self.connections[self.topology.shard_of(member_id)]
        except MalformedIdError:
            return None


async def check_across(across: Across) -> list[Finding]:
    """Check all that spans shards."""
    return [
        await _check_transfers(across),
        *await _check_programs(across),
    ]


async def _check_transfers(across: Across) -> Finding:
    finding = Finding("transfers are conserved and none is long in doubt", ALL)
    async for (sender, version), found in merged(across.streams("transfers", "sender", "transfer")):
        finding.checked += 1
        halves: defaultdict[str, list[Row]] = defaultdict(list)
        for row in (row for rows in found for row in rows):
            halves[row["kind"]].append(row)
        name = f"transfer {member_named(sender)}-{version}"
        wrong = attempt(finding, name, _wrong_with_transfer, halves)
        if wrong:
            finding.fault(f"{name}: {wrong}")
    return finding


def member_named(text: str) -> str:
    """The member whose number a document tells, as people know them."""
    return format_member_id(int(text)) if _NUMBER.fullmatch(text) else f"nobody ({text[:20]})"


def _wrong_with_transfer(halves: defaultdict[str, list[Row]]) -> str | None:
    if wrong := _wrong_with_revocations(halves):
        return wrong
    sent, received = halves["transfer_sent"], _not_revoked(halves)
    settled, cancelled, returned = (halves[f"transfer_{end}"] for end in ("settled", "cancelled", "returned"))
    if len(sent) != 1:
        rest = {**halves, "transfer_received": received, "transfer_revoked": []}
        ended = [f"{kind} by {format_member_id(row['member_id'])}" for kind, rows in rest.items() for row in rows]
        return f"not sent, but {', '.join(ended)}" if ended else None
    if max(len(received), len(settled) + len(cancelled), len(returned)) > 1:
        times = f"{len(settled)} settled, {len(cancelled)} cancelled, {len(returned)} returned"
        return f"{len(received)} times received, {times}"
    if received and (wrong := _wrong_with_halves(sent[0], received[0])):
        return wrong
    if returned and (not settled or returned[0]["points"] != -sent[0]["points"]):
        return f"{returned[0]['points']} points returned of {-sent[0]['points']} that were {len(settled)} times settled"
    if bool(settled and not returned) != bool(received) and (settled or cancelled):
        return "the two halves end differently"
    sent_at = sent[0]["recorded_at"]
    if not settled and not cancelled and datetime.now(UTC) - sent_at > IN_DOUBT_MAX:
        return f"in doubt since {sent_at:%Y-%m-%d %H:%M:%S}Z"
    return None


def _not_revoked(halves: defaultdict[str, list[Row]]) -> list[Row]:
    """What was received and not taken back, after a restore, because its sender's half is gone."""
    revoked = {(row["member_id"], orjson.loads(row["detail"])["revokes"]) for row in halves["transfer_revoked"]}
    return [row for row in halves["transfer_received"] if (row["member_id"], row["version"]) not in revoked]


def _wrong_with_revocations(halves: defaultdict[str, list[Row]]) -> str | None:
    """Each takes back all of one entry, once."""
    received = {(row["member_id"], row["version"]): row["points"] for row in halves["transfer_received"]}
    for row in halves["transfer_revoked"]:
        detail = orjson.loads(row["detail"])
        points = received.pop((row["member_id"], detail["revokes"]), None)
        if points != detail["revoked"] + detail["forgiven"]:
            told = f"{detail['revoked']} revoked and {detail['forgiven']} forgiven"
            return f"{told} of entry {detail['revokes']}, which received {points}"
    return None


def _wrong_with_halves(sent: Row, received: Row) -> str | None:
    """The receiver that was meant got the very lots."""
    detail = orjson.loads(sent["detail"])
    if detail["receiver"] != received["member_id"]:
        return f"sent to {format_member_id(detail['receiver'])}, received by {format_member_id(received['member_id'])}"
    if received["points"] != -sent["points"]:
        return f"{-sent['points']} sent, {received['points']} received"
    came = Counter[str | None]()
    for posting in full_postings(orjson.loads(received["postings"])):
        if posting["from"] == "program":
            came[posting["expires_at"]] += posting["points"]
    if came != Counter({expires_at: points for points, expires_at in detail["lots"]}):
        return "the lots received expire otherwise than those sent"
    return None


async def _check_programs(across: Across) -> list[Finding]:
    """Every shard must hold the same programs; the newest of them tells the stock of rewards."""
    finding = Finding("every shard holds the same programs", ALL)
    held: defaultdict[int, dict[str, str]] = defaultdict(dict)
    instants: defaultdict[int, dict[str, datetime]] = defaultdict(dict)
    for shard, connection in across.connections.items():
        for row in await connection.fetch(STATEMENTS["programs"]):
            held[row["version"]][shard] = row["source"]
            instants[row["version"]][shard] = row["effective_at"]
    for version, sources in held.items():
        finding.checked += 1
        missing = across.connections.keys() - sources
        since = instants[version]
        if missing:
            finding.fault(f"program {version}: not on {', '.join(sorted(missing))}; apply it again")
        elif len(set(sources.values())) > 1:
            finding.fault(f"program {version}: another text on {', '.join(_fewest(sources))}")
        elif len(set(since.values())) > 1:
            finding.fault(f"program {version}: counts from another instant on {', '.join(_fewest(since))}")
    if not held:
        return [finding]
    newest = max(held)
    program = attempt(finding, f"program {newest}", parse_program, next(iter(held[newest].values())), newest)
    return [finding, await _check_stock(across, program)] if program else [finding]


def _fewest(said: Mapping[str, Hashable]) -> list[str]:
    """The shards that say what the fewest say."""
    times = Counter(said.values())
    return [shard for shard, one in said.items() if times[one] == min(times.values())]


async def _check_stock(across: Across, program: Program) -> Finding:
    finding = Finding("allotments make up each reward's stock", ALL)
    allotted, redeemed = await _count_stock(across)
    for reward in program.rewards.values():
        if reward.stock is None:
            continue
        finding.checked += 1
        # A stock that was lowered below what is redeemed already leaves just that.
        expected = max(reward.stock, redeemed[reward.code])
        if allotted[reward.code] != expected:
            finding.fault(f"{reward.code}: {allotted[reward.code]} allotted, the stock is {expected}")
    return finding


async def _count_stock(across: Across) -> tuple[Counter[str], Counter[str]]:
    """What is allotted, here or on its way and not yet taken in there, and what is redeemed, by reward."""
    allotted, redeemed = Counter[str](), Counter[str]()
    moves: defaultdict[str, list[Row]] = defaultdict(list)
    for connection in across.connections.values():
        for row in await connection.fetch(STATEMENTS["stock"]):
            allotted[row["reward"]] += row["allotted"]
            redeemed[row["reward"]] += row["redeemed"]
        for row in await connection.fetch(STATEMENTS["stock_moves"]):
            moves[row["receiver"]].append(row)
    for receiver, rows in moves.items():
        arrived: set[Any] = set()
        if receiver in across.connections:
            ids = [row["move_id"] for row in rows]
            found = await across.connections[receiver].fetch(STATEMENTS["moves_arrived"], ids)
            arrived = {row["move_id"] for row in found}
        for row in rows:
            allotted[row["reward"]] += 0 if row["move_id"] in arrived else row["quantity"]
    return allotted, redeemed
