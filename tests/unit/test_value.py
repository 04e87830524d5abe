"""Values: what they are equal by, and what they hold."""

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest

from rules.state import Account, Hold, Lot, Posting, Redemption, TierStanding
from rules.value import changed

MOMENT = datetime(2026, 11, 27, tzinfo=UTC)


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    assert Lot(5) == Lot(5) != Lot(6)
    assert len({Lot(5), Lot(5), Lot(6)}) == 2


def test_a_value_has_no_other_fields() -> None:
    assert not hasattr(Lot(5), "__dict__")


def test_a_changed_value_is_another_one_that_differs_in_what_was_given() -> None:
    lot = Lot(5, MOMENT, MOMENT)
    assert changed(lot, points=6, available_at=None) == replace(lot, points=6, available_at=None) == Lot(6, MOMENT)
    assert lot == Lot(5, MOMENT, MOMENT)


@pytest.mark.parametrize("kind", [Account, Hold, Lot, Posting, Redemption, TierStanding])
def test_a_changed_value_keeps_every_other_field(kind: type) -> None:
    """Each field holds a value of its own, so that two of them cannot change places."""
    one = kind(*(field.name for field in fields(kind)))
    assert changed(one) == one == replace(one)
    for field in fields(kind):
        assert changed(one, **{field.name: "other"}) == replace(one, **{field.name: "other"})


def test_a_field_that_is_not_there_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        changed(Lot(5), poinst=6)
