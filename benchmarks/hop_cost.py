"""What a query about a member of another region costs both nodes, beside one that is at home: CPU, by trees in turn.

Of each tree two nodes, of a region each, serve the same views from one Valkey on this machine (they need no Postgres);
medians of rounds. CPU time of the serving threads, not the clock, so that other work on the machine changes little.

    python -m benchmarks.hop_cost redis://127.0.0.1:6379/0 [OTHER_TREE...]
"""

import argparse
import secrets
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import orjson
import uvloop
from redis.asyncio import Redis

from benchmarks.bare import BODY
from benchmarks.cpu import thread_s
from benchmarks.load import Samples, Shoot, saturate
from benchmarks.peer import WORKERS
from benchmarks.query_cost import quiet
from benchmarks.tree import Place, free_port, node_at, write_key
from benchmarks.wire import Client, exchange
from query.views import account_key, header
from shard_router.member_id import SLOT_COUNT, compose_member_id, format_member_id

MEMBERS: Final = 1_000
ROUNDS: Final = 3
BUSY_S: Final = 2.0
HOME, FAR = "eu", "us"
QUIET, BUSY = "333/s", f"{WORKERS} connections"
LOADS: Final = (QUIET, BUSY)
_NUMBERS: Final = {HOME: 1, FAR: 2}
_VERSION: Final = 7
_OWN: Final = str(Path(__file__).parents[1])


class Cost(NamedTuple):
    """Microseconds of CPU per query: of the node that is asked, and of the other one."""

    asked_us: float
    other_us: float


class Pair(NamedTuple):
    """The nodes of a tree: clients and processes by region."""

    tree: str
    nodes: Mapping[str, tuple[Client, int]]

    def shoot(self, region: str, paths: Sequence[str]) -> Shoot:
        """Ask the node of a region about one member of the other after another."""
        client, _ = self.nodes[region]
        requests = [client.request("GET", path, {}) for path in paths]

        async def ask(number: int) -> str:
            return (await exchange(client, requests[number % len(requests)]))[1]

        return ask


async def compare(valkey: str, trees: Sequence[str]) -> dict[tuple[str, str, str], Cost]:
    """The costs by tree, the region that is asked, and the load."""
    members = [compose_member_id(1, slot=number % SLOT_COUNT, unique=number + 1) for number in range(MEMBERS)]
    paths = [f"/v1/members/{format_member_id(member)}/account" for member in members]
    async with Redis.from_url(valkey) as client, AsyncExitStack() as stack:
        await client.mset({account_key(member): header(_VERSION) + BODY for member in members})
        stack.push_async_callback(client.delete, *map(account_key, members))
        nowhere = [f"postgresql://nobody:{secrets.token_hex(4)}@127.0.0.1:1/none"]
        place = Place(Path(stack.enter_context(tempfile.TemporaryDirectory())), nowhere, valkey)
        key = write_key(place)
        pairs = [await stack.enter_async_context(_pair(tree, place, key, paths[0])) for tree in trees]
        rounds: dict[tuple[str, str, str], list[Cost]] = {}
        for _ in range(ROUNDS):
            for pair in pairs:
                for region in (HOME, FAR):
                    shoot = pair.shoot(region, paths)
                    for load in LOADS:
                        run = quiet(shoot) if load == QUIET else saturate(shoot, workers=WORKERS, duration_s=BUSY_S)
                        rounds.setdefault((pair.tree, region, load), []).append(await _measure(pair, region, run))
        return {what: Cost(*map(median, zip(*costs, strict=True))) for what, costs in rounds.items()}


@asynccontextmanager
async def _pair(tree: str, place: Place, key: str, asked: str) -> AsyncGenerator[Pair]:
    ports = {region: free_port() for region in (HOME, FAR)}
    topology = place.folder / f"{ports[HOME]}.json"
    topology.write_bytes(orjson.dumps(_topology(place, ports)))
    async with AsyncExitStack() as stack:
        nodes: dict[str, tuple[Client, int]] = {}
        for region, port in ports.items():
            # That others work on this machine must not be a reason to refuse, nor that the bulkhead is full.
            settings = {"region": region, "topology": topology, "overload_delay_ms": 60_000, "in_flight_max": 1_024}
            node = node_at(tree, "query", place, key, asked=asked, port=port, **settings)
            nodes[region] = await stack.enter_async_context(node)
        yield Pair(tree, nodes)


def _topology(place: Place, ports: Mapping[str, int]) -> dict[str, object]:
    shard = {"slots": [[0, SLOT_COUNT - 1]], "servers": place.servers, "valkey": place.valkey}
    regions = {
        region: {"number": number, "command": [], "query": [f"http://127.0.0.1:{ports[region]}"]}
        for region, number in _NUMBERS.items()
    }
    return {"epoch": 1, "regions": regions, "shards": {f"{name}-1": shard | {"region": name} for name in regions}}


async def _measure(pair: Pair, region: str, load: Awaitable[tuple[float, Samples]]) -> Cost:
    pids = [pair.nodes[region][1], *(pid for name, (_, pid) in pair.nodes.items() if name != region)]
    began_s = [thread_s(pid) for pid in pids]
    _, samples = await load
    if samples.errors:
        raise SystemExit(f"{pair.tree}: {dict(samples.errors)}")
    return Cost(*(1e6 * (thread_s(pid) - s) / len(samples.latency_us) for pid, s in zip(pids, began_s, strict=True)))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("valkey")
    parser.add_argument("trees", nargs="*")
    given = parser.parse_args()
    trees = [_OWN, *(str(Path(other).resolve()) for other in given.trees)]
    costs = uvloop.run(compare(given.valkey, trees))
    for tree in trees:
        for load in LOADS:
            home, far = costs[tree, HOME, load], costs[tree, FAR, load]
            sys.stdout.write(
                f"{tree}, {load}: at home {home.asked_us:.0f} us; handed on {far.asked_us:.0f} us "
                f"({far.asked_us / home.asked_us:.2f} times), and answered there {far.other_us:.0f} us "
                f"({far.other_us / home.asked_us:.2f} times)\n"
            )


if __name__ == "__main__":
    main()
