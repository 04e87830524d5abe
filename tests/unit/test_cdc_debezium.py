"""Debezium's events, without its engine."""

import base64
from typing import Any

import orjson
import pytest

from cdc.debezium_event import read_event
from cdc.source import Change

SOURCE = {"table": "purchase", "ts_us": 5, "lsn": 7, "txId": 9}


def event(operation: str, **others: Any) -> bytes:
    return orjson.dumps({"op": operation, "source": SOURCE, **others})


def message(content: bytes) -> bytes:
    return event("m", message={"prefix": "loyalty.note", "content": base64.b64encode(content).decode()})


def test_a_row_is_normalized() -> None:
    after = {"member_id": 1, "business_date": 20779, "occurred_at": "2026-11-22T10:00:00.000000Z"}
    row = {"member_id": 1, "business_date": "2026-11-22", "occurred_at": "2026-11-22T10:00:00Z"}
    assert read_event(event("c", after=after)) == Change("purchase", "insert", row, 5, 7, 9)


def test_a_day_that_is_none_is_absent_so_that_its_member_is_read_again() -> None:
    change = read_event(event("u", after={"member_id": 1, "business_date": 2**31 - 1}))
    assert (change.operation, change.row) == ("update", {"member_id": 1})


def test_a_delete_from_a_table_we_do_not_know_is_no_trouble() -> None:
    assert read_event(orjson.dumps({"op": "d", "source": SOURCE | {"table": "of tomorrow"}, "before": {}})) == Change(
        "of tomorrow", "delete", {}, 5, 7, 9
    )


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"{", "JSONDecodeError"),
        (event("x", after={}), "KeyError"),
        (event("c"), "KeyError"),
        (message(b"\xff"), "UnicodeDecodeError"),
    ],
    ids=["no document", "an operation of tomorrow", "no row", "no text"],
)
def test_what_cannot_be_read_is_yielded_as_unread(payload: bytes, why: str) -> None:
    change = read_event(payload)
    assert change.operation == "unread"
    assert change.row["why"].startswith(why)
