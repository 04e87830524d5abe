"""What a one-line purchase costs over HTTP, by the number of connections: CPU of a command process and its backends.

A command process of each tree on one scratch database of a given server on this machine, and bare aiohttp, are asked in
turn, round after round; pgbench's earn comes before. CPU time, not the clock, so that other work on the machine changes
little, but for the size of batches: it is told too. Medians of rounds.

    python -m benchmarks.http_cost postgresql://superuser@127.0.0.1:5432/postgres [TREE ...]
"""

import argparse
import asyncio
import itertools
import random
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import asyncpg
import orjson
import uvloop

from benchmarks.command_cost import CLIENTS, earn_us
from benchmarks.cpu import thread_s
from benchmarks.load import Shoot, saturate
from benchmarks.order import BenchMember, Till
from benchmarks.peer import PGBENCH_CLIENTS, WORKERS, measure_bare, scratch
from benchmarks.tree import Place, node_of, write_key
from benchmarks.wire import Client, exchange
from command.migrate import migrate
from command.program import apply_program
from rules.program import parse_program
from shard_router.statement import load_statements

MEMBERS: Final = 2048
CONNECTIONS: Final = (WORKERS, 1)
ROUNDS: Final = 3
SECONDS: Final = 3.0
_PAUSE_S: Final = 0.1
_FOLDER: Final = Path(__file__).parent
_HERE: Final = _FOLDER.parent
_STATEMENTS: Final = load_statements(_FOLDER / "ratio.sql")
_PROGRAM: Final = _HERE / "rules" / "main_street.toml"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many connections one after another, how many rounds of it, and how long each takes."""

    connections: Sequence[int]
    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one purchase costs."""

    node_us: float
    backend_us: float
    batch: float
    per_s: float


@dataclass(slots=True)
class Node:
    """A command process of a tree, and what it cost by the number of connections."""

    tree: str
    client: Client
    pid: int
    costs: dict[int, list[Cost]] = field(default_factory=dict[int, list[Cost]])

    async def batches(self) -> tuple[float, float]:
        """Commands in batches, and batches, so far."""
        text = (await self.client.get("/metrics")).body.decode()
        figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("loyalty_batch_commands_"))
        return float(figures["loyalty_batch_commands_sum"]), float(figures["loyalty_batch_commands_count"])


@dataclass(slots=True)
class World:
    """Members of a scratch database and a till."""

    members: list[BenchMember]
    store: str
    till: Till
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def shoot(self, client: Client) -> Shoot:
        """Sends purchases, of one member after another."""

        async def purchase(_: int) -> str:
            number = next(self.numbers)
            order = self.till.order("purchase", self.members[number % len(self.members)], self.store)
            request = client.command(order.path, order.body, key=f"{self.till.run_id}-{number}")
            return (await exchange(client, request))[1]

        return purchase


async def measure(dsn: str, trees: Sequence[str], plan: Plan) -> tuple[list[Node], dict[int, float]]:
    """The nodes with their costs on an empty migrated database, and bare aiohttp's CPU (us) by the connections."""
    await apply_program([dsn], _PROGRAM.read_text())
    store = next(iter(parse_program(_PROGRAM.read_text()).stores))
    bare_us: dict[int, list[float]] = {count: [] for count in plan.connections}
    async with AsyncExitStack() as stack:
        place = Place(Path(stack.enter_context(tempfile.TemporaryDirectory())), [dsn])
        key = write_key(place)
        nodes = [Node(tree, *await stack.enter_async_context(node_of(tree, "command", place, key))) for tree in trees]
        run_id = secrets.token_hex(4)
        world = World([], store, Till(run_id, random.Random(1), ()))
        while len(world.members) < MEMBERS:
            names = [f"{run_id}-{len(world.members) + number}" for number in range(WORKERS)]
            world.members += await asyncio.gather(*(_enrol(nodes[0].client, name) for name in names))
        admin = await asyncpg.connect(dsn)
        for node in nodes:
            await saturate(world.shoot(node.client), workers=WORKERS, duration_s=plan.seconds)
        await admin.execute(_STATEMENTS["settle_down"])
        for _ in range(plan.rounds):
            for count in plan.connections:
                bare_us[count].append((await measure_bare(plan.seconds, workers=count)).cpu_us["node"])
            for connections, node in itertools.product(plan.connections, nodes):
                cost = await _measure(world.shoot(node.client), node, admin, connections, plan.seconds)
                node.costs.setdefault(connections, []).append(cost)
        await admin.close()
    return nodes, {count: median(told) for count, told in bare_us.items()}


