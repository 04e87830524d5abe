"""Rows as arguments of a statement."""

from datetime import date

import orjson
import pytest

from command.columns import RowStatement
from command.load import OPTIONAL, load_statement
from command.record import record_statement

TEXT = (
    "INSERT INTO x SELECT * FROM json_to_recordset($1::json) AS t(\n    id bigint, told json,\n    day date\n) WHERE y"
)
DAY = date(2026, 11, 26)
ROWS = [{"id": 1, "told": [1], "day": DAY}, {"day": None, "told": orjson.Fragment(b"{}"), "id": 2, "other": 3}]


def test_rows_become_an_array_per_column_and_one_row_plain_values() -> None:
    statement = RowStatement(TEXT)
    assert statement.of_rows(3) == (
        "INSERT INTO x SELECT * FROM unnest($3::bigint[], $4::json[], $5::date[]) AS t(id, told, day) WHERE y"
    )
    assert statement.of_one() == (
        "INSERT INTO x SELECT * FROM (VALUES ($1::bigint, $2::json, $3::date)) AS t(id, told, day) WHERE y"
    )
    assert len(statement) == 3
    assert statement.names == ["id", "told", "day"]
    assert statement.columns(ROWS) == [(1, 2), ["[1]", "{}"], (DAY, None)]
    assert statement.values(ROWS[0]) == [1, "[1]", DAY]


def test_a_statement_that_reads_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="SELECT 1"):
        RowStatement("SELECT 1")


def test_load_asks_only_the_tables_that_its_commands_need_and_shows_the_same_columns() -> None:
    least, all_of_it = load_statement((), one=True), load_statement(OPTIONAL, one=False)
    for table in ("identifier d", "idempotency i", "receipt r", "purchase p", "journal j"):
        assert f"LEFT JOIN {table}" in all_of_it
        assert f"LEFT JOIN {table}" not in least
    for name in ("key_fingerprint", "receipt_version", "purchase_version", "document", "referral", "birth_date"):
        assert f"NULL AS {name}," in least
        assert f" AS {name}," in all_of_it
    assert "ORDER BY c.position" in all_of_it


def test_load_reads_no_member_for_purchases_under_a_program_without_birthdays() -> None:
    assert "FROM member m" not in load_statement(("key", "receipt"), one=True)
    assert "FROM member m" in load_statement(("key", "receipt", "birthday"), one=True)


def test_a_line_for_one_row_or_for_many_is_in_that_text_only() -> None:
    statement = RowStatement(f"{TEXT}\nAND one -- of: one\nAND many -- of: many")
    assert statement.of_one().endswith("AS t(id, told, day) WHERE y\nAND one")
    assert statement.of_rows().endswith("AS t(id, told, day) WHERE y\nAND many")


def test_load_orders_only_many_rows() -> None:
    assert "ORDER BY c.position" not in load_statement(("key",), one=True)


@pytest.mark.parametrize("table", ["account_change", "purchase_change"])
def test_one_row_is_changed_by_its_key_and_many_by_what_a_look_up_kept_apart_finds(table: str) -> None:
    assert ".ctid" not in record_statement((table,), one=True)
    assert "OFFSET 0" not in record_statement((table,), one=True)
    assert ".ctid = found.ctid" in record_statement((table,))
    assert ".member_id = t.member_id\n" not in record_statement((table,))
