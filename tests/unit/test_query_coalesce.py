"""Many questions of one turn become one call."""

import asyncio
from typing import Any

import pytest

from query.announcement import Announcements, Woken
from query.breaker import Breaker
from query.coalesce import Coalescer
from tests.conftest import eventually


class Calls:
    """Records the batches; waits at the gate when told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, keys: list[int]) -> list[int]:
        self.batches.append(keys)
        await self.gate.wait()
        return [10 * key for key in keys]


async def test_questions_of_one_turn_travel_together_and_get_their_own_answers() -> None:
    calls = Calls()
    coalescer = Coalescer[int, int](calls.fetch, batch_max=100)
    assert await asyncio.gather(*(coalescer.get(key) for key in (3, 1, 3))) == [30, 10, 30]
    assert calls.batches == [[3, 1, 3]]


async def test_a_batch_is_bounded_and_nothing_is_lost() -> None:
    calls = Calls()
    coalescer = Coalescer[int, int](calls.fetch, batch_max=4)
    assert await asyncio.gather(*(coalescer.get(key) for key in range(10))) == [10 * key for key in range(10)]
    assert [len(batch) for batch in calls.batches] == [4, 4, 2]


async def test_while_calls_are_under_way_the_next_one_gathers() -> None:
    calls = Calls()
    calls.gate.clear()
    coalescer = Coalescer[int, int](calls.fetch, batch_max=100, in_flight_max=1)
    answers: list[asyncio.Future[int]] = []
    for key in range(5):
        answers.append(coalescer.get(key))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    calls.gate.set()
    assert await asyncio.gather(*answers) == [0, 10, 20, 30, 40]
    assert calls.batches == [[0], [1, 2, 3, 4]]


async def test_who_is_to_be_told_hears_in_the_turn_of_the_answer_and_fails_alone() -> None:
    calls = Calls()
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    coalescer = Coalescer[int, int](calls.fetch, batch_max=100, instead=lambda _: 0)
    order: list[str] = []
    first = coalescer.get(1)
    first.add_done_callback(lambda _: order.append("woken"))
    coalescer.tell(2, lambda value: order.append(f"told {value}"))
    coalescer.tell(3, lambda value: order.append(f"{value // 0}"))
    coalescer.tell(4, lambda value: order.append(f"told {value}"))
    assert await first == 10
    assert order == ["told 20", "told 40", "woken"]
    assert [type(failure["exception"]) for failure in failures] == [ZeroDivisionError]


async def test_who_is_to_be_told_hears_of_what_stands_for_an_answer() -> None:
    async def refuse(keys: list[int]) -> list[int]:
        raise OSError(keys)

    coalescer = Coalescer[int, int](refuse, batch_max=100, instead=lambda _: -1)
    told: list[int] = []
    coalescer.tell(1, told.append)
    assert await coalescer.get(2) == -1
    assert told == [-1]


async def test_one_asker_that_gives_up_disturbs_no_other() -> None:
    calls = Calls()
    coalescer = Coalescer[int, int](calls.fetch, batch_max=100)
    gone, stays = coalescer.get(1), coalescer.get(2)
    gone.cancel()
    assert await stays == 20


async def test_what_the_call_raises_every_asker_gets_and_the_next_call_is_free() -> None:
    failures = iter([True, False])

    async def fetch(keys: list[int]) -> list[int]:
        await asyncio.sleep(0)
        if next(failures):
            raise LookupError
        return keys

    coalescer = Coalescer[int, int](fetch, batch_max=100)
    answers = await asyncio.gather(coalescer.get(1), coalescer.get(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LookupError, LookupError]
    assert await coalescer.get(3) == 3


@pytest.mark.parametrize("answers", [[1], [1, 2, 3], 7, None, b""])
async def test_answers_that_do_not_fit_the_questions_leave_nobody_waiting(answers: Any) -> None:
    async def fetch(keys: list[int]) -> Any:
        await asyncio.sleep(0)
        return keys if len(keys) == 1 else answers

    coalescer = Coalescer[int, int](fetch, batch_max=2, in_flight_max=1)
    asked = [coalescer.get(key) for key in range(3)]
    replies = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    assert [isinstance(reply, Exception) for reply in replies] == [True, True, False]


async def test_what_cannot_be_asked_leaves_nobody_waiting() -> None:
    def fetch(keys: list[int]) -> Any:
        raise UnicodeError(keys)

    coalescer = Coalescer[int, int](fetch, batch_max=2)
    replies = await asyncio.wait_for(asyncio.gather(coalescer.get(1), coalescer.get(2), return_exceptions=True), 5)
    assert [type(reply) for reply in replies] == [UnicodeError, UnicodeError]


async def test_whoever_waits_for_the_next_call_gets_what_stands_for_an_answer_at_once() -> None:
    called: list[list[int]] = []

    async def fetch(keys: list[int]) -> list[int]:
        called.append(keys)
        await asyncio.sleep(0)
        raise ConnectionError

    coalescer = Coalescer[int, int](fetch, batch_max=2, in_flight_max=1, instead=lambda _: -1)
    assert await asyncio.gather(*(coalescer.get(key) for key in range(5))) == [-1] * 5
    assert called == [[0, 1]]


async def test_a_breaker_outlives_whatever_its_probe_raises_and_probes_no_more_once_closed() -> None:
    probed = asyncio.Event()

    async def probe() -> None:
        probed.set()
        await asyncio.sleep(0)
        raise LookupError

    breaker = Breaker("a server", probe)
    for _ in range(2):
        breaker.trip(ConnectionError())
        probed.clear()
        await asyncio.wait_for(probed.wait(), 5)
    await breaker.close()
    probed.clear()
    breaker.trip(ConnectionError())
    await asyncio.sleep(0)
    assert breaker.is_open
    assert not probed.is_set()


async def test_a_breaker_closes_when_the_probe_succeeds() -> None:
    alive = asyncio.Event()

    async def probe() -> None:
        await asyncio.sleep(0)
        if not alive.is_set():
            raise ConnectionError

    breaker = Breaker("a server", probe)
    breaker.trip(ConnectionError())
    assert breaker.is_open
    alive.set()

    async def closed() -> bool:
        return not breaker.is_open

    await eventually(closed)
    await breaker.close()


async def test_a_waiter_wakes_for_its_version_and_not_for_an_older_one() -> None:
    visible = Announcements("redis://unused", waiters_max=10)
    with visible.watch(5) as watch:
        assert watch
        visible.announce(b"5:3 6:9")
        assert not await watch.wait(4, timeout_s=0.01)
        visible.announce(b"6:9 5:4")
        assert await watch.wait(4, timeout_s=5)
    assert visible.waiting == 0


async def test_waiters_are_bounded() -> None:
    visible = Announcements("redis://unused", waiters_max=1)
    with visible.watch(1) as first, visible.watch(2) as second:
        assert first is not None
        assert second is None
    with visible.watch(2) as again:
        assert again is not None


async def test_what_was_announced_wakes_once() -> None:
    visible = Announcements("redis://unused", waiters_max=1)
    with visible.watch(5) as watch:
        assert watch
        visible.announce(b"5:9")
        assert await watch.wait(4, timeout_s=5) is Woken.ANNOUNCED
        assert await watch.wait(4, timeout_s=0.01) is None
        visible.announce(b"5:9")
        assert await watch.wait(4, timeout_s=5) is Woken.ANNOUNCED


@pytest.mark.parametrize("announced_first", [True, False])
async def test_a_missed_notification_wakes_whatever_was_announced_before(announced_first: bool) -> None:  # noqa: FBT001
    visible = Announcements("redis://unused", waiters_max=1)
    with visible.watch(5) as watch:
        assert watch
        if announced_first:
            visible.announce(b"5:3")
        watch.wake()
        assert await watch.wait(9, timeout_s=5)
        assert not await watch.wait(9, timeout_s=0.01)
