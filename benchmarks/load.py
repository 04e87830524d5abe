"""Open-model load: requests leave on a schedule fixed beforehand, whatever the answers do.

Latency counts from the scheduled instant, so a stall shows in every request that should have gone out during it (no
coordinated omission). How late the generator itself sent is recorded too: it is part of every latency, and when it is
more than a small part of the 99th percentile, or the generator's core is nearly used up, the run is void.
"""

import asyncio
import gc
import heapq
import os
import random
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.cpu import GENERATOR, cpu_seconds
from benchmarks.latency import Latency
from benchmarks.pacer import Pacer

NANOSECONDS: Final = 1_000_000_000
LATENESS_SHARE_MAX: Final = 0.05  # of the latency p99
LATENESS_FLOOR_MS: Final = 1.0  # below it lateness is the kernel's scheduling, and no target is that fine
GENERATOR_CPU_MAX: Final = 0.8
START_DELAY_NS: Final = 100_000_000
_YIELD_EVERY: Final = 16  # a generator that is behind must still read answers
_NICE: Final = -10

Shoot = Callable[[int], Coroutine[Any, Any, str]]
"""Sends the n-th request of a flow; returns `ok` or the stable code of what went wrong."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests of one kind: when (nanoseconds from the start) and how. `name_of` names the n-th for the report."""

    schedule: Sequence[int]
    shoot: Shoot
    name_of: Callable[[int], str]


