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
Asker = Callable[[V], object]
Asked = list[tuple[K, "asyncio.Future[V] | Asker[V]"]]


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
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._ask(key, future)
        return future

    def tell(self, key: K, told: "Asker[V]") -> None:
        """Ask for one key, where `instead` stands for an error; the answer is told in the turn in which it comes.

        A future would wake its asker one turn of the event loop later.
        """
        assert self._instead is not None
        self._ask(key, told)

    def _ask(self, key: K, asker: "asyncio.Future[V] | Asker[V]") -> None:
        self._waiting.append((key, asker))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._leave)

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
            for (_, asker), value in zip(batch, values, strict=True):
                _give(asker, value)
        self._leave()

    def _answer_all(self, batch: "Asked[K, V]", error: BaseException) -> None:
        value = self._instead(error) if self._instead else None
        if self._instead:  # whoever waits for the next call would fare no better, only later
            batch, self._waiting = batch + self._waiting, []
        for _, asker in batch:
            if self._instead:
                _give(asker, value)  # pyright: ignore[reportArgumentType] - it came from `instead`
            elif isinstance(asker, asyncio.Future) and not asker.done():
                asker.set_exception(error)


def _give(asker: "asyncio.Future[V] | Asker[V]", value: V) -> None:
    """Hand an answer over; whoever fails over it disturbs nobody else."""
    if isinstance(asker, asyncio.Future):
        if not asker.done():
            asker.set_result(value)
        return
    try:
        asker(value)
    except Exception as error:  # noqa: BLE001 - as the event loop takes what a callback raises
        asyncio.get_running_loop().call_exception_handler({"message": "an answer was not taken", "exception": error})
