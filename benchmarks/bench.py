"""The course of `loyalty bench`: scenarios with their members, the ratio table, the report, the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks import report
from benchmarks.course import Course, Pace, Stage
from benchmarks.deployment import Deployment
from benchmarks.host import Host
from benchmarks.ratio import compare
from benchmarks.scenario import Scenario, Traffic, names, read_scenario
from benchmarks.workload import prepare

RATIO: Final = "ratio"
DEFAULT_NAMES: Final = ("mixed", RATIO)
EXIT_MET, EXIT_MISSED, EXIT_VOID = 0, 1, 3
_RATIO_DURATION_S: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to run. `rate` counts the first group of a scenario (the others keep their proportion)."""

    names: Sequence[str]
    rate: float | None = None
    duration_s: float | None = None
    poisson: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Site:
    """Where a benchmark runs, and where it tells."""

    deployment: Deployment
    host: Host
    console: Console


@dataclass(slots=True)
class Outcome:
    """What came of all scenarios."""

    stages: list[Stage] = field(default_factory=list[Stage])
    witnesses: dict[str, Any] = field(default_factory=dict[str, Any])
    findings: list[report.Finding] = field(default_factory=list[report.Finding])
    ratios: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def known_names() -> list[str]:
    """What can be asked for by name."""
    return [*names(), RATIO]


def read_plan(plan: BenchPlan) -> dict[str, Scenario]:
    """The scenarios of a plan with its rate and duration; ScenarioError names what is none."""
    found = dict(read_scenario(name) for name in plan.names if name != RATIO)
    return {name: adjusted(scenario, rate=plan.rate, duration_s=plan.duration_s) for name, scenario in found.items()}


def adjusted(scenario: Scenario, *, rate: float | None, duration_s: float | None) -> Scenario:
    """A scenario at another rate (then without targets, and in one step) or of another length."""
    changes: dict[str, Any] = {}
    if duration_s is not None:
        changes |= {"duration_s": duration_s, "warm_up_s": min(scenario.warm_up_s, duration_s)}
    if rate is not None and scenario.steps:
        changes |= {"steps": None, "rates": {scenario.steps: rate}}
    elif rate is not None and scenario.rates:
        factor = rate / next(iter(scenario.rates.values()))
        changes |= {"rates": {group: one * factor for group, one in scenario.rates.items()}, "targets": None}
    return Scenario.model_validate(scenario.model_dump() | changes)


async def bench(deployment: Deployment, plan: BenchPlan, host: Host, folder: Path, console: Console) -> int:
    """Run it all; 0 when every target was met, 1 when one was missed or an answer was wrong, 3 when it was void."""
    outcome = Outcome()
    scenarios = read_plan(plan)
    site, pace = Site(deployment, host, console), Pace(poisson=plan.poisson, seed=plan.seed)
    for name, scenario in scenarios.items():
        await run_scenario(name, scenario, site, outcome, pace=pace)
    if RATIO in plan.names:
        with console.status("measuring ours beside others …"):
            workload = await prepare(deployment, Traffic(), seed=plan.seed)
            duration_s = plan.duration_s or _RATIO_DURATION_S
            outcome.ratios = await compare(workload, host.peers, duration_s=duration_s)
    settings = {"seed": plan.seed, "poisson": plan.poisson, "rate": plan.rate or "as written"}
    document = report.document(outcome.stages, outcome.findings, settings=settings, ratios=outcome.ratios)
    document["scenarios"] = {name: scenario.model_dump(mode="json") for name, scenario in scenarios.items()}
    document["witness"] = outcome.witnesses
    paths = report.write_report(folder, document)
    console.print(*report.tables(document), sep="\n")
    console.print("written: " + "  ".join(map(str, paths)), highlight=False, soft_wrap=True)
    return verdict(document, console)


async def run_scenario(name: str, scenario: Scenario, site: Site, outcome: Outcome, *, pace: Pace) -> list[Stage]:
    """One scenario from enrolment to `verify`; what it found is added to the outcome."""
    first = scenario.grow[0] if scenario.grow and site.host.fill is None else scenario.traffic.members
    with site.console.status(f"{name}: enrolling {first:,} members …"):
        workload = await prepare(site.deployment, scenario.traffic, seed=pace.seed, members=first)
    course = Course(name, scenario, workload, site.host, pace)
    with site.console.status(f"{name}: {scenario.text} …"):
        stages = await course.run()
    outcome.stages += stages
    outcome.findings += report.judge(stages)
    outcome.findings.append(report.judge_answers(name, workload.witness))
    outcome.witnesses[name] = workload.witness.document()
    if site.host.verify is not None:
        with site.console.status(f"{name}: verifying every promise on the data at rest …"):
            outcome.findings.append(report.judge_data(name, await site.host.verify()))
    return stages


def verdict(document: Mapping[str, Any], console: Console) -> int:
    """Say what was missed; the exit code."""
    missed = [target["text"] for target in document["targets"] if not target["met"]]
    for text in missed:
        console.print(f"MISSED {text}", style="bold red", highlight=False)
    for reason in document["void"]:
        console.print(f"VOID {reason}: this run says nothing about the system", style="bold red", highlight=False)
    if missed:
        return EXIT_MISSED
    if document["void"]:
        return EXIT_VOID
    if document["targets"]:
        console.print("All targets met.", style="green")
    return EXIT_MET
