"""Many questions of one event-loop turn become one call: a call costs far more than a key in it.

A question joins the call that leaves when this turn is over; while `in_flight_max` calls are under
way, the next one gathers. There is no timer: alone, a question waits for nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
Asked = list[tuple[K, "asyncio.Future[V]"]]


class Coalescer(Generic[K, V]):
    """Gathers keys into calls of `fetch`, which answers in the order of the keys; what it raises, every asker gets.

    With `instead`, which must not raise, the askers get its value for the error.
    """

    def __init__(
        self,
        fetch: Callable[[list[K]], Awaitable[Sequence[V]]],
        *,
        batch_max: int,
        in_flight_max: int = 2,
        instead: Callable[[BaseException], V] | None = None,
    ) -> None:
        self._fetch = fetch
        self._batch_max = batch_max
        self._in_flight_max = in_flight_max
        self._instead = instead
        self._waiting: Asked[K, V] = []
        self._scheduled = False
        self._calls: set[asyncio.Future[Sequence[V]]] = set()

    def get(self, key: K) -> "asyncio.Future[V]":
        """Ask for one key. The future is the caller's own, so cancelling it disturbs nobody."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V] = loop.create_future()
        self._waiting.append((key, future))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._leave)
        return future

    def _leave(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._calls) < self._in_flight_max:
            batch, self._waiting = self._waiting[: self._batch_max], self._waiting[self._batch_max :]
            try:
                # What already is a future needs no task around it.
                call = asyncio.ensure_future(self._fetch([key for key, _ in batch]))  # noqa: RUF006 - kept in _calls
            except Exception as error:  # noqa: BLE001 - what cannot even be asked has askers, too
                self._answer_all(batch, error)
                continue
            self._calls.add(call)
            call.add_done_callback(partial(self._arrived, batch))

    def _arrived(self, batch: "Asked[K, V]", call: "asyncio.Future[Sequence[V]]") -> None:
        self._calls.discard(call)
        try:
            values = call.result()
            assert len(values) == len(batch), f"{len(values)} answers to {len(batch)} questions"
        except BaseException as error:  # noqa: BLE001 - whatever it is, every asker hears of it
            self._answer_all(batch, error)
        else:
            for (_, future), value in zip(batch, values, strict=True):
                if not future.done():
                    future.set_result(value)
        self._leave()

    def _answer_all(self, batch: "Asked[K, V]", error: BaseException) -> None:
        value = self._instead(error) if self._instead else None
        if self._instead:  # whoever waits for the next call would fare no better, only later
            batch, self._waiting = batch + self._waiting, []
        for _, future in batch:
            if future.done():
                continue
            if self._instead:
                future.set_result(value)  # pyright: ignore[reportArgumentType] - it came from `instead`
            else:
                future.set_exception(error)
