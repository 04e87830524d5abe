"""A rebuild of views at full duty with a shop going on: how fast it is, and how much longer commands take meanwhile.

The shard is filled in bulk (fill.py). Members/s count from the first view written to the last one. The same purchases
and reads are sent before, meanwhile and afterwards, so that p99 is compared with p99 of the same minutes.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

from benchmarks.host import Host
from benchmarks.load import NANOSECONDS, Flow, Run, Samples, constant_schedule, drive, void_reasons
from benchmarks.order import BenchMember
from benchmarks.workload import Workload, wait_for_newest

RATES: Final = {"command": 60.0, "query": 200.0}  # those of decision 0058
CALM_S: Final = 10.0  # 600 commands, before and again afterwards: enough for a p99
SPAN_S: Final = 4.0
FILLED_TIMEOUT_S: Final = 1800.0  # a million members are five million changes to project


@dataclass(frozen=True, slots=True)
class Refilled:
    """Of one rebuild. p99 of commands in milliseconds."""

    members: int
    members_per_s: float
    p99_ms: float
    calm_p99_ms: float
    cpu: dict[str, float]
    """By role, in parts of one core, while it ran."""
    void: list[str]

    @property
    def p99_to_calm(self) -> float:
        """How many times longer commands took meanwhile."""
        return self.p99_ms / self.calm_p99_ms if self.calm_p99_ms else 0.0

    def notes(self) -> dict[str, float]:
        """For the stage of a report."""
        shares = {f"rebuild, of a core: {role}": share for role, share in self.cpu.items() if share}
        return {
            "rebuild: members/s": self.members_per_s,
            "rebuild: command p99 ms": self.p99_ms,
            "without it: command p99 ms": self.calm_p99_ms,
        } | shares


class Span(NamedTuple):
    """Load for a while: what was measured, and its commands."""

    run: Run
    commands: Samples


async def fill_up(workload: Workload, host: Host, region: str, size: int) -> None:
    """Give the first shard of a region so many members; the workload's are some of them, and can be read."""
    if host.fill is None:
        raise LookupError("filling in bulk needs a system on this machine")
    workload.members = [BenchMember(member, region) for member in await host.fill(region, size)]
    await wait_for_newest(workload, timeout_s=FILLED_TIMEOUT_S)


async def measure_refill(
    workload: Workload, host: Host, region: str, *, calm_s: float = CALM_S, span_s: float = SPAN_S
) -> Refilled:
    """Rebuild the views of a region's first shard under load."""
    if host.rebuild is None:
        raise LookupError("a rebuild needs a system on this machine")
    before = await _span(workload, host, region, calm_s)
    ended: list[int] = []

    def note_end(_: object) -> None:
        ended.append(time.monotonic_ns())

    rebuilding = asyncio.ensure_future(host.rebuild(region))
    rebuilding.add_done_callback(note_end)
    meanwhile: list[Span] = []
    while not rebuilding.done():
        meanwhile.append(await _span(workload, host, region, span_s))
    members, seconds = await rebuilding
    after = await _span(workload, host, region, calm_s)
    last = meanwhile[-1]
    commands = [span.commands for span in meanwhile[:-1]] + [sent_before(last.run, last.commands, ended[0])]
    calm = before.commands.merged([after.commands])
    spans = [before, *meanwhile, after]
    return Refilled(
        members=members,
        members_per_s=members / seconds if seconds else 0.0,
        p99_ms=Samples().merged(commands).latency().at_ms(99),
        calm_p99_ms=calm.latency().at_ms(99),
        cpu=meanwhile[0].run.cpu,
        void=list(dict.fromkeys(reason for span in spans for reason in void_reasons(span.run))),
    )


async def _span(workload: Workload, host: Host, region: str, duration_s: float) -> Span:
    flows = [
        Flow(constant_schedule(rate, duration_s), workload.at_home(region, side), lambda _, side=side: side)
        for side, rate in RATES.items()
    ]
    run = await drive(flows, duration_s=duration_s, processes=host.of_region(region))
    return Span(run, run.of("command"))


def sent_before(run: Run, samples: Samples, until_ns: int) -> Samples:
    """Those scheduled before this instant (time.monotonic_ns)."""
    kept = Samples(errors=samples.errors)
    for scheduled_us, latency_us in zip(samples.scheduled_us, samples.latency_us, strict=True):
        if run.zero_ns + scheduled_us * (NANOSECONDS // 1_000_000) < until_ns:
            kept.scheduled_us.append(scheduled_us)
            kept.latency_us.append(latency_us)
    return kept
