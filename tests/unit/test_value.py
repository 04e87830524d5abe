"""Values: what they are equal by, and what they hold."""

from rules.state import Lot


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    assert Lot(5) == Lot(5) != Lot(6)
    assert len({Lot(5), Lot(5), Lot(6)}) == 2


def test_a_value_has_no_other_fields() -> None:
    assert not hasattr(Lot(5), "__dict__")
