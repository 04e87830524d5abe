"""What a stored answer leaves out, and how it is put back."""

from typing import Any

import orjson
import pytest

from service.stored_answer import completed, is_shortened, shortened

ENTRY = {
    "postings": '[{"points":3}]',
    "detail": '{"not_applied":[{"code":"fuel","why":"no_line: no line matches"}]}',
    "account_after": '{"version":2,"balance":{"available":3}}',
}
ANSWER: dict[str, Any] = {
    "purchase_id": "pur_x-2",
    "postings": [{"points": 3}],
    "not_applied": [{"code": "fuel", "why": "no_line: no line matches"}],
    "captured": 0,
    "account": {"version": 2, "balance": {"available": 3}},
}


def test_what_was_left_out_comes_back_to_the_byte() -> None:
    stored = shortened(ANSWER)
    assert orjson.loads(stored) == ANSWER | {"postings": None, "not_applied": None, "account": None}
    assert completed(stored.decode(), ENTRY) == orjson.dumps(ANSWER)


def test_an_entry_that_tells_nothing_of_offers_had_none() -> None:
    assert completed('{"not_applied":null}', ENTRY | {"detail": "{}"}) == b'{"not_applied":[]}'


@pytest.mark.parametrize("stored", ['{ "account": {"version": 1}, "postings": [] }', '{"hold_id":"hld_x","note":null}'])
def test_what_an_earlier_version_stored_stays_as_it_is(stored: str) -> None:
    assert completed(stored, ENTRY) == stored.encode()


def test_a_refusal_has_no_entry_and_is_whole() -> None:
    assert completed('{"account":null}', None) == b'{"account":null}'


def test_only_what_the_entry_has_may_be_left_out() -> None:
    assert not is_shortened({"points_earned": None}, "points_earned")
    assert not is_shortened({}, "account")
