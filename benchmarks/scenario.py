"""What `loyalty bench` can run, by name: each scenario is one function from a workload to its stages."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.load import Flow, Run, constant_schedule, drive, poisson_schedule, void_reasons
from benchmarks.workload import Workload

STEP_FACTOR: Final = 1.5
STEPS_MAX: Final = 12
SUSTAINED_SHARE: Final = 0.98
SUSTAINED_P99_MS: Final = 500.0  # beyond it a queue grows and the rate is not sustained
STEP_FIRST: Final[Mapping[str, float]] = {"command": 200.0, "query": 1000.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How hard and how long. `rates` are requests per second by group."""

    rates: Mapping[str, float]
    duration_s: float = 30.0
    warm_up_s: float = 5.0
    poisson: bool = False
    seed: int = 1
    stepping: bool = True


@dataclass(slots=True)
class Stage:
    """One stretch of a scenario at one set of rates, with what was measured."""

    name: str
    rates: Mapping[str, float]
    run: Run
    void: list[str] = field(default_factory=list[str])

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


Scenario = Callable[[Workload, LoadPlan], Awaitable[list[Stage]]]


async def mixed(workload: Workload, plan: LoadPlan) -> list[Stage]:
    """Commands and queries together at constant rates: the scenario the targets are about."""
    return [await _stage("mixed", workload, plan, plan.rates)]


async def commands(workload: Workload, plan: LoadPlan) -> list[Stage]:
    """Purchases alone: at the given rate, or in growing steps until one is not sustained."""
    return await _steps("commands", "command", workload, plan)


async def queries(workload: Workload, plan: LoadPlan) -> list[Stage]:
    """Reads alone: at the given rate, or in growing steps until one is not sustained."""
    return await _steps("queries", "query", workload, plan)


SCENARIOS: Final[Mapping[str, Scenario]] = {"mixed": mixed, "commands": commands, "queries": queries}


async def _steps(name: str, group: str, workload: Workload, plan: LoadPlan) -> list[Stage]:
    if not plan.stepping:
        return [await _stage(name, workload, plan, {group: plan.rates[group]})]
    stages: list[Stage] = []
    rate = STEP_FIRST[group]
    for _ in range(STEPS_MAX):
        stages.append(await _stage(f"{name} at {rate:.0f}/s", workload, plan, {group: rate}))
        if not stages[-1].sustained:
            break
        rate *= STEP_FACTOR
    return stages


async def _stage(name: str, workload: Workload, plan: LoadPlan, rates: Mapping[str, float]) -> Stage:
    flows = [_flow(group, rate, workload, plan) for group, rate in rates.items()]
    run = await drive(flows, duration_s=plan.duration_s, warm_up_s=plan.warm_up_s)
    visible = (await workload.settle()).since(run.zero_ns)
    if visible.offered:
        run.samples["visible"] = visible
    return Stage(name, dict(rates), run, void_reasons(run))


def _flow(group: str, rate: float, workload: Workload, plan: LoadPlan) -> Flow:
    whole_s = plan.warm_up_s + plan.duration_s
    schedule = poisson_schedule(rate, whole_s, plan.seed) if plan.poisson else constant_schedule(rate, whole_s)
    numbers = workload.choose(len(schedule))
    if group == "command":
        return Flow(schedule, lambda index: workload.command(numbers[index]), lambda _: "command")
    kinds = workload.kinds(len(schedule))
    return Flow(
        schedule, lambda index: workload.query(numbers[index], kinds[index]), lambda index: f"query {kinds[index]}"
    )


def best(stages: Sequence[Stage], group: str) -> float:
    """The highest sustained rate; 0 when none was."""
    return max((stage.achieved(group) for stage in stages if stage.sustained), default=0.0)
