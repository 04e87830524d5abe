"""`python -m benchmarks.gaps`: how long writes stand still when a server of a shard dies, and whether reads go on.

Rounds of one fault of each kind, each round on a system of its own with two query nodes: a supervisor gives up after
three failovers in ten minutes. A round begins with some seconds of no fault, looked at in the same way: what a read
takes then is what reads during a fault are held against. Tills send commands of every kind, readers ask on their own
schedule and ask the other node once where one does not answer, as documents tell. A watcher changes the member that
they read about, and sees how long it takes from the answer until a plain read shows the change. What the tills heard
is held against the data after each round.
"""

import argparse
import asyncio
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from benchmarks.chaos import Gap, Result, campaign
from benchmarks.chaos_fault import FAULTS
from benchmarks.chaos_world import LOOK_INTERVAL_S, World
from benchmarks.wire import Client, WireError

TARGETS_S: Final = {
    "primary killed": 2.0,
    "primary frozen": 15.0,
    "primary's folder lost": 15.0,
    "standby killed": 3.0,
    "standby frozen": 15.0,
    "standby's folder lost": 15.0,
    "switchover": 1.0,
}
"""Longest time without an acknowledgement, 99 of 100; with two standbys none of a standby's is over a second."""
STANDBY_TARGET_S: Final = 1.0
VISIBLE_TARGET_S: Final = 10.0
"""From the fault until a change is visible as soon after its answer as ever."""
VISIBLE_S: Final = 0.25
"""As soon as ever: twice the p99 without a fault, or so soon, which is the target under double load."""
VISIBLE_EVERY_S, VISIBLE_LOOK_S = 0.1, 0.005
VISIBLE_DEADLINE_S: Final = 60.0
READS_TARGET: Final = 0.9999
SLOWER_TARGET: Final = 2.0
"""99 of 100 reads during a fault, to 99 of 100 without one."""
NO_FAULT: Final = "no fault"
NO_FAULT_S: Final = 8.0
READERS: Final = 4
READ_EVERY_S: Final = 0.04
READ_TIMEOUT_S: Final = 2.0


class Read(NamedTuple):
    """One read that was answered, or a change that became visible: since when, by the monotonic clock, and how long."""

    began_s: float
    took_s: float


@dataclass(slots=True)
class Reads:
    """Of all readers: how many reads, how many without an answer from either node, and those that were answered."""

    asked: int = 0
    unanswered: int = 0
    answered: list[Read] = field(default_factory=list[Read])
    visible: list[Read] = field(default_factory=list[Read])
    """From the answer of a command until a read without a token shows its version."""

    def during(self, gaps: Iterable[Gap]) -> list[float]:
        """How long those took that began within one of these times, the shortest first."""
        return sorted(read.took_s for read in _during(self.answered, gaps))

    def visible_again_s(self, gap: Gap, normal_s: float) -> float:
        """From the fault until the last change that took longer than normal was visible; 0 when none did."""
        slow = (one for one in _during(self.visible, [gap]) if one.took_s > normal_s)
        return max((one.began_s + one.took_s - gap.began_s for one in slow), default=0.0)


def _during(reads: Iterable[Read], gaps: Iterable[Gap]) -> list[Read]:
    """Those that began within one of these times."""
    spans = [(gap.began_s, gap.ended_s) for gap in gaps]
    return [read for read in reads if any(began_s <= read.began_s <= ended_s for began_s, ended_s in spans)]


async def watch_visible(status: dict[str, Any], member: str, visible: list[Read], stop: asyncio.Event) -> None:
    """Change a member again and again until told to stop; when that was answered, read until the change is seen."""
    (row,) = status["regions"].values()
    key = status["keys"]["admin"]
    commands, queries = ([Client(url, key) for url in row[f"{side}_nodes"]] for side in ("command", "query"))
    for number in takewhile(lambda _: not stop.is_set(), count()):
        await asyncio.sleep(VISIBLE_EVERY_S)
        body = {"member": {"member_id": member}, "points": 1, "reason": "goodwill"}
        raw = commands[0].command("/v1/adjustments", body, key=f"gaps-{number}")
        with suppress(WireError):
            answer = await commands[number % len(commands)].send(raw, timeout_s=READ_TIMEOUT_S)
            if answer.code != "ok":
                continue
            wanted, began_s = orjson.loads(answer.body)["account"]["version"], time.monotonic()
            while (now := time.monotonic()) < began_s + VISIBLE_DEADLINE_S:
                with suppress(WireError):
                    raw = queries[0].request("GET", f"/v1/members/{member}/account", {})
                    seen = await queries[number % len(queries)].send(raw, timeout_s=READ_TIMEOUT_S)
                    if seen.code == "ok" and orjson.loads(seen.body)["version"] >= wanted:
                        break
                await asyncio.sleep(VISIBLE_LOOK_S)
            visible.append(Read(began_s, now - began_s))


async def no_fault(world: World) -> None:
    """Only look at the system again and again, as after each fault."""
    until = time.monotonic() + NO_FAULT_S
    while time.monotonic() < until:
        await world.whole()
        await asyncio.sleep(LOOK_INTERVAL_S)


