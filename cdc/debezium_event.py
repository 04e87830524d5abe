"""What a Debezium event says: the change of one row, as `Change` promises it."""

import base64
import datetime as dt
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

from cdc.source import KEY_COLUMNS, Change

_UNAVAILABLE: Final = "__debezium_unavailable_value"
_UNAVAILABLE_BYTES: Final = _UNAVAILABLE.encode()
_OPERATIONS: Final[Mapping[str, Any]] = {"c": "insert", "u": "update", "d": "delete", "m": "message"}
_TIMESTAMPS: Final[Mapping[str, tuple[str, ...]]] = {
    "journal": ("occurred_at", "recorded_at"),
    "member": ("enrolled_at",),
    "program": ("effective_at", "applied_at"),
    "purchase": ("occurred_at",),
}
_DATES: Final[Mapping[str, tuple[str, ...]]] = {"purchase": ("business_date",)}
_DAY_ZERO: Final = dt.date(1970, 1, 1).toordinal()


def read_event(payload: bytes) -> Change:
    """The change of a Debezium event, `unread` when it is none we understand: one event never ends the stream."""
    try:
        return parse_event(payload)
    except Exception as error:  # noqa: BLE001
        return Change("?", "unread", {"why": f"{type(error).__name__}: {error}"}, time.time_ns() // 1000, 0)


def parse_event(payload: bytes) -> Change:
    """The change of a Debezium event (JSON without schema), normalized to what Change promises."""
    event = orjson.loads(payload)
    source = event["source"]
    operation = _OPERATIONS[event["op"]]
    if operation == "message":
        message = event["message"]
        table, row = message["prefix"], {"content": base64.b64decode(message["content"]).decode()}
    else:
        table = source["table"]
        row = _key_of(table, event["before"]) if operation == "delete" else _normalized(table, event["after"])
        if _UNAVAILABLE_BYTES in payload:
            row = {name: value for name, value in row.items() if value != _UNAVAILABLE}
    return Change(table, operation, row, source["ts_us"], source["lsn"], source["txId"])


def _key_of(table: str, before: dict[str, Any]) -> dict[str, Any]:
    """Only the key of a deleted row is real: the rest Debezium fills with zeros."""
    return {name: before[name] for name in KEY_COLUMNS.get(table, ())}


def _normalized(table: str, row: dict[str, Any]) -> dict[str, Any]:
    for name in _TIMESTAMPS.get(table, ()):
        if (text := row.get(name)) and text.endswith(".000000Z"):
            row[name] = text[:-8] + "Z"
    for name in _DATES.get(table, ()):
        if (days := row.get(name)) is not None:
            try:
                row[name] = dt.date.fromordinal(_DAY_ZERO + days).isoformat()
            except (ValueError, OverflowError):  # infinity: as absent as what did not travel
                del row[name]
    return row
