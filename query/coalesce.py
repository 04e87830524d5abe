"""Many questions of one event-loop turn become one call: a call costs far more than a key in it.

A question joins the call that leaves when this turn is over; while `in_flight_max` calls are under
way, the next one gathers. There is no timer: alone, a question waits for nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Coalescer(Generic[K, V]):
    """Gathers keys into calls of `fetch`, which answers in the order of the keys; what it raises, every asker gets."""

    def __init__(
        self, fetch: Callable[[list[K]], Awaitable[Sequence[V]]], *, batch_max: int, in_flight_max: int = 2
    ) -> None:
        self._fetch = fetch
        self._batch_max = batch_max
        self._in_flight_max = in_flight_max
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._scheduled = False
        self._calls: set[asyncio.Task[None]] = set()

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
            call = asyncio.get_running_loop().create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._arrived)

    def _arrived(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        self._leave()

    async def _call(self, batch: list[tuple[K, "asyncio.Future[V]"]]) -> None:
        try:
            values = await self._fetch([key for key, _ in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to the askers
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), value in zip(batch, values, strict=True):
            if not future.done():
                future.set_result(value)
