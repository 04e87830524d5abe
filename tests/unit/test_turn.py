"""Long work lets others have their turn, on a clock that goes when told to."""

import asyncio
from collections.abc import Callable

import pytest

from command.turn import each


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, took_s: float) -> Callable[[int], int]:
        """Doubles a number, which takes so long."""

        def double(number: int) -> int:
            self.now += took_s
            return 2 * number

        return double


@pytest.mark.parametrize(("took_s", "given_way"), [(0.5, 4), (1.0, 9), (3.0, 9), (0.01, 0)])
async def test_others_have_their_turn_whenever_the_time_is_over(took_s: float, given_way: int) -> None:
    clock, seen, over = Clock(), 0, False

    def others() -> None:
        nonlocal seen
        seen += 1
        if not over:  # all tests share the loop
            asyncio.get_running_loop().call_soon(others)

    asyncio.get_running_loop().call_soon(others)
    await asyncio.sleep(0)
    seen = 0
    results = await each(clock.work(took_s), range(10), turn_s=1.0, clock=clock)
    over = True
    assert results == [2 * number for number in range(10)]
    assert seen == given_way


async def test_what_breaks_ends_the_work() -> None:
    def breaks(number: int) -> int:
        if number == 3:
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="3"):
        await each(breaks, range(10), turn_s=0.0)
