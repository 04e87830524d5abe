"""The course of one scenario: its stages of load, one after another, and the witness that watched them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from benchmarks.cpu import GENERATOR
from benchmarks.host import Host
from benchmarks.load import Flow, Run, Samples, constant_schedule, drive, poisson_schedule, void_reasons
from benchmarks.peer import Peak, measure_peak
from benchmarks.refill import fill_up, measure_refill
from benchmarks.scenario import Group, Scenario, Targets
from benchmarks.stream import Streams
from benchmarks.volley import Volley
from benchmarks.workload import Workload, enrol

STEP_FACTOR: Final = 1.5
STEPS_MAX: Final = 12
STEP_FIRST: Final[Mapping[Group, float]] = {"command": 200.0, "query": 1000.0}
SUSTAINED_SHARE: Final = 0.98
SUSTAINED_P99_MS: Final = 500.0  # beyond it a queue grows and the rate is not sustained
CALM_SHARE: Final = 0.8  # of the peak: what a flood is compared with
SLOW_FACTOR: Final = 2.0  # accepted in a flood, and after it: at most so many times the p99 of the calm
_WINDOW_US: Final = 500_000
_BAD_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a scenario is sent."""

    poisson: bool = False
    seed: int = 1


@dataclass(slots=True)
class Stage:
    """One stretch of a scenario at one set of rates, with what was measured."""

    name: str
    rates: Mapping[str, float]
    run: Run
    void: list[str] = field(default_factory=list[str])
    notes: dict[str, float] = field(default_factory=dict[str, float])
    targets: Targets | None = None

    def achieved(self, group: str) -> float:
        """Answers per second that were no errors."""
        return len(self.run.of(group).latency_us) / self.run.duration_s if self.run.duration_s else 0.0

    @property
    def sustained(self) -> bool:
        """Whether every rate was kept up without errors and without a growing queue."""
        return all(
            self.achieved(group) >= rate * SUSTAINED_SHARE
            and self.run.of(group).latency().at_ms(99) <= SUSTAINED_P99_MS
            for group, rate in self.rates.items()
        )


@dataclass(frozen=True, slots=True)
class Course:
    """A scenario on its way: what it is, what it asks for, and where."""

    name: str
    scenario: Scenario
    workload: Workload
    host: Host
    pace: Pace = field(default_factory=Pace)

    async def run(self) -> list[Stage]:
        """All stages; afterwards every changed member is read again."""
        async with self._streams():
            if self.scenario.steps:
                stages = await self._steps(self.scenario.steps)
            elif self.scenario.flood:
                stages = await self._flood(self.scenario.flood)
            elif self.scenario.grow:
                stages = [await self._grown(size) for size in self.scenario.grow]
            else:
                async with self._freezing():
                    stages = [await self._stage(self.name, self.scenario.rates)]
                stages[0].targets = self.scenario.targets
        await self.workload.look_again()
        return stages

    async def _steps(self, group: Group) -> list[Stage]:
        stages: list[Stage] = []
        rate = STEP_FIRST[group]
        for _ in range(STEPS_MAX):
            stages.append(await self._stage(f"{self.name} at {rate:.0f}/s", {group: rate}))
            if not stages[-1].sustained:
                break
            rate *= STEP_FACTOR
        return stages

    async def _stage(self, name: str, rates: Mapping[Group, float]) -> Stage:
        flows = [self._flow(group, rate) for group, rate in rates.items()]
        return await self._drive(name, flows, {str(group): rate for group, rate in rates.items()})

    async def _drive(self, name: str, flows: Sequence[Flow], rates: Mapping[str, float]) -> Stage:
        scenario = self.scenario
        run = await drive(
            flows, duration_s=scenario.duration_s, warm_up_s=scenario.warm_up_s, processes=self.host.processes()
        )
        visible = (await self.workload.settle()).since(run.zero_ns)
        if visible.offered:
            run.samples["visible"] = visible
        return Stage(name, rates, run, void_reasons(run))

    def _flow(self, group: Group, rate: float) -> Flow:
        schedule, workload = self._schedule(rate), self.workload
        numbers = workload.choose(len(schedule))
        if group == "command":
            return Flow(schedule, lambda index: workload.command(numbers[index]), lambda _: "command")
        kinds = workload.kinds(len(schedule))
        return Flow(
            schedule, lambda index: workload.query(numbers[index], kinds[index]), lambda index: f"query {kinds[index]}"
        )

    def _schedule(self, rate: float) -> Sequence[int]:
        whole_s = self.scenario.warm_up_s + self.scenario.duration_s
        return (
            poisson_schedule(rate, whole_s, self.pace.seed) if self.pace.poisson else constant_schedule(rate, whole_s)
        )

    async def _flood(self, factors: Sequence[float]) -> list[Stage]:
        """The peak by a closed loop, calm load, and after each flood calm load again, until it is as before."""
        region = next(iter(self.workload.deployment.regions))
        shoot = self.workload.at_home(region, "command")
        peak, _ = await measure_peak(shoot, self.host.of_region(region), self.scenario.duration_s)
        calm_rate = peak.per_s * CALM_SHARE
        calm = await self._purchases("calm", region, calm_rate)
        calm.notes = {"peak_per_s": peak.per_s}
        slow_ms = SLOW_FACTOR * calm.run.of("command").latency().at_ms(99)
        stages = [calm]
        for factor in factors:
            flood = await self._purchases(f"flood x {factor:g}", region, peak.per_s * factor)
            after = await self._purchases(f"after x {factor:g}", region, calm_rate)
            flood.notes = flood_notes(flood.run, peak) | {
                "p99_to_calm": flood.run.of("command").latency().at_ms(99) / (slow_ms / SLOW_FACTOR or 1.0),
                "recovery_s": flood.run.drained_s + recovery_s(after.run.of("command"), slow_ms),
            }
            flood.void = []  # a flood is meant to be more than this machine can send and answer
            stages += [flood, after]
        return stages

    async def _purchases(self, name: str, region: str, rate: float) -> Stage:
        """Purchases at one region, rendered beforehand and sent as cheaply as can be."""
        schedule = self._schedule(rate)
        shots = self.workload.rendered(region, len(schedule))
        clients = self.workload.deployment.regions[region]
        volley = Volley(lambda: clients.command, shots, schedule, "command")
        whole_s = self.scenario.warm_up_s + self.scenario.duration_s
        run = await volley.fire(duration_s=whole_s, processes=self.host.of_region(region))
        return Stage(name, {"command": rate}, run, void_reasons(run))

    async def _grown(self, size: int) -> Stage:
        """CPU per purchase and per query with so many members, and a rebuild of their views."""
        region = next(iter(self.workload.deployment.regions))
        if self.host.fill is None:
            await enrol(self.workload, size)
        else:
            await self.workload.look_again()
            await fill_up(self.workload, self.host, region, size)
        run, notes = Run(self.scenario.duration_s), dict[str, float]()
        for side in ("command", "query"):
            shoot = self.workload.at_home(region, side)
            peak, run.samples[side] = await measure_peak(shoot, self.host.of_region(region), self.scenario.duration_s)
            notes |= {f"{side}: {role} us": us for role, us in peak.cpu_us.items()}
        void: list[str] = []
        if self.host.rebuild is not None:
            refilled = await measure_refill(self.workload, self.host, region)
            notes |= refilled.notes()
            void = [f"rebuild: {reason}" for reason in refilled.void]
        return Stage(f"{self.name}: {size:,} members", {}, run, void, notes)

    @asynccontextmanager
    async def _streams(self) -> AsyncGenerator[None]:
        members = list(islice(self.workload.members, self.scenario.traffic.streams))
        async with Streams(self.workload.deployment, members, self.workload.witness):
            yield

    @asynccontextmanager
    async def _freezing(self) -> AsyncGenerator[None]:
        """Stops a primary in the middle, where the scenario says so."""
        if self.scenario.freeze_at_s is None:
            yield
            return
        if self.host.freeze is None:
            raise LookupError("freeze_at_s needs a system on this machine")
        freezing = asyncio.create_task(_later(self.scenario.warm_up_s + self.scenario.freeze_at_s, self.host.freeze))
        try:
            yield
        finally:
            freezing.cancel()
            await asyncio.gather(freezing, return_exceptions=True)


