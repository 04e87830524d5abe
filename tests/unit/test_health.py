"""A check of what may be away for a moment does not make a node unready at once."""

from service.health import Steady


async def test_a_check_fails_at_once_until_it_was_well_and_then_only_when_it_stays_unwell() -> None:
    now, trouble = 0.0, "no primary"

    async def check() -> str | None:
        return trouble or None

    steady = Steady(check, steady_s=10, now=lambda: now)
    assert await steady() == "no primary"
    trouble = ""
    assert await steady() is None
    trouble, now = "no primary", 9.0
    assert await steady() is None
    now = 10.0
    assert await steady() == "no primary"
    trouble = ""
    assert await steady() is None


async def test_a_fault_in_a_check_is_trouble_too() -> None:
    async def broken() -> str | None:
        raise OSError("refused")

    assert await Steady(broken)() == "refused"