async def read_on(world: World, status: dict[str, Any], member: str, reads: Reads) -> None:
    """Ask for a member's account again and again, now this node and now that; not while all is started anew."""
    (row,) = status["regions"].values()
    nodes = [Client(url, status["keys"]["admin"]) for url in row["query_nodes"]]
    while True:
        began = time.monotonic()
        for node in nodes if reads.asked % 2 else nodes[::-1]:
            with suppress(WireError):
                raw = node.request("GET", f"/v1/members/{member}/account", {})
                if (await node.send(raw, timeout_s=READ_TIMEOUT_S)).code == "ok":
                    reads.asked += 1
                    reads.answered.append(Read(began, time.monotonic() - began))
                    break
        else:
            if not world.starts_anew:
                reads.asked += 1
                reads.unanswered += 1
        await asyncio.sleep(max(0.0, began + READ_EVERY_S - time.monotonic()))


def tell(words: str) -> None:
    """Say it at once: a run takes minutes."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def enrol(status: dict[str, Any]) -> str:
    """A member to read about."""
    (row,) = status["regions"].values()
    client = Client(row["command"], status["keys"]["admin"])
    answer = await client.send(client.command("/v1/members", {"name": "Reader"}, key="gaps-reader"))
    return str(orjson.loads(answer.body)["member_id"])


async def one_round(number: int, standbys: int, port: int, reads: Reads) -> Result:
    """One fault of each kind on a fresh system."""
    folder = _made()
    up = ("--regions", "eu", "--port", str(port), "--standbys", str(standbys), "--nodes", "2", "--no-door")
    world = World(folder / "data", up)
    code, words = await world.loyalty("up", "--detach", *up)
    if code:
        raise SystemExit(words)
    try:
        await world.whole()
        status = await world.status()
        member = await enrol(status)
        readers = [asyncio.create_task(read_on(world, status, member, reads)) for _ in range(READERS)]
        try:
            return await campaign(
                world,
                (NO_FAULT, *TARGETS_S),
                seed=number,
                tills=4,
                duration_s=None,
                tell=tell,
                faults={NO_FAULT: no_fault, **FAULTS},
                beside=partial(watch_visible, status, member, reads.visible),
            )
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
    finally:
        world.thaw()
        await world.loyalty("down")
        shutil.rmtree(folder, ignore_errors=True)


def _made() -> Path:
    """A folder that the servers' account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="loyalty-gaps-", dir="/var/tmp"))
    folder.chmod(0o755)
    return folder


def p99(ordered: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return ordered[math.ceil(0.99 * len(ordered)) - 1]


def table(gaps: Sequence[Gap], reads: Reads, standbys: int) -> list[str]:
    """The rows as Markdown."""
    head = "| fault | times | median | p99 | target | reads p99 | to no fault | visible as ever after | |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    of = {name: [gap for gap in gaps if gap.name == name] for name in (NO_FAULT, *TARGETS_S)}
    normal_s = p99(reads.during(of[NO_FAULT]) or [math.nan])
    quiet = sorted(one.took_s for one in _during(reads.visible, of[NO_FAULT]))
    visible_s = max(SLOWER_TARGET * p99(quiet or [math.nan]), VISIBLE_S)
    for name, target_s in TARGETS_S.items():
        goal_s = STANDBY_TARGET_S if standbys > 1 and name.startswith("standby") else target_s
        if found := sorted(gap.longest_s for gap in of[name]):
            read_s = p99(reads.during(of[name]) or [math.nan])
            again_s = max(reads.visible_again_s(gap, visible_s) for gap in of[name])
            met = p99(found) <= goal_s and read_s <= SLOWER_TARGET * normal_s and again_s <= VISIBLE_TARGET_S
            gap = f"{statistics.median(found):.2f} s | {p99(found):.2f} s | {goal_s:g} s"
            read = f"{1000 * read_s:.0f} ms | {read_s / normal_s:.2f}"
            lines.append(
                f"| {name} | {len(found)} | {gap} | {read} | {again_s:.1f} s | {'' if met else 'not reached'} |"
            )
    if reads.asked:
        share = 1 - reads.unanswered / reads.asked
        mark = "" if share >= READS_TARGET else "not reached"
        normal = f"no fault: {1000 * normal_s:.0f} ms"
        visible = f"as ever: {1000 * visible_s:.0f} ms"
        lines.append(f"| reads answered | {reads.asked} | | {share:.4%} | 99.99 % | {normal} | | {visible} | {mark} |")
    return lines


async def main() -> int:
    """Measure and print; 1 when anything acknowledged was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--standbys", type=int, default=1)
    parser.add_argument("--port", type=int, default=12_700)
    given = parser.parse_args()
    gaps, reads = list[Gap](), Reads()
    divergence = None
    for number in range(given.times):
        result = await one_round(number, given.standbys, given.port, reads)
        undone = {words.partition(":")[0] for words in result.not_done}
        gaps += [gap for gap in result.gaps if gap.name not in undone]
        divergence = result.first
        if divergence:
            break
    tell("\n".join(table(gaps, reads, given.standbys)))
    tell(f"FIRST DIVERGENCE: {divergence}" if divergence else "no divergence: nothing acknowledged was lost or doubled")
    return 1 if divergence else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
