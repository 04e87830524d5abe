"""What a stored answer leaves out, and how it is put back."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from service.stored_answer import completed, is_shortened, read_entry, shortened

MEMBER = 290482174982471680
POSTING = {"points": 13, "from": "program", "to": "available", "expires_at": "2027-11-30T22:59:59Z", "reason": "base"}
NOT_APPLIED = [{"code": "fuel", "why": "no_line: no line matches"}]
ROW = {
    "kind": "purchase_recorded",
    "points": 13,
    "recorded_at": datetime(2026, 11, 22, 10, 0, 1, 500000, UTC),
    "postings": '[[13,"program","available","base","2027-11-30T22:59:59Z"]]',
    "detail": "{}",
    "account_after": '[13,0,0,0,13,[13,"2027-11-30T22:59:59Z"],true,"basic","Basic",13,"2026-11-01T00:00:00Z",null,"gold",7]',  # noqa: E501
    "document": '["EUR",1300,1300,13,null,null,[["a","1",1300]],["base",13,"fuel","no_line:"]]',
}
"""A purchase's entry as it stands in the journal, with its basket: rows of today, read by every version to come."""
GIVEN = (
    b'{"purchase_id":"pur_081ZZZZ2PKG00S-2","entry_id":"ent_081ZZZZ2PKG00S-2","points_earned":13,"postings":[{"points":13,'
    b'"from":"program","to":"available","expires_at":"2027-11-30T22:59:59Z","reason":"base"}],"not_applied":[{"code":"fuel",'
    b'"why":"no_line: no line matches"}],"account":{"member_id":"081ZZZZ2PKG00S","version":2,"balance":{"available":13,'
    b'"pending":0,"held":0,"debt":0,"lifetime":13,"expiring":[{"points":13,"at":"2027-11-30T22:59:59Z"}],'
    b'"next_change_at":"2027-11-30T22:59:59Z"},"tier":{"code":"basic","name":"Basic","qualifying_points":13,'
    b'"since":"2026-11-01T00:00:00Z","until":null,"next":{"code":"gold","points_needed":7}},'
    b'"as_of":"2026-11-22T10:00:01.500000Z"}}'
)
OF_OLD = ROW | {
    "postings": orjson.dumps([POSTING]).decode(),
    "detail": orjson.dumps({"not_applied": NOT_APPLIED}).decode(),
    "account_after": orjson.dumps(orjson.loads(GIVEN)["account"]).decode(),
}
"""The same entry as the version before stored it."""


@pytest.mark.parametrize("row", [ROW, OF_OLD])
def test_an_answer_is_made_from_its_entry_to_the_byte_whatever_version_stored_it(row: dict[str, Any]) -> None:
    entry = read_entry(MEMBER, 2, row)
    assert completed("{}", entry) == GIVEN
    assert completed(shortened(orjson.loads(GIVEN)).decode(), entry) == GIVEN


def test_an_entry_that_tells_nothing_of_offers_had_none() -> None:
    assert completed('{"not_applied":null}', read_entry(MEMBER, 2, ROW | {"document": None})) == b'{"not_applied":[]}'


@pytest.mark.parametrize("stored", ['{ "account": {"version": 1}, "postings": [] }', '{"hold_id":"hld_x","note":null}'])
def test_what_an_earlier_version_stored_stays_as_it_is(stored: str) -> None:
    assert completed(stored, read_entry(MEMBER, 2, ROW)) == stored.encode()


def test_a_refusal_has_no_entry_and_is_whole() -> None:
    assert completed('{"account":null}', None) == b'{"account":null}'


def test_only_what_the_entry_has_may_be_left_out() -> None:
    assert not is_shortened({"points_earned": None}, "points_earned")
    assert not is_shortened({}, "account")
