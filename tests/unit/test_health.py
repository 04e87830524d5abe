"""A check of what may be away for a moment does not make a node unready at once."""

import asyncio

from service.health import Steady, Together


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


async def test_who_asks_meanwhile_hears_the_same_whoever_else_leaves() -> None:
    done = 0

    async def work() -> int:
        nonlocal done
        done += 1
        await asyncio.sleep(0)
        return done

    together = Together(work)
    asking = [asyncio.create_task(together.result()) for _ in range(20)]
    asyncio.get_running_loop().call_soon(asking[0].cancel)  # when all have asked
    assert (await asyncio.gather(*asking, return_exceptions=True))[1:] == [1] * 19
    assert await together.result() == 2