async def _later(delay_s: float, do: Any) -> None:
    await asyncio.sleep(delay_s)
    do()


def flood_notes(run: Run, peak: Peak) -> dict[str, float]:
    """Goodput and refusals of a flood; `sent_to_peak` is what the generator really sent.

    `goodput_per_cpu_to_peak` is what a CPU second of all but the generator got done, to that at the peak.
    """
    samples = run.of("command")
    sent_s, done = run.sent_s or run.duration_s, len(samples.latency_us)
    refused_ms = sorted(microseconds / 1000 for microseconds in samples.refused_us)
    system_us = 1e6 * sent_s * system_s(run.cpu) / done if done else 0.0
    return {
        "goodput_to_peak": done / sent_s / peak.per_s if peak.per_s else 0.0,
        "goodput_per_cpu_to_peak": system_s(peak.cpu_us) / system_us if system_us else 0.0,
        "sent_to_peak": samples.offered / sent_s / peak.per_s if peak.per_s else 0.0,
        "refused_p50_ms": refused_ms[len(refused_ms) // 2] if refused_ms else 0.0,
        "refused_p99_ms": refused_ms[len(refused_ms) * 99 // 100] if refused_ms else 0.0,
    } | {f"of a core: {role}": share for role, share in run.cpu.items() if share}


def system_s(cpu: Mapping[str, float]) -> float:
    """All but the generator's."""
    return sum(spent for role, spent in cpu.items() if role != GENERATOR)


def recovery_s(samples: Samples, slow_ms: float) -> float:
    """When the last half second ended in which more than 2 % failed or took longer than that."""
    windows: dict[int, list[bool]] = {}
    for scheduled_us, latency_us in zip(samples.scheduled_us, samples.latency_us, strict=True):
        windows.setdefault(scheduled_us // _WINDOW_US, []).append(latency_us > slow_ms * 1000)
    for scheduled_us in samples.refused_at_us:
        windows.setdefault(scheduled_us // _WINDOW_US, []).append(True)
    bad = [window for window, slow in windows.items() if sum(slow) > _BAD_SHARE * len(slow)]
    return (max(bad) + 1) * _WINDOW_US / 1e6 if bad else 0.0
