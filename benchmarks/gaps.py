"""`python -m benchmarks.gaps`: how long writes stand still when a server of a shard dies, and whether reads go on.

Rounds of one fault of each kind, each round on a system of its own with two query nodes: a supervisor gives up after
three failovers in ten minutes. Tills send commands of every kind, readers ask on their own schedule and ask the other
node once where one does not answer, as documents tell. What the tills heard is held against the data after each round.
"""

import argparse
import asyncio
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.chaos import Result, campaign
from benchmarks.chaos_world import World
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
READS_TARGET: Final = 0.9999
READERS: Final = 4
READ_EVERY_S: Final = 0.04
READ_TIMEOUT_S: Final = 2.0


@dataclass(slots=True)
class Reads:
    """Of all readers: how many reads, how many without an answer from either node, and how long the answers took."""

    asked: int = 0
    unanswered: int = 0
    took_s: list[float] = field(default_factory=list[float])


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
                    reads.took_s.append(time.monotonic() - began)
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
            return await campaign(world, list(TARGETS_S), seed=number, tills=4, duration_s=None, tell=tell)
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


def table(gaps_s: dict[str, list[float]], reads: Reads, standbys: int) -> list[str]:
    """The rows as Markdown."""
    lines = ["| fault | times | median | p99 | target | |", "|---|---|---|---|---|---|"]
    for name, target_s in TARGETS_S.items():
        goal_s = STANDBY_TARGET_S if standbys > 1 and name.startswith("standby") else target_s
        if found := sorted(gaps_s[name]):
            p99_s = found[math.ceil(0.99 * len(found)) - 1]
            mark = "" if p99_s <= goal_s else "not reached"
            median_s = statistics.median(found)
            lines.append(f"| {name} | {len(found)} | {median_s:.2f} s | {p99_s:.2f} s | {goal_s:g} s | {mark} |")
    if reads.took_s:
        share = 1 - reads.unanswered / reads.asked
        p99_ms = 1000 * sorted(reads.took_s)[math.ceil(0.99 * len(reads.took_s)) - 1]
        mark = "" if share >= READS_TARGET else "not reached"
        lines.append(f"| reads answered, p99 {p99_ms:.0f} ms | {reads.asked} | {share:.4%} | | 99.99 % | {mark} |")
    return lines


async def main() -> int:
    """Measure and print; 1 when anything acknowledged was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--standbys", type=int, default=1)
    parser.add_argument("--port", type=int, default=12_700)
    given = parser.parse_args()
    gaps_s, reads = defaultdict[str, list[float]](list), Reads()
    divergence = None
    for number in range(given.times):
        result = await one_round(number, given.standbys, given.port, reads)
        undone = {name.partition(" (not done")[0] for name, _ in result.gaps_s if "(not done" in name}
        for name, gap_s in result.gaps_s:
            if name not in undone:
                gaps_s[name].append(gap_s)
        divergence = result.first
        if divergence:
            break
    tell("\n".join(table(gaps_s, reads, given.standbys)))
    tell(f"FIRST DIVERGENCE: {divergence}" if divergence else "no divergence: nothing acknowledged was lost or doubled")
    return 1 if divergence else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
