"""What an account query costs a query node, of this tree and of others, beside bare aiohttp: CPU, in turn.

Nodes of all trees serve the same views from one Valkey on this machine (they need no Postgres), and are asked one after
another at a quiet rate and as fast as they answer; medians of rounds. CPU time of the serving thread, not the clock, so
that other work on the machine changes little.

    python -m benchmarks.query_cost redis://127.0.0.1:6379/0 [OTHER_TREE...]
"""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import orjson
import uvloop
from redis.asyncio import Redis

from benchmarks.bare import BODY
from benchmarks.wire import Client
from query.views import account_key, header
from service.credential import new_key
from shard_router.member_id import compose_member_id, format_member_id

MEMBERS: Final = 1_000
ROUNDS: Final = 3
QUIET_PER_S: Final = 333.0
QUIET_S: Final = 3.0
BUSY_S: Final = 2.0
WORKERS: Final = 64
READY_S: Final = 30.0
_REGION: Final = "eu"
_OWN: Final = Path(__file__).parents[1]


class Cost(NamedTuple):
    """Microseconds of CPU per query at a quiet rate and at the best, and how many were answered then."""

    quiet_us: float
    busy_us: float
    busy_per_s: float


class Subject(NamedTuple):
    """A server under measurement, and what is asked of it."""

    name: str
    pid: int
    client: Client
    requests: Sequence[bytes]


async def compare(valkey: str, trees: Sequence[Path]) -> dict[str, Cost]:
    """The costs of nodes of these trees, and of bare aiohttp."""
    key, record = new_key("admin")  # which alone may have so many under way
    members = [compose_member_id(1, slot=number % 4096, unique=number + 1) for number in range(MEMBERS)]
    async with Redis.from_url(valkey) as client:
        await client.mset({account_key(member): header(7) + BODY for member in members})
    try:
        with tempfile.TemporaryDirectory() as folder:
            credentials = Path(folder) / "credentials.json"
            credentials.write_bytes(orjson.dumps({"keys": [record.model_dump()]}))
            async with _all_serving(Path(folder), valkey, trees, key, members) as subjects:
                return await _in_turn(subjects)
    finally:
        async with Redis.from_url(valkey) as client:
            await client.delete(*map(account_key, members))


@asynccontextmanager
async def _all_serving(
    folder: Path, valkey: str, trees: Sequence[Path], key: str, members: Sequence[int]
) -> AsyncGenerator[list[Subject]]:
    processes: list[subprocess.Popen[bytes]] = []
    subjects: list[Subject] = []
    try:
        for number, tree in enumerate((None, *trees)):
            port = _free_port()
            process = _bare(port) if tree is None else _node(tree, folder / f"{number}.json", valkey, port)
            processes.append(process)
            client = Client(f"http://127.0.0.1:{port}", key)
            paths = (
                ["/account"] if tree is None else [f"/v1/members/{format_member_id(one)}/account" for one in members]
            )
            name = "bare aiohttp" if tree is None else str(tree)
            subjects.append(Subject(name, process.pid, client, [client.request("GET", path, {}) for path in paths]))
        for subject in subjects:
            await _until_it_answers(subject)
        yield subjects
    finally:
        for process in processes:
            process.terminate()
            process.wait()


async def _in_turn(subjects: Sequence[Subject]) -> dict[str, Cost]:
    rounds: dict[str, list[Cost]] = {subject.name: [] for subject in subjects}
    for _ in range(ROUNDS):
        for subject in subjects:
            quiet_us, _ = await _measure(subject, _quiet)
            busy_us, per_s = await _measure(subject, _busy)
            rounds[subject.name].append(Cost(quiet_us, busy_us, per_s))
    return {name: Cost(*(median(column) for column in zip(*costs, strict=True))) for name, costs in rounds.items()}


async def _measure(subject: Subject, load: Callable[[Subject], Awaitable[int]]) -> tuple[float, float]:
    began_at, began_us = time.monotonic(), _cpu_us(subject.pid)
    answered = await load(subject)
    return (_cpu_us(subject.pid) - began_us) / answered, answered / (time.monotonic() - began_at)


async def _quiet(subject: Subject) -> int:
    count, began_at = int(QUIET_PER_S * QUIET_S), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(began_at + number / QUIET_PER_S - time.monotonic())
            group.create_task(_ask(subject, number))
    return count


async def _busy(subject: Subject) -> int:
    ends_at = time.monotonic() + BUSY_S

    async def work(first: int) -> int:
        answered = 0
        while time.monotonic() < ends_at:
            await _ask(subject, first + answered * WORKERS)
            answered += 1
        return answered

    return sum(await asyncio.gather(*(work(number) for number in range(WORKERS))))


async def _ask(subject: Subject, number: int) -> None:
    answer = await subject.client.send(subject.requests[number % len(subject.requests)])
    assert answer.status == 200, answer  # noqa: PLR2004


async def _until_it_answers(subject: Subject) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            try:
                await _ask(subject, 0)
            except Exception:  # noqa: BLE001 - it is not there yet
                await asyncio.sleep(0.1)
            else:
                return


def _cpu_us(pid: int) -> float:
    """Of the first thread of a process, which runs its event loop: the first figure is nanoseconds on a CPU."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1000


def _bare(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare", str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=_environment(_OWN), cwd=_OWN,
    )  # fmt: skip


def _node(tree: Path, topology: Path, valkey: str, port: int) -> subprocess.Popen[bytes]:
    """A query node of a tree; whom it might ask instead of Valkey is not there."""
    nowhere = [f"postgresql://nobody:{secrets.token_hex(4)}@127.0.0.1:1/none"]
    shard = {"region": _REGION, "slots": [[0, 4095]], "servers": nowhere, "valkey": valkey}
    region = {"number": 1, "command": [], "query": [f"http://127.0.0.1:{port}"]}
    topology.write_bytes(orjson.dumps({"epoch": 1, "regions": {_REGION: region}, "shards": {"eu-1": shard}}))
    given = {
        "REGION": _REGION, "PORT": port, "TOPOLOGY": topology, "CREDENTIALS": topology.parent / "credentials.json",
        "OVERLOAD_DELAY_MS": 60_000,  # that others work on this machine must not be refused for
    }  # fmt: skip
    environment = _environment(tree) | {f"LOYALTY_{name}": str(value) for name, value in given.items()}
    return subprocess.Popen([sys.executable, "-m", "query"], env=environment, cwd=tree, stderr=subprocess.DEVNULL)


def _environment(tree: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}
    return kept | {"PYTHONPATH": str(tree)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(valkey: str, *others: str) -> None:
    """Print a table."""
    costs = uvloop.run(compare(valkey, [_OWN, *(Path(other).resolve() for other in others)]))
    bare = next(iter(costs.values()))
    for name, cost in costs.items():
        sys.stdout.write(
            f"{name}: {cost.quiet_us:.0f} us at {QUIET_PER_S:.0f}/s, {cost.busy_us:.0f} us at {cost.busy_per_s:.0f}/s; "
            f"beside bare aiohttp {cost.quiet_us / bare.quiet_us:.2f}, {cost.busy_us / bare.busy_us:.2f}, "
            f"rate {cost.busy_per_s / bare.busy_per_s:.2f}\n"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
