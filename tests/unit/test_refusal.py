"""How many refusals of a credential are stored, by the hour."""

from collections.abc import Callable

import pytest

from command.refusal import CREDENTIALS_MAX, OF_KEY_MAX, OF_MEMBER_MAX, WINDOW_S, StoredRefusals


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def stored(refusals: StoredRefusals, credential: str, asked: int) -> int:
    """How many of so many are stored."""
    kept = 0
    for _ in range(asked):
        if refusals.may_store(credential):
            refusals.note(credential)
            kept += 1
    return kept


@pytest.mark.parametrize(("credential", "most"), [("member:A", OF_MEMBER_MAX), ("0a1b2c", OF_KEY_MAX)])
def test_a_credential_has_so_many_an_hour(clock: Callable[[], float], credential: str, most: int) -> None:
    refusals = StoredRefusals(clock)
    assert stored(refusals, credential, most + 7) == most
    assert stored(refusals, f"{credential}2", 7) == 7, "others have their own"


def test_an_hour_after_the_first_one_they_count_anew(clock: Clock) -> None:
    refusals = StoredRefusals(clock)
    assert stored(refusals, "member:A", 200) == OF_MEMBER_MAX
    clock.now += WINDOW_S - 1
    assert stored(refusals, "member:A", 200) == 0
    clock.now += 1
    assert stored(refusals, "member:A", 200) == OF_MEMBER_MAX


def test_credentials_not_heard_of_for_longest_are_forgotten(clock: Clock) -> None:
    refusals = StoredRefusals(clock)
    assert stored(refusals, "member:first", OF_MEMBER_MAX) == OF_MEMBER_MAX
    for number in range(CREDENTIALS_MAX - 1):
        refusals.note(f"member:{number}")
    assert stored(refusals, "member:first", 1) == 0
    refusals.note("member:one more")
    assert stored(refusals, "member:first", 1) == 1
