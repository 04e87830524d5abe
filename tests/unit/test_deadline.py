"""One timer for all who wait: each is told when its own time is over, in whatever order they came."""

import asyncio
import time

from command.deadline import Deadlines
from tests.conftest import eventually

FAR_S = 3_600.0


class Wait:
    """Somebody who waits, and when they were told to give up."""

    def __init__(self) -> None:
        self.told_at: list[float] = []

    def give_up(self) -> None:
        self.told_at.append(time.monotonic())


async def test_each_is_told_once_at_its_own_deadline_and_not_before() -> None:
    deadlines, waits, now = Deadlines(), [Wait() for _ in range(5)], time.monotonic()
    due = [now + after_s for after_s in (FAR_S, 0.06, -1.0, 0.02, 0.04)]
    for wait, deadline in zip(waits, due, strict=True):
        deadlines.add(wait, deadline)

    async def all_told() -> bool:
        return all(wait.told_at for wait in waits[1:])

    await eventually(all_told)
    assert not waits[0].told_at
    for wait, deadline in zip(waits[1:], due[1:], strict=True):
        assert len(wait.told_at) == 1
        assert wait.told_at[0] >= deadline


async def test_who_is_removed_is_not_told_and_those_behind_still_are() -> None:
    deadlines, answered, late = Deadlines(), Wait(), Wait()
    now = time.monotonic()
    deadlines.add(answered, now + 0.01)
    deadlines.add(late, now + 0.03)
    deadlines.remove(answered)
    deadlines.remove(answered)

    async def told() -> bool:
        return bool(late.told_at)

    await eventually(told)
    assert not answered.told_at


async def test_a_timer_that_rings_for_nobody_leaves_the_next_one_theirs() -> None:
    deadlines, answered, following = Deadlines(), Wait(), Wait()
    deadlines.add(answered, time.monotonic() + 0.01)
    deadlines.remove(answered)
    await asyncio.sleep(0)
    deadlines.add(following, time.monotonic() + 0.05)

    async def told() -> bool:
        return bool(following.told_at)

    await eventually(told)
    assert not answered.told_at
