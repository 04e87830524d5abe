"""Changes as a source of the stream tells them."""

from typing import Any

import orjson

from cdc.source import Change
from shard_router.member_id import compose_member_id

ALICE = compose_member_id(region_number=1, slot=7, unique=1)
BOB = compose_member_id(region_number=1, slot=8, unique=2)


def journal(member_id: int, version: int, **other: Any) -> Change:
    row = {
        "member_id": member_id,
        "version": version,
        "kind": "purchase",
        "occurred_at": "2026-11-22T10:00:00Z",
        "recorded_at": "2026-11-22T10:00:00Z",
        "store": "s1",
        "points": version,
        "postings": "[]",
        "detail": "{}",
        "account_after": orjson.dumps({"version": version, "balance": {"available": version}}).decode(),
    }
    return Change("journal", "insert", row | other, 1, version)


def member(member_id: int, version: int) -> Change:
    row = {"member_id": member_id, "version": version, "profile": f'{{"name":"ü{version}"}}'}
    return Change("member", "update", row, 1, version)


def identifier(lsn: int, operation: Any = "insert", member_id: int = ALICE) -> Change:
    row: dict[str, Any] = {"kind": "phone", "value": "+49:1"}
    if operation != "delete":
        row |= {"member_id": member_id, "version": 1}
    return Change("identifier", operation, row, 1, lsn)