@dataclass(slots=True)
class Samples:
    """What was measured of one kind of request, in the order of completion. `code` is `ok` or an error's."""

    scheduled_us: "array[int]" = field(default_factory=lambda: array("Q"))
    latency_us: "array[int]" = field(default_factory=lambda: array("Q"))
    lateness_us: "array[int]" = field(default_factory=lambda: array("Q"))
    refused_us: "array[int]" = field(default_factory=lambda: array("Q"))
    """From sending to the answer, of what failed."""
    refused_at_us: "array[int]" = field(default_factory=lambda: array("Q"))
    errors: Counter[str] = field(default_factory=Counter[str])

    def record(self, *, scheduled_ns: int, lateness_ns: int, latency_ns: int, code: str = "ok") -> None:
        """Note one request; a failed one counts as an error and not as a latency."""
        self.lateness_us.append(max(lateness_ns, 0) // 1000)
        if code != "ok":
            self.errors[code] += 1
            self.refused_us.append(max(latency_ns - lateness_ns, 0) // 1000)
            self.refused_at_us.append(max(scheduled_ns, 0) // 1000)
            return
        self.scheduled_us.append(scheduled_ns // 1000)
        self.latency_us.append(max(latency_ns, 0) // 1000)

    @property
    def offered(self) -> int:
        """How many were sent."""
        return len(self.lateness_us)

    def since(self, zero_ns: int) -> "Samples":
        """Those scheduled from this instant on, counted from it; errors and lateness as they are."""
        kept = Samples(lateness_us=self.lateness_us, errors=self.errors)
        kept.refused_us, kept.refused_at_us = self.refused_us, self.refused_at_us
        for scheduled_us, latency_us in zip(self.scheduled_us, self.latency_us, strict=True):
            if scheduled_us * 1000 >= zero_ns:
                kept.scheduled_us.append(scheduled_us - zero_ns // 1000)
                kept.latency_us.append(latency_us)
        return kept

    def latency(self) -> Latency:
        """The distribution from the scheduled instant."""
        return Latency(self.latency_us)

    def lateness(self) -> Latency:
        """The distribution of how late the generator sent."""
        return Latency(self.lateness_us)

    def merged(self, others: Iterable["Samples"]) -> "Samples":
        """These and the others together."""
        every = [self, *others]
        whole = Samples()
        for samples in every:
            whole.scheduled_us.extend(samples.scheduled_us)
            whole.latency_us.extend(samples.latency_us)
            whole.lateness_us.extend(samples.lateness_us)
            whole.refused_us.extend(samples.refused_us)
            whole.refused_at_us.extend(samples.refused_at_us)
            whole.errors.update(samples.errors)
        return whole


@dataclass(slots=True)
class Run:
    """One stretch of load: samples by name, and what the generator itself used."""

    duration_s: float
    zero_ns: int = 0
    """When recording began (time.monotonic_ns)."""
    sent_s: float = 0.0
    """How long sending took from then on: longer than planned where the generator could not keep up."""
    drained_s: float = 0.0
    """From the last request sent to the last answer."""
    samples: dict[str, Samples] = field(default_factory=dict[str, Samples])
    cpu: dict[str, float] = field(default_factory=dict[str, float])
    """By role, in parts of one core."""
    system_cpu: float = 0.0
    """Part of all cores, everything on this machine together."""

    @property
    def generator_cpu(self) -> float:
        """Part of one core."""
        return self.cpu.get(GENERATOR, 0.0)

    def taking(self, name: str) -> Samples:
        """The samples of this name, to add to."""
        if (samples := self.samples.get(name)) is None:  # setdefault would make some for each request
            samples = self.samples[name] = Samples()
        return samples

    def of(self, group: str) -> Samples:
        """All samples of a group: `query` covers `query account`, `query member` ..."""
        chosen = [samples for name, samples in self.samples.items() if name.partition(" ")[0] == group]
        return Samples().merged(chosen)

    def groups(self) -> list[str]:
        """Names of the groups."""
        return list(dict.fromkeys(name.partition(" ")[0] for name in self.samples))


def constant_schedule(rate: float, duration_s: float) -> "array[int]":
    """Send times in nanoseconds, evenly spaced."""
    count = int(rate * duration_s)
    return array("Q", (int(index * NANOSECONDS / rate) for index in range(count)))


def poisson_schedule(rate: float, duration_s: float, seed: int) -> "array[int]":
    """Send times in nanoseconds with exponential gaps: independent customers."""
    generator = random.Random(seed)
    times = array("Q")
    at_s = generator.expovariate(rate)
    while at_s < duration_s:
        times.append(int(at_s * NANOSECONDS))
        at_s += generator.expovariate(rate)
    return times


async def drive(
    flows: Sequence[Flow], *, duration_s: float, warm_up_s: float = 0.0, processes: Mapping[str, int] | None = None
) -> Run:
    """Send every flow on its schedule and wait for the answers. What is scheduled in the warm-up is not recorded."""
    run = Run(duration_s)
    pending: set[asyncio.Task[None]] = set()
    merged = heapq.merge(*(_rows(number, flow.schedule) for number, flow in enumerate(flows)))
    with quiet(), Pacer() as pacer:
        start_ns = time.monotonic_ns() + START_DELAY_NS
        warm_ns = int(warm_up_s * NANOSECONDS)
        meter: Meter | None = None
        for count, (offset_ns, number, index) in enumerate(merged):
            await pacer.until(start_ns + offset_ns, give_way=count % _YIELD_EVERY == 0)
            if meter is None and offset_ns >= warm_ns:
                meter, run.zero_ns = Meter(processes or {}), start_ns + warm_ns
            flow = flows[number]
            samples = run.taking(flow.name_of(index)) if meter else None
            task = asyncio.create_task(_one(flow, index, start_ns + offset_ns, samples, start_ns + warm_ns))
            pending.add(task)
            task.add_done_callback(pending.discard)
        if meter is not None:
            run.cpu, run.system_cpu = meter.shares()
            run.sent_s = max((time.monotonic_ns() - run.zero_ns) / NANOSECONDS, duration_s)
        sent_ns = time.monotonic_ns()
        await asyncio.gather(*pending)
        run.drained_s = (time.monotonic_ns() - sent_ns) / NANOSECONDS
    return run


async def saturate(shoot: Shoot, *, workers: int, duration_s: float) -> tuple[float, Samples]:
    """As many requests as `workers` in a closed loop get through; successes per second. A ceiling, not a latency."""
    samples = Samples()
    numbers = iter(range(sys.maxsize))

    async def work(start_ns: int) -> None:
        stop_ns = start_ns + int(duration_s * NANOSECONDS)
        while (sent_ns := time.monotonic_ns()) < stop_ns:
            code = await shoot(next(numbers))
            done_ns = time.monotonic_ns()
            samples.record(scheduled_ns=sent_ns - start_ns, lateness_ns=0, latency_ns=done_ns - sent_ns, code=code)

    with quiet():  # collecting garbage takes its time: the clock starts afterwards
        start_ns = time.monotonic_ns()
        await asyncio.gather(*(work(start_ns) for _ in range(workers)))
        took_s = (time.monotonic_ns() - start_ns) / NANOSECONDS
    return len(samples.latency_us) / took_s, samples


def void_reasons(run: Run) -> list[str]:
    """Why the run says nothing about the system; empty when it does."""
    reasons: list[str] = []
    for group in run.groups():
        samples = run.of(group)
        late_ms, latency_ms = samples.lateness().at_ms(99), samples.latency().at_ms(99)
        if late_ms > max(latency_ms * LATENESS_SHARE_MAX, LATENESS_FLOOR_MS):
            reasons.append(f"{group}: sent {late_ms:.2f} ms late at p99, latency p99 is {latency_ms:.2f} ms")
    if run.generator_cpu > GENERATOR_CPU_MAX:
        reasons.append(f"the generator used {run.generator_cpu:.0%} of its core")
    return reasons


async def _one(flow: Flow, index: int, due_ns: int, samples: Samples | None, zero_ns: int) -> None:
    sent_ns = time.monotonic_ns()
    code = await flow.shoot(index)
    if samples is not None:
        latency_ns = time.monotonic_ns() - due_ns
        samples.record(scheduled_ns=due_ns - zero_ns, lateness_ns=sent_ns - due_ns, latency_ns=latency_ns, code=code)


def _rows(number: int, schedule: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    return ((offset, number, index) for index, offset in enumerate(schedule))


class Meter:
    """CPU of processes by role, of this one, and of the machine, from now on."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self._wall = time.monotonic()
        self._spent = cpu_seconds(processes)
        self._busy, self._all = _machine_ticks()

    def shares(self) -> tuple[dict[str, float], float]:
        """Parts of one core by role, and the part of all cores that was busy."""
        wall_s = max(time.monotonic() - self._wall, 1e-9)
        spent = cpu_seconds(self._processes)
        busy, every = _machine_ticks()
        machine = (busy - self._busy) / (every - self._all) if every > self._all else 0.0
        # What a child had used moves from `Postgres` to `backend` when it ends, so one may fall a little.
        return {role: max(seconds - self._spent[role], 0.0) / wall_s for role, seconds in spent.items()}, machine


def _machine_ticks() -> tuple[int, int]:
    """Busy and all CPU ticks since boot (proc_stat(5)); zeros where there is no /proc."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except OSError:
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


@contextmanager
def quiet() -> Generator[None]:
    """No garbage collection, and ahead of the servers on these cores where that is allowed: clients are elsewhere."""
    gc.collect()
    gc.disable()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    _set_priority(_NICE)
    try:
        yield
    finally:
        gc.enable()
        _set_priority(before)


def _set_priority(nice: int) -> None:
    """Set the niceness of this process, and of its session where the kernel shares cores by session (sched(7))."""
    with suppress(OSError):  # without the right to it stays as it is, and the lateness shows it
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")