async def _measure(shoot: Shoot, node: Node, admin: Any, connections: int, seconds: float) -> Cost:
    await saturate(shoot, workers=connections, duration_s=seconds / 10)
    before, backends = await node.batches(), await admin.fetch(_STATEMENTS["spent"])
    node_s, backend_s = _cpu_s(node.pid), sum(_cpu_s(row["pid"]) for row in backends)
    rate, samples = await saturate(shoot, workers=connections, duration_s=seconds)
    node_s, backend_s = _cpu_s(node.pid) - node_s, sum(_cpu_s(row["pid"]) for row in backends) - backend_s
    done, after = len(samples.latency_us), await node.batches()
    if samples.errors:
        sys.stderr.write(f"{node.tree}: {dict(samples.errors)}\n")
    batch = (after[0] - before[0]) / max(after[1] - before[1], 1)
    return Cost(1e6 * node_s / done, 1e6 * backend_s / done, batch, rate)


def _cpu_s(pid: int) -> float:
    """CPU time of a process, all threads together."""
    return sum(thread_s(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir())


async def _enrol(client: Client, name: str) -> BenchMember:
    while (answer := await client.post("/v1/members", {"name": name}, key=name)).code == "overloaded":  # noqa: ASYNC110
        await asyncio.sleep(_PAUSE_S)
    return BenchMember(str(orjson.loads(answer.body)["member_id"]), "eu")


async def main(server: str, trees: Sequence[str], plan: Plan) -> None:
    """Measure on a scratch database of a server, and print."""
    earn_of = {count: await earn_us(server, CLIENTS.get(count, PGBENCH_CLIENTS)) for count in plan.connections}
    async with scratch(server) as (dsn, durability):
        await migrate(dsn)
        nodes, bare_us = await measure(dsn, trees, plan)
    most_us = bare_us[max(bare_us)]
    told = ", ".join(f"{bare:.1f} us with {count}" for count, bare in bare_us.items())
    sys.stdout.write(f"synchronous_commit {durability}; bare aiohttp by connections: {told}\n")
    for connections, node in itertools.product(plan.connections, nodes):
        costs, bare = node.costs[connections], bare_us[connections]
        cost = Cost(*(median(getattr(one, name) for one in costs) for name in Cost.__slots__))
        spread = ", ".join(f"{one.node_us:.0f}" for one in costs)
        sys.stdout.write(
            f"{connections:2} connections: node {cost.node_us:6.1f} us ({cost.node_us / bare:4.1f} of bare as many, "
            f"{cost.node_us / most_us:4.1f} of the most; {spread}), "
            f"backend {cost.backend_us:6.1f} us ({cost.backend_us / earn_of[connections]:.2f} of pgbench), "
            f"batches of {cost.batch:4.1f}, {cost.per_s:5.0f}/s  {node.tree}\n"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", help="DSN of a superuser")
    parser.add_argument("trees", nargs="*", default=[str(_HERE)], help="folders with a checkout each")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--connections", type=int, nargs="+", default=list(CONNECTIONS))
    asked = parser.parse_args()
    uvloop.run(main(asked.server, asked.trees, Plan(asked.connections, asked.rounds, asked.seconds)))
