"""pgoutput messages, built by hand after the manual, and what they decode to."""

import struct

import pytest

from cdc.pgoutput import Decoder, utc_timestamp
from cdc.source import Change

INT8, TEXT, BOOL, DATE, TIMESTAMPTZ = 20, 25, 16, 1082, 1184
COMMITTED_AT_US = 1_795_336_000_123_456
BEGIN = b"B" + struct.pack(">qqi", 900, COMMITTED_AT_US - 946_684_800_000_000, 7)
UNCHANGED = object()


def relation(*columns: tuple[str, int, bool], oid: int = 5, table: str = "thing") -> bytes:
    described = b"".join(
        bytes([key]) + name.encode() + b"\0" + struct.pack(">ii", kind, -1) for name, kind, key in columns
    )
    return (
        b"R"
        + struct.pack(">i", oid)
        + b"public\0"
        + table.encode()
        + b"\0d"
        + struct.pack(">h", len(columns))
        + described
    )


def values(*fields: object) -> bytes:
    return struct.pack(">h", len(fields)) + b"".join(map(_field, fields))


def _field(field: object) -> bytes:
    if field is None:
        return b"n"
    if field is UNCHANGED:
        return b"u"
    text = str(field).encode()
    return b"t" + struct.pack(">i", len(text)) + text


def ref(kind: bytes, oid: int = 5) -> bytes:
    return kind + struct.pack(">i", oid)


@pytest.fixture
def decoder() -> Decoder:
    decoder = Decoder()
    decoder.decode(BEGIN, 0)
    decoder.decode(relation(("id", INT8, True), ("name", TEXT, False), ("ok", BOOL, False)), 0)
    return decoder


def test_an_insert_has_typed_values_commit_time_and_lsn(decoder: Decoder) -> None:
    row = {"id": -9_223_372_036_854_775_808, "name": "Grüße 👋", "ok": True}
    changes = decoder.decode(ref(b"I") + b"N" + values(-9_223_372_036_854_775_808, "Grüße 👋", "t"), 901)
    assert changes == [Change("thing", "insert", row, COMMITTED_AT_US, 901, 7)]


def test_null_is_none_and_an_unchanged_value_is_absent(decoder: Decoder) -> None:
    (change,) = decoder.decode(ref(b"U") + b"N" + values(1, UNCHANGED, None), 902)
    assert (change.operation, change.row) == ("update", {"id": 1, "ok": None})


def test_an_update_of_the_key_is_a_delete_and_an_insert(decoder: Decoder) -> None:
    changes = decoder.decode(ref(b"U") + b"K" + values(1, None, None) + b"N" + values(2, "b", "f"), 903)
    assert [(change.operation, change.row) for change in changes] == [
        ("delete", {"id": 1}),
        ("insert", {"id": 2, "name": "b", "ok": False}),
    ]


def test_an_update_with_the_full_old_row_is_one_update(decoder: Decoder) -> None:
    (change,) = decoder.decode(ref(b"U") + b"O" + values(1, "a", "t") + b"N" + values(1, "b", "t"), 904)
    assert (change.operation, change.row["name"]) == ("update", "b")


@pytest.mark.parametrize("kind", [b"K", b"O"])
def test_a_delete_has_the_key_alone(decoder: Decoder, kind: bytes) -> None:
    (change,) = decoder.decode(ref(b"D") + kind + values(1, "a", "t"), 905)
    assert (change.operation, change.row) == ("delete", {"id": 1})


def test_a_message_carries_its_prefix_and_content(decoder: Decoder) -> None:
    message = b"M" + struct.pack(">bq", 1, 906) + b"loyalty.heartbeat\0" + struct.pack(">i", 2) + b"hi"
    assert decoder.decode(message, 906) == [
        Change("loyalty.heartbeat", "message", {"content": "hi"}, COMMITTED_AT_US, 906, 7)
    ]


def test_a_message_of_another_tool_is_passed_over_whatever_it_holds(decoder: Decoder) -> None:
    assert (
        decoder.decode(b"M" + struct.pack(">bq", 1, 906) + b"other tool\0" + struct.pack(">i", 1) + b"\xff", 906) == []
    )


def test_what_cannot_be_read_is_yielded_as_unread_and_the_next_change_goes_on(decoder: Decoder) -> None:
    message = b"M" + struct.pack(">bq", 1, 906) + b"loyalty.note\0" + struct.pack(">i", 1) + b"\xff"
    (change,) = decoder.decode(message, 906)
    assert (change.operation, change.lsn, change.row["why"].split(":")[0]) == ("unread", 906, "UnicodeDecodeError")
    (change,) = decoder.decode(ref(b"I", oid=99) + b"N" + values(1, "a", "t"), 907)
    assert (change.operation, change.row) == ("unread", {"why": "KeyError: 99"})
    (change,) = decoder.decode(ref(b"I") + b"N" + values(1, "a", "t"), 908)
    assert change.operation == "insert"


def test_a_column_that_cannot_be_read_is_absent_and_the_others_stay(decoder: Decoder) -> None:
    unreadable = b"t" + struct.pack(">i", 1) + b"\xff"
    row = struct.pack(">h", 3) + _field(1) + unreadable + _field("t")
    (change,) = decoder.decode(ref(b"I") + b"N" + row, 909)
    assert (change.operation, change.row) == ("insert", {"id": 1, "ok": True})


@pytest.mark.parametrize("kind", [b"B", b"C", b"R"])
def test_what_frames_the_changes_is_never_passed_over(decoder: Decoder, kind: bytes) -> None:
    with pytest.raises((struct.error, ValueError)):
        decoder.decode(kind + b"\0\0", 910)


def test_a_commit_tells_how_far_postgres_may_forget(decoder: Decoder) -> None:
    assert decoder.decode(b"C" + struct.pack(">bqqq", 0, 900, 950, 0), 0) == []
    assert decoder.committed_lsn == 901  # Postgres skips transactions whose commit begins below


def test_a_changed_table_is_announced_again(decoder: Decoder) -> None:
    decoder.decode(relation(("id", INT8, True), ("day", DATE, False), ("at", TIMESTAMPTZ, False)), 0)
    (change,) = decoder.decode(ref(b"I") + b"N" + values(1, "2026-11-22", "2026-11-22 10:00:00.5+00"), 907)
    assert change.row == {"id": 1, "day": "2026-11-22", "at": "2026-11-22T10:00:00.500000Z"}


@pytest.mark.parametrize("kind", [b"Y", b"O", b"T"])
def test_types_origins_and_truncates_are_passed_over(decoder: Decoder, kind: bytes) -> None:
    assert decoder.decode(kind + bytes(20), 908) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-11-22 10:00:00+00", "2026-11-22T10:00:00Z"),
        ("2026-11-22 10:00:00.5+00", "2026-11-22T10:00:00.500000Z"),
        ("2026-11-22 10:00:00.123456+00", "2026-11-22T10:00:00.123456Z"),
    ],
)
def test_a_timestamp_reads_like_pythons(text: str, wanted: str) -> None:
    assert utc_timestamp(text) == wanted
