"""Instants as texts."""

from datetime import UTC, datetime, timedelta, timezone

from rules.codec import instant, instant_text

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_equal_instants_have_one_text_whatever_zone_they_came_in() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert instant_text(elsewhere) == instant_text(NOON) == "2026-03-01T12:00:00Z"


def test_a_text_is_read_as_the_instant_it_was_made_of() -> None:
    precise = NOON.replace(microsecond=120)
    assert instant(instant_text(precise)) == precise


def test_no_instant_has_no_text() -> None:
    assert instant_text(None) is None
