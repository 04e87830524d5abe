"""A member who lived under the pure rules, as the rows that the command side would have stored of them."""

from datetime import date
from typing import Any

import orjson

from rules.codec import posting_document, state_row
from rules.describe import describe_account
from rules.outcome import Entry
from rules.program import Program
from rules.stored import short_account, short_postings
from shard_router.member_id import format_member_id
from shard_router.topology import Topology, TopologyDocument
from tests.query_world import member as member_id_of
from tests.rules_world import Member
from verify.books import MemberRows

ADA = member_id_of(1)
SHARD = {"region": "eu", "slots": [(0, 4095)], "servers": [], "valkey": ""}
REGION = {"number": 1, "command": [], "query": []}
TOPOLOGY = Topology(TopologyDocument.model_validate({"epoch": 1, "regions": {"eu": REGION}, "shards": {"eu-1": SHARD}}))
NO_DATE = date(1970, 1, 1)


def rows_of(member: Member, deciding: list[Program]) -> MemberRows:
    """Everything as the command side would store it, but answers."""
    programs = {entry.version: program for entry, program in zip(member.journal, deciding, strict=True)}
    journal = [journal_row(entry, program) for entry, program in zip(member.journal, deciding, strict=True)]
    personal = [row["version"] for row in journal if row["kind"] in {"member_enrolled", "member_closed"}]
    profile = "{}" if member.now.status == "open" else '{"erased": true}'
    return MemberRows(
        ADA,
        account_row(member),
        {"member_id": ADA, "version": personal[-1], "profile": profile},
        journal,
        [purchase_row(member, version, programs) for version in sorted(member.purchases)],
        [row for entry in member.journal if (row := receipt_row(entry, programs[entry.version]))],
        [],
        [],
    )


def journal_row(entry: Entry, program: Program) -> dict[str, Any]:
    ruling = program.version if entry.program_version is None else entry.program_version
    shown = describe_account(entry.account, program, format_member_id(ADA))
    detail: Any = entry.detail | ({"shown_by": program.version} if ruling != program.version else {})
    return {
        "member_id": ADA,
        "version": entry.version,
        "kind": entry.kind,
        "program_version": ruling,
        "occurred_at": entry.occurred_at,
        "recorded_at": entry.account.changed_at,
        "store": entry.store,
        "points": entry.points,
        "postings": orjson.dumps(short_postings([posting_document(posting) for posting in entry.postings])).decode(),
        "detail": orjson.dumps(detail),
        "account_after": orjson.dumps(short_account(shown)).decode(),
    }


def account_row(member: Member) -> dict[str, Any]:
    account = member.now
    names = ("version", "status", "available", "pending", "held", "spent", "expired", "debt", "issued", "due_at")
    columns = {name: getattr(account, name) for name in names}
    return columns | {"member_id": ADA, "state": orjson.dumps(state_row(account))}


def purchase_row(member: Member, version: int, programs: dict[int, Program]) -> dict[str, Any]:
    purchase = member.purchases[version]
    returns = [entry for entry in member.journal if entry.kind == "purchase_returned"]
    returned = [entry.version for entry in returns if entry.detail.get("purchase") == version]
    row = {"member_id": ADA, "version": version, "changed_version": max([version, *returned])}
    row |= {
        "occurred_at": purchase.occurred_at,
        "business_date": programs[version].business_date(purchase.occurred_at),
        "document": orjson.dumps(purchase.document),
    }
    return row | purchase.receipt


def receipt_row(entry: Entry, program: Program) -> dict[str, Any] | None:
    detail: Any = entry.detail
    match entry.kind:
        case "purchase_recorded":
            name = ("purchase", "330", "1", "r")
        case "purchase_returned" if "why" not in detail:
            name = ("return", "330", "1", "back")
        case "transfer_received":
            name = ("transfer", format_member_id(detail["sender"]), "-", str(detail["transfer"]))
        case "referral_credited":
            name = ("referral", format_member_id(detail["referee"]), "-", str(detail["purchase"]))
        case "referral_returned":
            name = ("referral_return", format_member_id(detail["referee"]), "-", "3")
        case _:
            return None
    row = dict(zip(("kind", "store", "till", "receipt"), name, strict=True))
    day = program.business_date(entry.occurred_at) if "purchase" in entry.kind else NO_DATE
    subject = f"{ADA}-{detail['purchase']}" if entry.kind == "purchase_returned" else ""
    return row | {"member_id": ADA, "version": entry.version, "business_date": day, "subject": subject}
