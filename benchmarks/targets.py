"""`loyalty bench targets`: the table of targets, medians of three rounds, each round beside its own yardsticks.

A figure that cannot be measured has no value and says why. CPU is utime + stime by process (cpu.py): it stands up where
rates and latencies do not, on a machine that others use too.
"""

import asyncio
import time
import tomllib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.bench import Site, adjusted
from benchmarks.course import Course, Stage
from benchmarks.cpu import BACKEND
from benchmarks.load import Flow, Shoot, constant_schedule, drive
from benchmarks.memory import DOOR, MIB_KB, Held
from benchmarks.peer import (
    Peak,
    measure_bare,
    measure_bare_by_wrk,
    measure_naive,
    measure_peak,
    measure_pgbench,
    measure_wrk,
    wal_bytes,
)
from benchmarks.refill import fill_up, measure_refill
from benchmarks.scenario import Traffic, read_scenario
from benchmarks.workload import Workload, prepare, real_baskets

TABLE: Final = Path(__file__).with_name("targets.toml")
ROUNDS: Final = 3
ROUNDS_S: Final = 420.0
"""No round is begun that would end later: with starts, rebuild and verify the whole takes twelve minutes at most."""
SECONDS: Final = 4.0
MIXED_S: Final = 16.0  # one command in ten is looked after: 320 looks, enough for a p99
QUIET_QUERIES_PER_S: Final = 333.0
BASKET_LINES: Final = 10
REFILLED_MEMBERS: Final = 100_000  # filled in a minute, rebuilt in half of one
ENTRIES: Final = "every entry was decided by a program in force then"
AT_REST_S: Final = 75.0  # sessions that only the start needed end after a minute
_MS_PER_US: Final = 0.001


class Row(BaseModel):
    """A figure and its limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    what: str
    at_most: float | None = None
    at_least: float | None = None
    scaled: bool = False
    """In time: a slower machine takes longer, whatever runs on it."""

    def limit(self, scale: float) -> float | None:
        """What is to be reached, on a machine so many times slower than the targets are for."""
        if self.at_most is None:
            return self.at_least
        return self.at_most * scale if self.scaled else self.at_most

    def met(self, value: float, scale: float) -> bool | None:
        """Whether it is reached; None where nothing is demanded."""
        limit = self.limit(scale)
        if limit is None:
            return None
        return value >= limit if self.at_least is not None else value <= limit


class Table(BaseModel):
    """targets.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bare_per_s: Annotated[float, Field(gt=0)]
    row: list[Row]

    def scale(self, bare_per_s: float) -> float:
        """How many times slower this machine is than the one of the limits in milliseconds; 1 when it is faster."""
        return max(self.bare_per_s / bare_per_s, 1.0) if bare_per_s else 1.0


def read_table() -> Table:
    """The rows of targets.toml."""
    return Table.model_validate(tomllib.loads(TABLE.read_text(encoding="utf-8")))


