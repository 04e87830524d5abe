"""`loyalty chaos`: a seeded schedule of faults under load, and then the log of the tills held against the data at rest.

The same seed gives the same faults in the same order against the same tills; what the machine makes of their timing is
its own. The first divergence is what is printed: later ones may follow from it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import asyncpg
import psutil

from benchmarks.chaos_client import BUCKETS, Log, Till
from benchmarks.chaos_fault import FAULTS, STATEMENTS
from benchmarks.chaos_world import World
from benchmarks.wire import Client
from shard_router.member_id import parse_member_id

FAILOVERS: Final = ("primary", "switchover")
STORES: Final = {"eu": "berlin-mitte", "us": "330", "ap": "tokyo-ginza"}
QUIET_S: Final = 1.0
WARM_S: Final = 2.0

Tell = Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What a campaign came to."""

    log: Log
    gaps_s: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Each fault, and the longest time without an acknowledgement from it until all was whole again."""
    failures: list[str] = field(default_factory=list[str])

    @property
    def first(self) -> str | None:
        """The first divergence."""
        return next(iter((*self.log.divergences, *self.failures)), None)


def schedule(seed: int, count: int, only: Sequence[str] = ()) -> list[str]:
    """The faults of a seed in their order: every kind once before any comes twice."""
    chooser = random.Random(seed)
    names: list[str] = []
    while len(names) < count:
        round_of_all = sorted(only or FAULTS)
        chooser.shuffle(round_of_all)
        names += round_of_all
    return names[:count]


async def campaign(  # noqa: PLR0913 - what makes a run
    world: World, names: Sequence[str], *, seed: int, tills: int, duration_s: float | None, tell: Tell
) -> Result:
    """Do one fault after another, each until the system is whole again; then judge."""
    status, result, stop = await world.status(), Result(Log()), asyncio.Event()
    shops = [
        asyncio.create_task(till.work(stop))
        for till in _tills(status, f"chaos-{seed}-{time.time_ns()}", tills, result.log)
    ]
    await asyncio.sleep(WARM_S)
    until = time.monotonic() + duration_s if duration_s else None
    for number, name in enumerate(names, 1):
        if (until and time.monotonic() > until) or result.log.divergences:
            break
        began = time.monotonic()
        await _one(world, name, result)
        gap = _gap(result.log.acknowledged_at, began, time.monotonic())
        result.gaps_s.append((name, gap))
        tell(f"{number:4d}  {name}: no answer for {gap:.2f} s, whole after {time.monotonic() - began:.1f} s")
        if result.failures:
            break
    stop.set()
    for done in await asyncio.gather(*shops, return_exceptions=True):
        if isinstance(done, BaseException):
            result.log.diverges(f"a till ended: {type(done).__name__}: {done}")
    await _judge(world, result)
    return result


async def _one(world: World, name: str, result: Result) -> None:
    try:
        await FAULTS[name](world)
    except (LookupError, OSError, TimeoutError, psutil.Error, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        result.gaps_s.append((f"{name} (not done: {type(error).__name__})", 0.0))
    await asyncio.sleep(QUIET_S)
    try:
        await world.whole()
    except TimeoutError:
        result.failures.append(f"after {name}: not whole again in time")
    world.thaw()


def _tills(status: dict[str, Any], prefix: str, count: int, log: Log) -> list[Till]:
    key = status["keys"]["admin"]
    (region, row), *_ = status["regions"].items()
    return [
        Till(
            f"{prefix}-{number}",
            [Client(url, key) for url in row["command_nodes"]],
            [Client(url, key) for url in row["query_nodes"]],
            STORES[region],
            log,
        )
        for number in range(count)
    ]


def _gap(acknowledged_at: Sequence[float], began: float, ended: float) -> float:
    inside = [began, *(at for at in acknowledged_at if began <= at <= ended), ended]
    return max(later - earlier for earlier, later in pairwise(inside))


async def _judge(world: World, result: Result) -> None:
    """Hold what the tills heard against the journal of the final primary, and have everything verified."""
    log, found = result.log, result.failures
    try:
        async with world.session(world.port(await world.server(standby=False))) as primary:
            await _judge_entries(primary, log, found)
            await _judge_balances(primary, log, found)
    except (LookupError, OSError, asyncpg.PostgresError) as error:
        found.append(f"the final primary cannot be asked: {error}")
    code, words = await world.loyalty("verify")
    if code:
        found.append(f"verify: {words[-2000:]}")


async def _judge_entries(primary: asyncpg.Connection, log: Log, found: list[str]) -> None:
    members = {parse_member_id(member) for member, _ in log.acknowledged.values()}
    rows = {tuple(row) for row in await primary.fetch(STATEMENTS["entries"], list(members))}
    claimed: dict[tuple[int, int], str] = {}
    for key, (member, version) in log.acknowledged.items():
        entry = (parse_member_id(member), version)
        if entry not in rows and version > 1:
            found.append(f"{key}: acknowledged as {member} version {version}, not in the journal")
        if entry in claimed:
            found.append(f"{key} and {claimed[entry]} were acknowledged as one entry")
        claimed[entry] = key
    if not log.open and len(rows - claimed.keys()):
        found.append(f"entries nobody was told of: {sorted(rows - claimed.keys())[:5]}")
    prefix = next(iter(log.receipts), "chaos-none").rpartition("-")[0].rpartition("-")[0]
    times = {row["receipt"]: row["times"] for row in await primary.fetch(STATEMENTS["receipts"], prefix)}
    found += [f"receipt {one}: recorded {times.get(one, 0)} times" for one in log.receipts if times.get(one) != 1]
    found += [f"receipt {one} was refused and is recorded" for one in log.refused_receipts if one in times]


async def _judge_balances(primary: asyncpg.Connection, log: Log, found: list[str]) -> None:
    books = {parse_member_id(member): balance for member, balance in log.balances.items()}
    for row in await primary.fetch(STATEMENTS["balances"], list(books)):
        held = {bucket: row[bucket] for bucket in BUCKETS}
        if held != books[row["member_id"]]:
            found.append(f"member {row['member_id']}: {held}, by our books {books[row['member_id']]}")


def summary(result: Result) -> list[str]:
    """What to print in the end."""
    log = result.log
    counted = f"{len(result.gaps_s)} faults, {len(log.acknowledged)} commands acknowledged in {log.attempts} attempts"
    lines = [f"{counted}, {log.reads} reads ({log.reads_unanswered} without an answer)"]
    with suppress(ValueError):
        name, gap = max(result.gaps_s, key=lambda one: one[1])
        lines.append(f"longest time without an acknowledgement: {gap:.1f} s ({name})")
    first = result.first
    return [*lines, f"FIRST DIVERGENCE: {first}" if first else "no divergence"]
