"""What a one-line purchase costs a backend with few members and with many, as a ratio of one run.

Two scratch databases of one server on this machine, with its settings as they are, measured in turns and in one process
as by `command_cost`: first the pages of both are touched, then a checkpoint makes every page due to be logged whole at
its next change, which is when a grown shard is dearest. The many are the few, decided by the command code and copied
under other ids. Either with Idempotency-Keys drawn by chance, which lie anywhere among those of a month, or counted
upwards, as tills number their receipts.

    python -m benchmarks.growth_cost postgresql://superuser@127.0.0.1:5432/postgres [copies of 10,000 members: 100]
"""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.command_cost import PROGRAM, STATEMENTS, Till, store_of
from benchmarks.cpu import thread_s
from benchmarks.fill import Place, fill
from command.envelope import Envelope
from command.migrate import migrate
from command.program import apply_program
from command.store import Store
from service.serve import collect_seldom
from shard_router.member_id import SLOT_COUNT
from shard_router.statement import load_statements

FEW: Final = 10_000
COPIES: Final = 100
ROUNDS: Final = 5
SIZES: Final = ((1, 400), (64, 24))
"""Batch sizes, and how many batches of each are measured per round."""
KEYS: Final = ("by chance", "upwards")
WARM_COMMANDS: Final = 256
STATISTICS_S: Final = 1.2  # a session tells its counts once a second
_STATEMENTS: Final = load_statements(Path(__file__).with_suffix(".sql"))
_SCRATCH: Final = {"few": ("create_few", "drop_few"), "many": ("create_many", "drop_many")}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one purchase: CPU of node and backend, pages the sessions read, pages logged whole, bytes of log."""

    node_us: float
    backend_us: float
    read: float
    whole: float
    wal_bytes: float


@dataclass(frozen=True, slots=True)
class Shop:
    """A database under measurement."""

    name: str
    store: Store
    till: Till
    admin: Any
    run_id: str = field(default_factory=lambda: f"{time.time_ns():x}")

    async def cost(self, keys: str, size: int, batches: int) -> Cost:
        """Of a purchase in batches of a size, the first ones left out."""
        made = [[self._purchase(keys) for _ in range(size)] for _ in range(batches + WARM_COMMANDS // size)]
        warm = len(made) - batches
        for batch in made[:warm]:
            await self.store.run(batch)
        await asyncio.sleep(STATISTICS_S)
        counted, sessions = await self._counted()
        node, backend = time.process_time(), sum(map(thread_s, sessions))
        for batch in made[warm:]:
            answers = await self.store.run(batch)
            assert answers[0].status == 201, answers[0]  # noqa: PLR2004
        node, backend = time.process_time() - node, sum(map(thread_s, sessions)) - backend
        await asyncio.sleep(STATISTICS_S)
        pages = [float(after - before) for before, after in zip(counted, (await self._counted())[0], strict=True)]
        return Cost(*(figure / (size * batches) for figure in (1e6 * node, 1e6 * backend, *pages)))

    def _purchase(self, keys: str) -> Envelope:
        envelope = self.till.purchase()
        return envelope if keys == "by chance" else replace(envelope, key=f"{self.run_id}-{next(self.till.numbers)}")

    async def _counted(self) -> tuple[tuple[Any, ...], list[int]]:
        sessions = [row["pid"] for row in await self.admin.fetch(STATEMENTS["spent"])]
        return tuple(await self.admin.fetchrow(_STATEMENTS["counted"])), sessions


@asynccontextmanager
async def shop(server: str, name: str, copies: int) -> AsyncGenerator[Shop]:
    """A scratch database with its members, each touched once, and a store on it."""
    create, drop = (_STATEMENTS[statement] for statement in _SCRATCH[name])
    admin = await asyncpg.connect(server)
    await admin.execute(drop)
    await admin.execute(create)
    try:
        dsn = urlunsplit(urlsplit(server)._replace(path=f"/loyalty_growth_{name}"))
        await migrate(dsn)
        await apply_program([dsn], PROGRAM.read_text())
        await fill(Place(dsn, 1, range(SLOT_COUNT)), FEW)
        database = await asyncpg.connect(dsn)
        await database.execute(_STATEMENTS["count_copies"].replace("$1", f"'{copies}'"))
        await database.execute(_STATEMENTS["copy_members"])
        await database.execute(_STATEMENTS["settle"])
        await database.execute(_STATEMENTS["touch"])
        members = [row["member_id"] for row in await database.fetch(_STATEMENTS["some_members"])]
        async with store_of(dsn) as (store, programs):
            assert programs.newest is not None
            numbers = itertools.count(time.time_ns())
            yield Shop(name, store, Till(next(iter(programs.newest.stores)), members, numbers), database)
        await database.close()
    finally:
        await admin.execute(drop)
        await admin.close()


async def main(server: str, copies: int) -> None:
    """Measure both in turns, and print the table."""
    async with AsyncExitStack() as stack:
        shops = [
            await stack.enter_async_context(shop(server, name, count)) for name, count in (("few", 1), ("many", copies))
        ]
        collect_seldom()
        await shops[0].admin.execute(_STATEMENTS["checkpoint"])
        found: dict[tuple[str, int, str], list[Cost]] = {}
        for _ in range(ROUNDS):
            for keys, (size, batches), one in itertools.product(KEYS, SIZES, shops):
                found.setdefault((keys, size, one.name), []).append(await one.cost(keys, size, batches))
    medians = {key: Cost(*map(median, zip(*map(astuple, costs), strict=True))) for key, costs in found.items()}
    sys.stdout.write("keys       members  batch    node  backend |  read  logged whole  WAL bytes, of a purchase\n")
    for (keys, size, name), cost in medians.items():
        members = FEW * (copies if name == "many" else 1)
        sys.stdout.write(
            f"{keys:9}  {members:7}  {size:5}  {cost.node_us:6.0f}  {cost.backend_us:7.1f} |  {cost.read:4.2f}  "
            f"{cost.whole:12.2f}  {cost.wal_bytes:9.0f}\n"
        )
    for keys, (size, _) in itertools.product(KEYS, SIZES):
        few, many = medians[keys, size, "few"], medians[keys, size, "many"]
        both = (many.node_us + many.backend_us) / (few.node_us + few.backend_us)
        ratio = many.backend_us / few.backend_us
        sys.stdout.write(f"keys {keys}, batch of {size}: backend {ratio:.2f}, with the node {both:.2f}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else COPIES))  # noqa: PLR2004