@dataclass(slots=True)
class Measured:
    """Values by key, CPU per request by what was asked and role, and why something has no value."""

    values: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    peaks: dict[str, list[Peak]] = field(default_factory=dict[str, list[Peak]])
    busy: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    wrong: list[str] = field(default_factory=list[str])
    errors: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, key: str, value: float) -> None:
        """One more round's value."""
        self.values.setdefault(key, []).append(value)

    def restarted(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Count which processes are others than before: who was not there answers nobody."""
        for name in before.keys() | after.keys():
            if before.get(name) != after.get(name):
                self.errors[f"{name} restarted"] = self.errors.get(f"{name} restarted", 0) + 1

    async def peak(self, name: str, measuring: Awaitable[Peak]) -> Peak | None:
        """One more round of a yardstick or of ours; None, and the reason noted, when it cannot be measured."""
        try:
            peak = await measuring
        except Exception as error:  # noqa: BLE001 - as in ratio.told: one row without a value, not a benchmark without any
            self.missing[name] = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
            return None
        self.peaks.setdefault(name, []).append(peak)
        return peak


@dataclass(slots=True)
class Round:
    """What one round needs."""

    site: Site
    one_line: Workload
    ten_lines: Workload | None
    measured: Measured

    @property
    def region(self) -> str:
        """The region of the rows about one primary."""
        return next(iter(self.site.deployment.regions))

    async def run(self) -> None:
        """Everything once."""
        await self._purchases()
        await self._alone()
        await self._queries()
        for name in ("mixed", "mixed-double"):
            await self._mixed(name)
        await self._flood()

    async def _own(self, workload: Workload, shoot: Shoot, workers: int = 64) -> Peak:
        processes = self.site.host.of_region(self.region)
        peak, samples = await measure_peak(shoot, processes, SECONDS, workers=workers)
        for code, count in samples.errors.items():
            self.measured.errors[code] = self.measured.errors.get(code, 0) + count
        await workload.settle()
        return peak

    async def _purchases(self) -> None:
        measured, peers = self.measured, self.site.host.peers
        bare = await measured.peak("bare aiohttp", measure_bare(SECONDS))
        # Before pgbench: dropping its database makes a checkpoint, and after one each page is logged whole once more.
        before = await wal_bytes(peers.primary) if peers.primary else 0
        own = await measured.peak("one-line purchases", self._own(self.one_line, self._orders(self.one_line)))
        if peers.primary and own:
            measured.add("wal", (await wal_bytes(peers.primary) - before) / max(own.per_s * SECONDS, 1))
        pgbench = await measured.peak("pgbench, 16 clients", measure_pgbench(peers, SECONDS))
        naive = await measured.peak("naive service", measure_naive(peers, SECONDS))
        ten = None
        if self.ten_lines is not None:
            ten = await measured.peak("baskets of 10 lines", self._own(self.ten_lines, self._orders(self.ten_lines)))
        self._rate("purchases to pgbench", own, pgbench)
        self._rate("baskets to pgbench", ten, pgbench)
        self._rate("purchases to naive", own, naive)
        self._cpu("node cpu", own, bare, "node")
        self._cpu("backend cpu", own, pgbench, BACKEND)

    def _orders(self, workload: Workload) -> Shoot:
        return workload.at_home(self.region, "command")

    async def _alone(self) -> None:
        measured, peers = self.measured, self.site.host.peers
        pgbench = await measured.peak("pgbench, 1 client", measure_pgbench(peers, SECONDS, clients=1))
        orders = self._orders(self.one_line)
        own = await measured.peak("purchases one at a time", self._own(self.one_line, orders, workers=1))
        self._cpu("node cpu alone", own, measured.peaks.get("bare aiohttp", [None])[-1], "node")
        self._cpu("backend cpu alone", own, pgbench, BACKEND)

    async def _queries(self) -> None:
        measured = self.measured
        bare = await measured.peak("bare aiohttp", measure_bare(SECONDS))  # once more: minutes have passed
        own = await measured.peak("account queries", self._own(self.one_line, self.one_line.accounts(self.region)))
        self._rate("queries to bare", own, bare)
        member = next(one for one in self.one_line.members if one.region == self.region)
        client = self.site.deployment.regions[self.region].query
        path = f"/v1/members/{member.member_id}/account"
        bare = await measured.peak("bare aiohttp by wrk", measure_bare_by_wrk(SECONDS))
        own = await measured.peak("the same by wrk", measure_wrk(client, path, SECONDS))
        self._rate("queries to bare by wrk", own, bare)
        shoot = self.one_line.at_home(self.region, "query")
        flow = Flow(constant_schedule(QUIET_QUERIES_PER_S, SECONDS), shoot, lambda _: "query")
        run = await drive([flow], duration_s=SECONDS, processes=self.site.host.of_region(self.region))
        if run.cpu.get("query node"):
            cpu_us = {role: 1e6 * share / QUIET_QUERIES_PER_S for role, share in run.cpu.items()}
            how = f"open model, machine {run.system_cpu:.0%} busy"
            measured.peaks.setdefault("queries at 333/s", []).append(Peak(QUIET_QUERIES_PER_S, how, cpu_us))
            measured.add("query cpu", cpu_us["query node"] * _MS_PER_US)

    async def _mixed(self, name: str) -> None:
        _, scenario = read_scenario(name)
        workload = self.one_line.another(scenario.traffic)
        course = Course(name, adjusted(scenario, rate=None, duration_s=MIXED_S), workload, self.site.host)
        stage = (await course.run())[0]
        for group in ("command", "query", "visible"):
            self.measured.add(f"{name} {group}", stage.run.of(group).latency().at_ms(99))
        self.measured.add(f"{name} busy", 100 * stage.run.system_cpu)
        self.measured.busy[name] = stage.run.cpu
        self._failed(stage)
        for reason in stage.void:
            self.measured.missing[f"{name}, a round"] = f"void: {reason}"

    async def _flood(self) -> None:
        _, scenario = read_scenario("flood")
        course = Course("flood", adjusted(scenario, rate=None, duration_s=SECONDS), self.one_line, self.site.host)
        floods = {stage.name: stage for stage in await course.run()}
        for factor in (3, 10):
            self.measured.add(f"goodput x{factor}", floods[f"flood x {factor}"].notes["goodput_to_peak"])
        most = floods["flood x 10"].notes
        self.measured.add("flood p99", most["p99_to_calm"])
        self.measured.add("refused", most["refused_p99_ms"])
        self.measured.add("recovery", most["recovery_s"])
        self.measured.add("sent x10", most["sent_to_peak"])
        self.measured.add("goodput per cpu x10", most["goodput_per_cpu_to_peak"])

    def _failed(self, stage: Stage) -> None:
        for group in stage.run.groups():
            for code, count in stage.run.of(group).errors.items():
                self.measured.errors[code] = self.measured.errors.get(code, 0) + count

    def _rate(self, key: str, own: Peak | None, peer: Peak | None) -> None:
        if own and peer and peer.per_s:
            self.measured.add(key, own.per_s / peer.per_s)

    def _cpu(self, key: str, own: Peak | None, peer: Peak | None, role: str) -> None:
        if own and peer and peer.cpu_us.get(role):
            self.measured.add(key, own.cpu_us[role] / peer.cpu_us[role])


async def measure(site: Site, starts_s: Sequence[float], *, rounds: int = ROUNDS) -> Measured:
    """All rows, in `rounds` rounds one after another."""
    measured = Measured()
    measured.values["up"] = list(starts_s)
    if site.host.held is not None:
        with site.console.status("a minute at rest …"):
            await asyncio.sleep(AT_REST_S)
        try:
            add_memory(measured, site.host.held())
        except PermissionError as error:
            measured.missing["memory"] = str(error)
    with site.console.status("enrolling members …"):
        one_line = await prepare(site.deployment, Traffic(), seed=1)
        ten_lines = _with_baskets(one_line, measured)
    began_at = time.monotonic()
    for number in range(rounds):
        elapsed_s = time.monotonic() - began_at
        if number and elapsed_s * (number + 1) / number > ROUNDS_S:
            measured.missing[f"round {number + 1} of {rounds}"] = f"{number} took {elapsed_s:.0f} s"
            break
        with site.console.status(f"round {number + 1} of {rounds} …"):
            before = site.host.processes()
            await Round(site, one_line, ten_lines, measured).run()
            measured.restarted(before, site.host.processes())
    again = sum(clients.sent_again for clients in site.deployment.regions.values())
    measured.errors |= {"sent again over a new connection": again} if again else {}
    witness = one_line.witness  # of every workload here
    if not witness.ok:
        measured.wrong += witness.examples
        measured.wrong += [f"{witness.unread} members could not be read in the end"] * bool(witness.unread)
    with site.console.status(f"filling a shard with {REFILLED_MEMBERS:,} members, rebuilding its views …"):
        await _refill(site, measured, one_line)
    with site.console.status("verifying …"):
        await _at_rest(site, measured)
    return measured


def add_memory(measured: Measured, found: dict[str, Held]) -> None:
    """The memory of all that runs, with the supervisor; of the door alone, which not every machine has."""
    system = sum((held for kind, held in found.items() if kind != DOOR), Held())
    measured.add("memory", system.rss / MIB_KB)
    measured.add("memory shared once", system.pss / MIB_KB)
    if DOOR in found:
        measured.add("memory of the door", found[DOOR].pss / MIB_KB)


def _with_baskets(one_line: Workload, measured: Measured) -> Workload | None:
    """The same members with real baskets; the versions of both are watched by one witness."""
    try:
        baskets = real_baskets(line_count=BASKET_LINES)
    except Exception as error:  # noqa: BLE001 - the extra `demo` is not there, or its data: no row without it
        measured.missing["baskets of 10 lines"] = str(error)
        return None
    return one_line.another(Traffic(commands={"basket": 1}), baskets)


async def _refill(site: Site, measured: Measured, one_line: Workload) -> None:
    region = next(iter(site.deployment.regions))
    workload = one_line.another(one_line.traffic)
    try:
        await fill_up(workload, site.host, region, REFILLED_MEMBERS)
        refilled = await measure_refill(workload, site.host, region)
    except Exception as error:  # noqa: BLE001 - as in Measured.peak
        measured.missing["rebuild of views"] = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
        return
    measured.add("rebuild", refilled.members_per_s)
    measured.add("rebuild p99", refilled.p99_to_calm)
    measured.busy["rebuild"] = refilled.cpu
    for reason in refilled.void:
        measured.missing["rebuild's p99"] = f"void: {reason}"


async def _at_rest(site: Site, measured: Measured) -> None:
    host = site.host
    if host.verify is not None:
        for key in ("verify everybody", "verify"):  # the first folds them, the second knows them
            began_at = time.monotonic()
            verdict = await host.verify()
            measured.add(key, entries_checked(verdict["checks"]) / (time.monotonic() - began_at))
            not_proved = [check for check in verdict["checks"] if check["violations"] or check["unseen"]]
            measured.wrong += [f"verify: {check['check']}" for check in not_proved]


def entries_checked(checks: Sequence[Mapping[str, Any]]) -> int:
    """Entries of all shards: of each the checks that looked at every stored entry tell the same number."""
    return sum(check["checked"] for check in checks if check["check"] == ENTRIES)


def medians(measured: Measured) -> dict[str, float]:
    """The value of each key."""
    return {key: median(values) for key, values in measured.values.items() if values}
