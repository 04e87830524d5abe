"""Instants as texts, and the state of an account as a row."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from rules.codec import instant, instant_text, state_row
from rules.state import Account, Lot, TierStanding

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_equal_instants_have_one_text_whatever_zone_they_came_in() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert instant_text(elsewhere) == instant_text(NOON) == "2026-03-01T12:00:00Z"


def test_a_text_is_read_as_the_instant_it_was_made_of() -> None:
    precise = NOON.replace(microsecond=120)
    assert instant(instant_text(precise)) == precise


def test_no_instant_has_no_text() -> None:
    assert instant_text(None) is None


def test_what_a_state_has_not_is_not_stored() -> None:
    state = Account(7, NOON, TierStanding("basic", NOON))
    micros = 1_772_366_400_000_000
    assert state_row(state) == ["basic", micros, None, micros, []]
    bought = replace(state, lots=(Lot(5, NOON),), counters={"purchases": 1, "days": [740_000, 1, 5]})
    assert state_row(bought)[4:] == [[[5, "2026-03-01T12:00:00Z"]], 1, [740_000, 1, 5]]


def test_what_few_members_have_is_named() -> None:
    state = Account(7, NOON, TierStanding("basic", NOON), counters={"purchases": 1, "referrals": [[8, 1, 740_000, 5]]})
    assert state_row(state)[5:] == [1, None, None, None, None, {"counters": {"referrals": [[8, 1, 740_000, 5]]}}]
