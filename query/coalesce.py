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

    With `instead` the askers get its value for the error.
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
            # What already is a future needs no task around it.
            call = asyncio.ensure_future(self._fetch([key for key, _ in batch]))  # noqa: RUF006 - kept in _calls
            self._calls.add(call)
            call.add_done_callback(partial(self._arrived, batch))

    def _arrived(self, batch: "Asked[K, V]", call: "asyncio.Future[Sequence[V]]") -> None:
        self._calls.discard(call)
        error = asyncio.CancelledError() if call.cancelled() else call.exception()
        if error is None:
            for (_, future), value in zip(batch, call.result(), strict=True):
                if not future.done():
                    future.set_result(value)
        else:
            self._answer_all(batch, error)
        self._leave()

    def _answer_all(self, batch: "Asked[K, V]", error: BaseException) -> None:
        value = self._instead(error) if self._instead else None
        for _, future in batch:
            if future.done():
                continue
            if self._instead:
                future.set_result(value)  # pyright: ignore[reportArgumentType] - it came from `instead`
            else:
                future.set_exception(error)
