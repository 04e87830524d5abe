"""What the front door gives and costs, on a running system: `python -m benchmarks.door --data DIR`.

Reads by member id through the door against the same at random nodes (who is not at home is handed on) and at the home
node itself, in turn; then all nodes of a region are killed while its clients read. Latencies are of one connection.
"""

import argparse
import asyncio
import json
import random
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.chaos_world import World
from benchmarks.wire import Client, WireError

ROUNDS: Final = 5
READS: Final = 400
MEMBERS: Final = 20
"""Of each region."""
KILLED_FOR_S: Final = 12.0
PACE_S: Final = 0.005

Member = tuple[str, str]
"""Id and region."""


class System:
    """A running system, as `loyalty status --json` and its processes tell of it."""

    def __init__(self, world: World, status: Mapping[str, Any]) -> None:
        self._key = status["keys"]["admin"]
        self.processes = world.processes
        self.door = self.client(status["door"])
        self.queries = {name: self.client(row["query"]) for name, row in status["regions"].items()}
        self.commands = {name: self.client(row["command"]) for name, row in status["regions"].items()}

    def client(self, url: str) -> Client:
        """A client of a node or of the door."""
        return Client(url, self._key)

    async def forwarded(self) -> float:
        """How many reads nodes have handed to other regions so far."""
        texts = [(await client.get("/metrics")).body.decode() for client in self.queries.values()]
        lines = (line for text in texts for line in text.splitlines() if line.startswith("loyalty_forwarded_total"))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def cpu_s(self, part: str) -> float:
        """CPU seconds so far of the processes whose name has this part."""
        spent = (one.cpu_times() for name, one in self.processes().items() if part in name)
        return sum(times.user + times.system for times in spent)


async def enrol(system: System) -> list[Member]:
    """Some members of each region, whom the views know."""
    members: list[Member] = []
    for region, client in system.commands.items():
        for _ in range(MEMBERS):
            answer = await client.post("/v1/members", {"name": "door"}, key=f"door-{secrets.token_hex(8)}")
            members.append((json.loads(answer.body)["member_id"], region))
    return members


async def read(choose: Callable[[str], Client], members: Sequence[Member]) -> list[float]:
    """How long reads took, in ms, one after the other."""
    took: list[float] = []
    for _ in range(READS):
        member, region = random.choice(members)
        begun = time.perf_counter()
        answer = await choose(region).get(f"/v1/members/{member}/account")
        took.append((time.perf_counter() - begun) * 1000)
        if answer.code != "ok":
            raise SystemExit(f"{answer.code} for {member}")
    return took


async def compare(system: System, members: Sequence[Member]) -> dict[str, dict[str, float]]:
    """The three ways in turn: p50, share handed on, CPU of the door and of the query nodes per read."""
    ways: Mapping[str, Callable[[str], Client]] = {
        "at home": lambda region: system.queries[region],
        "at random": lambda _: random.choice([*system.queries.values()]),
        "through the door": lambda _: system.door,
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    spent: dict[str, list[float]] = {way: [0.0, 0.0, 0.0] for way in ways}
    for choose in ways.values():
        await read(choose, members)
    for _ in range(ROUNDS):
        for way, choose in ways.items():
            before = [await system.forwarded(), system.cpu_s("door"), system.cpu_s("-query")]
            took[way] += await read(choose, members)
            after = [await system.forwarded(), system.cpu_s("door"), system.cpu_s("-query")]
            spent[way] = [total + b - a for total, a, b in zip(spent[way], before, after, strict=True)]
    return {
        way: {
            "p50_ms": round(statistics.median(took[way]), 2),
            "handed_on": round(spent[way][0] / len(took[way]), 3),
            "door_cpu_us": round(spent[way][1] / len(took[way]) * 1e6),
            "query_cpu_us": round(spent[way][2] / len(took[way]) * 1e6),
        }
        for way in ways
    }


async def kill_region(system: System, members: Sequence[Member], region: str) -> dict[str, dict[str, float]]:
    """All nodes of a region die at once, and are started again, while its clients ask the door."""
    mine = [member for member, home in members if home == region]
    asked: dict[str, int] = {"of its members": 0, "of the catalogue": 0}
    bad: dict[str, list[float]] = {what: [] for what in asked}
    killed, until = False, time.perf_counter() + KILLED_FOR_S
    while (now := time.perf_counter()) < until:
        if not killed and now > until - KILLED_FOR_S + 2:
            killed = True
            _kill(system, (f"{region}-command", f"{region}-query"))
        for what, path in zip(asked, (f"/v1/members/{random.choice(mine)}/account", "/v1/rewards"), strict=True):
            asked[what] += 1
            if not await _is_good(system.door, path):
                bad[what].append(time.perf_counter())
        await asyncio.sleep(PACE_S)
    return {
        what: {
            "asked": asked[what],
            "failed": len(times),
            "longest_s": round(max(times) - min(times), 2) if times else 0,
        }
        for what, times in bad.items()
    }


def _kill(system: System, names: tuple[str, ...]) -> None:
    for name, process in system.processes().items():
        if name.startswith(names):
            with suppress(psutil.NoSuchProcess):
                process.kill()


async def _is_good(door: Client, path: str) -> bool:
    try:
        return (await door.get(path)).code == "ok"
    except (WireError, OSError):
        return False


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Data folder of a running system with a door.")
    world = World(parser.parse_args().data, ())
    system = System(world, await world.status())
    members = await enrol(system)
    for way, figures in (await compare(system, members)).items():
        sys.stdout.write(f"{way}: {figures}\n")
    killed = await kill_region(system, members, next(iter(system.queries)))
    for what, figures in killed.items():
        sys.stdout.write(f"region killed, {what}: {figures}\n")


if __name__ == "__main__":
    asyncio.run(_main())
