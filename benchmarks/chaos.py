"""`loyalty chaos`: a seeded schedule of faults under load, and then the log of the tills held against the data at rest.

The same seed gives the same faults in the same order against the same tills; what the machine makes of their timing is
its own. The first divergence is what is printed: later ones may follow from it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import psutil

from benchmarks.chaos_action import work
from benchmarks.chaos_client import Log, Till
from benchmarks.chaos_fault import FAULTS, Fault
from benchmarks.chaos_judge import judge
from benchmarks.chaos_proxy import Proxy
from benchmarks.chaos_world import World
from benchmarks.wire import Client
from shard_router.server import SERVER_ERRORS

FAILOVERS_MAX: Final = 2
"""After three in ten minutes a supervisor waits for a person; one fault may need two: who takes over may be damaged."""
STORES: Final = {"eu": "berlin-mitte", "us": "330", "ap": "tokyo-ginza"}
QUIET_S: Final = 1.0
WARM_S: Final = 2.0

Tell = Callable[[str], None]


class Gap(NamedTuple):
    """One fault, and the longest time without an acknowledgement from it until all was whole again."""

    name: str
    longest_s: float
    began_s: float
    """By the monotonic clock, as is the end."""
    ended_s: float


@dataclass(slots=True)
class Result:
    """What a campaign came to."""

    log: Log
    gaps: list[Gap] = field(default_factory=list[Gap])
    failures: list[str] = field(default_factory=list[str])
    reconciled: int = 0
    not_done: list[str] = field(default_factory=list[str])
    """Faults that could not be made, and why."""

    @property
    def first(self) -> str | None:
        """The first divergence."""
        return next(iter((*self.log.divergences, *self.failures)), None)


def schedule(seed: int, count: int, only: Sequence[str] = (), without: Collection[str] = ()) -> list[str]:
    """The faults of a seed in their order: every kind once before any comes twice."""
    chooser = random.Random(seed)
    names: list[str] = []
    while len(names) < count:
        round_of_all = sorted(only or FAULTS.keys() - without)
        chooser.shuffle(round_of_all)
        names += round_of_all
    return names[:count]


async def campaign(  # noqa: PLR0913 - what makes a run
    world: World,
    names: Sequence[str],
    *,
    seed: int,
    tills: int,
    duration_s: float | None,
    tell: Tell,
    faults: Mapping[str, Fault] = FAULTS,
    beside: Callable[[asyncio.Event], Coroutine[Any, Any, None]] | None = None,
) -> Result:
    """Do one fault after another, each until the system is whole again; then judge.

    What runs `beside` the tills ends with them, as its event tells: nothing may change while it is judged.
    """
    status, result, stop = await world.status(), Result(Log()), asyncio.Event()
    await _link(world, status)
    name = f"chaos-{seed}-{time.time_ns()}"
    shops = [asyncio.create_task(work(till, stop)) for till in _tills(world, status, name, tills, result.log)]
    if beside:
        shops.append(asyncio.create_task(beside(stop)))
    await asyncio.sleep(WARM_S)
    until = time.monotonic() + duration_s if duration_s else None
    await _in_turn(world, [(name, faults[name]) for name in names], result, until, tell)
    stop.set()
    for done in await asyncio.gather(*shops, return_exceptions=True):
        if isinstance(done, BaseException):
            result.log.diverges(f"a till ended: {type(done).__name__}: {done}")
    for link in (one for links in world.links.values() for one in links):
        await link.close()
    await judge(world, result.log, result.failures)
    return result


async def _in_turn(
    world: World, planned: Sequence[tuple[str, Fault]], result: Result, until: float | None, tell: Tell
) -> None:
    """One fault after another, until the time is over, a till hears what cannot be, or the system stays broken."""
    timeline, failovers = await world.timeline(), 0
    for number, (name, fault) in enumerate(planned, 1):
        if (until and time.monotonic() > until) or result.log.divergences:
            return
        if failovers >= FAILOVERS_MAX:
            tell("      started anew: its guard has failed over often enough")
            try:
                await world.start_anew()
            except (LookupError, TimeoutError) as error:
                result.failures.append(f"not started anew: {error or 'not whole in time'}")
                return
            failovers = 0
        began = time.monotonic()
        await _one(world, name, fault, result)
        before, timeline = timeline, await world.timeline() or timeline
        failovers += max(timeline - before, 0)
        gap = _gap(name, result.log.acknowledged_at, began, time.monotonic())
        result.gaps.append(gap)
        tell(f"{number:4d}  {name}: no answer for {gap.longest_s:.2f} s, whole after {gap.ended_s - began:.1f} s")
        if result.failures:
            return


async def _link(world: World, status: dict[str, Any]) -> None:
    """Put a proxy before each node."""
    (row,) = status["regions"].values()
    for side in ("command", "query"):
        world.links[side] = [Proxy(urlsplit(url).port or 0) for url in row[f"{side}_nodes"]]
        for link in world.links[side]:
            await link.open()


async def _one(world: World, name: str, fault: Fault, result: Result) -> None:
    try:
        await fault(world)
    except (LookupError, psutil.Error, *SERVER_ERRORS) as error:
        result.not_done.append(f"{name}: {type(error).__name__}: {error}")
    await asyncio.sleep(QUIET_S)
    try:
        await world.whole()
    except TimeoutError:
        result.failures.append(f"after {name}: not whole again in time")
    world.thaw()
    if await world.reconcile():  # a server without its slots is what a restore looks like: docs/operate.md
        result.reconciled += 1


def _tills(world: World, status: dict[str, Any], prefix: str, count: int, log: Log) -> list[Till]:
    key, (region,) = status["keys"]["admin"], status["regions"]
    return [
        Till(
            f"{prefix}-{number}",
            [Client(f"http://127.0.0.1:{link.port}", key) for link in world.links["command"]],
            [Client(f"http://127.0.0.1:{link.port}", key) for link in world.links["query"]],
            STORES[region],
            log,
        )
        for number in range(count)
    ]


def _gap(name: str, acknowledged_at: Sequence[float], began_s: float, ended_s: float) -> Gap:
    inside = [began_s, *(at for at in acknowledged_at if began_s <= at <= ended_s), ended_s]
    return Gap(name, max(later - earlier for earlier, later in pairwise(inside)), began_s, ended_s)


def summary(result: Result) -> list[str]:
    """What to print in the end."""
    log = result.log
    faults = len(result.gaps) - len(result.not_done)
    counted = f"{faults} faults, {len(log.acknowledged)} commands acknowledged in {log.attempts} attempts"
    lines = [f"{counted}, {len(log.refused)} refused, {log.reads} reads ({log.reads_unanswered} without an answer)"]
    lines.append(", ".join(f"{kind} {count}" for kind, count in sorted(log.kinds.items())))
    if result.reconciled:
        lines.append(f"`loyalty reconcile` was run {result.reconciled} times, as after a restore")
    lines += [f"not done: {words}" for words in result.not_done]
    with suppress(ValueError):
        longest = max(result.gaps, key=lambda gap: gap.longest_s)
        lines.append(f"longest time without an acknowledgement: {longest.longest_s:.1f} s ({longest.name})")
    first = result.first
    return [*lines, f"FIRST DIVERGENCE: {first}" if first else "no divergence"]
