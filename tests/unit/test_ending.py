"""A task ends though it has swallowed a cancellation."""

import asyncio

import pytest

from shard_router import ending
from shard_router.ending import end


async def test_who_swallowed_a_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "TOLD_AGAIN_S", 0.01)
    swallowed: list[int] = []
    begun = asyncio.Event()

    async def deaf() -> None:
        while True:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(1)

    async def fails() -> None:
        raise ValueError

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(fails())]
    await begun.wait()
    async with asyncio.timeout(30):
        await end(*tasks)
    assert (len(swallowed), tasks[0].cancelled()) == (2, True)
