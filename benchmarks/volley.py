"""A flood: requests rendered beforehand, written on a schedule over many connections, by callbacks alone.

A task, a timeout and a future for each request cost the generator two to three times what a refusal costs a node (see
decision 0095): at ten times the peak its own queue was what was measured. Here what is due is written to a free
connection; where all wait for their answers it goes out with the next that is free, and counts as late. What found
none by the end is not sent, and counted.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from benchmarks.load import NANOSECONDS, START_DELAY_NS, Meter, Run, Samples, quiet
from benchmarks.pacer import Pacer
from benchmarks.wire import TIMEOUT_S, Answer, Client, WireError, read_answer

CONNECTIONS: Final = 512
"""At ten times the peak each waits some 30 ms for its no: more would only wait in the node's sockets."""
_TICK_NS: Final = 250_000
_REOPEN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Shot:
    """A request, and who learns from the answer when it is accepted."""

    request: bytes
    learn: Callable[[Answer], object]


class Volley:
    """Shots at the nodes of one side of a region; `group` is what they are counted as."""

    def __init__(
        self, client: Callable[[], Client], shots: Sequence[Shot], schedule: Sequence[int], group: str
    ) -> None:
        """`client` gives the next node's; `schedule` tells when, in nanoseconds from the start, for each shot."""
        self._client, self._shots, self._schedule = client, shots, schedule
        self._group = group
        self._samples = Samples()
        self._start_ns = 0
        self._free: deque[_Connection] = deque()
        self._open = set[_Connection]()
        self._waiting: deque[int] = deque()
        self._reopening = set[asyncio.Task[None]]()
        self._all_answered = asyncio.Event()
        self._under_way = 0
        self._sending = True

    async def fire(self, *, duration_s: float, processes: Mapping[str, int], connections: int = CONNECTIONS) -> Run:
        """Send them all and wait for the answers."""
        run = Run(duration_s)
        await asyncio.gather(*(self._connect() for _ in range(connections)))
        try:
            with quiet(), Pacer() as pacer:
                await self._send(run, pacer, processes)
                if self._under_way:
                    await asyncio.wait([asyncio.create_task(self._all_answered.wait())], timeout=TIMEOUT_S)
            run.drained_s = (time.monotonic_ns() - run.zero_ns) / NANOSECONDS - run.sent_s
        finally:
            for connection in tuple(self._open):
                connection.give_up()
            for task in tuple(self._reopening):
                task.cancel()
        run.samples[self._group] = self._samples
        return run

    async def _send(self, run: Run, pacer: Pacer, processes: Mapping[str, int]) -> None:
        self._start_ns = run.zero_ns = time.monotonic_ns() + START_DELAY_NS
        meter, sent, count = Meter(processes), 0, len(self._schedule)
        while sent < count:
            now_ns = time.monotonic_ns()
            while sent < count and self._start_ns + self._schedule[sent] <= now_ns:
                self._waiting.append(sent)
                sent += 1
            while self._waiting and self._free:
                self._shoot(self._free.popleft(), self._waiting.popleft())
            if sent < count:
                await pacer.until(max(self._start_ns + self._schedule[sent], now_ns + _TICK_NS), give_way=True)
        run.cpu, run.system_cpu = meter.shares()
        run.sent_s = max((time.monotonic_ns() - run.zero_ns) / NANOSECONDS, run.duration_s)
        self._sending = False
        if self._waiting:
            self._samples.errors["unsent"] += len(self._waiting)

    def _shoot(self, connection: "_Connection", number: int) -> None:
        self._under_way += 1
        connection.shoot(number, self._shots[number].request)

    def ready(self, connection: "_Connection") -> None:
        """Use a connection that has nothing to wait for."""
        if self._waiting and self._sending:
            self._shoot(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def done(self, number: int, sent_ns: int, answer: Answer | None, code: str) -> None:
        """Note what became of a shot."""
        now_ns, due_ns = time.monotonic_ns(), self._schedule[number]
        lateness_ns = sent_ns - self._start_ns - due_ns
        latency_ns = now_ns - self._start_ns - due_ns
        self._samples.record(scheduled_ns=due_ns, lateness_ns=lateness_ns, latency_ns=latency_ns, code=code)
        if answer is not None and code == "ok":
            self._shots[number].learn(answer)
        self._under_way -= 1
        if not self._under_way and not self._sending:
            self._all_answered.set()

    def opened(self, connection: "_Connection") -> None:
        """Take a connection."""
        self._open.add(connection)
        self.ready(connection)

    def lost(self, connection: "_Connection") -> None:
        """Open another in the place of one that was closed."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if self._sending:
            task = asyncio.get_running_loop().create_task(self._reopen())
            self._reopening.add(task)
            task.add_done_callback(self._reopening.discard)

    async def _reopen(self) -> None:
        while self._sending:
            try:
                await self._connect()
            except WireError as error:
                self._samples.errors[error.reason] += 1
                await asyncio.sleep(_REOPEN_S)
            else:
                return

    async def _connect(self) -> None:
        await self._client().open(lambda: _Connection(self))


class _Connection(asyncio.Protocol):
    """Sends one shot after another, each when the one before is answered."""

    def __init__(self, volley: Volley) -> None:
        self._volley = volley
        self._transport: asyncio.Transport | None = None
        self._number: int | None = None
        self._sent_ns = 0
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass
        self._volley.opened(self)

    def shoot(self, number: int, request: bytes) -> None:
        """Send a shot."""
        assert self._transport is not None
        self._number, self._sent_ns = number, time.monotonic_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got = self._got + data if self._got else data
        answer = read_answer(self._got)
        if answer is None:
            return
        self._got = b""
        self._answered(answer, answer.code)
        if b"\r\nConnection: close" not in answer.head:
            self._volley.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._answered(None, "disconnected")
        self._volley.lost(self)

    def give_up(self) -> None:
        """Wait for no answer any more."""
        self._answered(None, "timeout")
        if self._transport is not None:
            self._transport.abort()

    def _answered(self, answer: Answer | None, code: str) -> None:
        number, self._number = self._number, None
        if number is not None:
            self._volley.done(number, self._sent_ns, answer, code)
