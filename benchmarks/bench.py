"""The course of `loyalty bench`: members, scenarios, the ratio table, the report, the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks import report
from benchmarks.deployment import Deployment
from benchmarks.ratio import Peers, compare
from benchmarks.scenario import SCENARIOS, LoadPlan, Stage
from benchmarks.workload import Workload, prepare

RATIO: Final = "ratio"
NAMES: Final = (*SCENARIOS, RATIO)
DEFAULT_NAMES: Final = ("mixed", RATIO)
EXIT_MET, EXIT_MISSED, EXIT_VOID = 0, 1, 3
_RATIO_DURATION_S: Final = 8.0
_STEP_DURATION_S: Final = 10.0
_STEP_WARM_UP_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to run. `rate` counts commands in `mixed` (queries keep the targets' proportion), else its own kind."""

    names: Sequence[str]
    rate: float | None = None
    duration_s: float | None = None
    poisson: bool = False
    member_count: int = 1500
    seed: int = 1


async def bench(deployment: Deployment, plan: BenchPlan, peers: Peers, folder: Path, console: Console) -> int:
    """Run it all; 0 when every target was met, 1 when one was missed, 3 when the run was void."""
    with console.status(f"enrolling {plan.member_count:,} members …"):
        workload = await prepare(deployment, member_count=plan.member_count, seed=plan.seed)
    targets = report.read_targets()
    stages: list[Stage] = []
    for name in plan.names:
        if name != RATIO:
            stages += await _scenario(name, workload, plan, targets, console)
    ratios: list[dict[str, Any]] = []
    if RATIO in plan.names:
        with console.status("measuring ours beside others …"):
            ratios = await compare(workload, peers, duration_s=plan.duration_s or _RATIO_DURATION_S)
    findings = report.judge(stages, targets) if plan.rate is None else []
    settings = {"run": workload.run_id, "seed": plan.seed, "members": plan.member_count, "poisson": plan.poisson}
    document = report.document(stages, findings, settings=settings, ratios=ratios)
    paths = report.write_report(folder, document)
    console.print(*report.tables(document), sep="\n")
    console.print("written: " + "  ".join(map(str, paths)), highlight=False, soft_wrap=True)
    return _verdict(document, console)


async def _scenario(
    name: str, workload: Workload, plan: BenchPlan, targets: Mapping[str, Any], console: Console
) -> list[Stage]:
    load = load_plan(name, plan, targets)
    with console.status(f"{name}: {load.duration_s:g} s at a time …"):
        return await SCENARIOS[name](workload, load)


def load_plan(name: str, plan: BenchPlan, targets: Mapping[str, Any]) -> LoadPlan:
    """Rates and times of one scenario."""
    usual: dict[str, float] = targets["mixed"]["rates"]
    stepping = name != "mixed" and plan.rate is None
    leading = "query" if name == "queries" else "command"
    factor = plan.rate / usual[leading] if plan.rate else 1.0
    standard_s, warm_up_s = (_STEP_DURATION_S, _STEP_WARM_UP_S) if stepping else (30.0, 5.0)
    return LoadPlan(
        rates={group: rate * factor for group, rate in usual.items()},
        duration_s=plan.duration_s or standard_s,
        warm_up_s=min(warm_up_s, plan.duration_s or warm_up_s),
        poisson=plan.poisson,
        seed=plan.seed,
        stepping=stepping,
    )


def _verdict(document: Mapping[str, Any], console: Console) -> int:
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
