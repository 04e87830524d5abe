"""What a one-line purchase costs: CPU of the command node and of its backend, and WAL, by the size of the batch.

In one process, without HTTP: `Store.run` on a scratch database of a given server on this machine, beside pgbench's earn
in the same minute. CPU time, not the clock, so that other work on the machine changes little. WAL is the distance in
the server's log. Medians of rounds; compare two trees by runs in turn.

    python -m benchmarks.command_cost postgresql://superuser@127.0.0.1:5432/postgres
"""

import asyncio
import itertools
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any, Final

import asyncpg
import psutil
from prometheus_client import CollectorRegistry

from benchmarks.cpu import BACKEND, thread_s
from benchmarks.peer import PGBENCH_CLIENTS, Peers, find_pgbench, measure_pgbench, scratch
from benchmarks.tree import REGION, SHARD, Place, write_topology
from command.envelope import Envelope, ReceiptKey
from command.fingerprint import Fingerprint
from command.migrate import migrate
from command.node import CommandNode
from command.program import ProgramCache, apply_program, learn_program
from command.store import Store
from rules.command import Command, EnrolMember, Line, Receipt, RecordPurchase
from service.serve import collect_seldom
from shard_router.card import new_card
from shard_router.member_id import new_member_id, slot_of
from shard_router.pool import ShardPools
from shard_router.statement import load_statements
from shard_router.topology import TopologyWatch

MEMBERS: Final = 1024
WARM_BATCHES: Final = 40
ROUNDS: Final = 3
SIZES: Final = ((1, 500), (8, 80), (64, 16))
"""Batch sizes, and how many batches of each are measured per round."""
PGBENCH_S: Final = 2.0
CLIENTS: Final = {1: 1}
"""How many clients pgbench has beside batches of a size: as many as it takes to fill the others."""
_FOLDER: Final = Path(__file__).parent
STATEMENTS: Final = load_statements(_FOLDER / "ratio.sql")
PROGRAM: Final = _FOLDER.parent / "rules" / "main_street.toml"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command costs in batches of `size`."""

    size: int
    node_us: float
    backend_us: float
    wal_bytes: float


@dataclass(slots=True)
class Till:
    """Makes envelopes of enrolments and purchases."""

    store: str
    members: list[int]
    numbers: Iterator[int]

    def enrolment(self) -> Envelope:
        """A new member."""
        member_id = new_member_id(1, secrets.randbelow(4096))
        card = new_card(1, slot_of(member_id))
        self.members.append(member_id)
        return _envelope(member_id, EnrolMember(member_id, card, datetime.now(UTC), {"card": card}))

    def purchase(self) -> Envelope:
        """A basket of one line, of a member that had none lately."""
        number, now = next(self.numbers), datetime.now(UTC)
        member_id = self.members[number * 7919 % len(self.members)]
        receipt = Receipt(self.store, "till-1", f"r{number}")
        lines = (Line("sku-1", Decimal(1), 1299, None),)
        key = ReceiptKey(self.store, "till-1", f"r{number}", "purchase", _fingerprint(), occurred_at=now)
        return _envelope(member_id, RecordPurchase(receipt, "EUR", lines, now, now), key)


def _envelope(member_id: int, command: Command, receipt: ReceiptKey | None = None) -> Envelope:
    return Envelope(
        command=command, slot=slot_of(member_id), deadline=time.monotonic() + 60, request_id="cost", credential="cost",
        key=secrets.token_hex(8), fingerprint=_fingerprint(), member_id=member_id, receipt=receipt,
    )  # fmt: skip


def _fingerprint() -> Fingerprint:
    return Fingerprint(secrets.token_hex(16))


async def measure(dsn: str) -> list[Cost]:
    """The costs on an empty migrated database of a server on this machine."""
    await apply_program([dsn], PROGRAM.read_text())
    async with store_of(dsn) as (store, programs):
        program = programs.newest
        assert program is not None
        till = Till(next(iter(program.stores)), [], itertools.count())
        for _ in range(MEMBERS // 64):
            await store.run([till.enrolment() for _ in range(64)])
        for _ in range(WARM_BATCHES):
            await store.run([till.purchase() for _ in range(64)])
        admin = await asyncpg.connect(dsn)
        await admin.execute(STATEMENTS["settle_down"])
        collect_seldom()
        rounds = [
            [await _measure(store, till, admin, size=size, batches=count) for size, count in SIZES]
            for _ in range(ROUNDS)
        ]
        await admin.close()
    return [_medians(costs) for costs in zip(*rounds, strict=True)]


def _medians(costs: Sequence[Cost]) -> Cost:
    middle = [median(values) for values in zip(*map(astuple, costs), strict=True)]
    return Cost(costs[0].size, *middle[1:])


async def _measure(store: Store, till: Till, admin: Any, *, size: int, batches: int) -> Cost:
    for _ in range(20):  # until Postgres has taken its generic plan, and pages have had their first full image
        await store.run([till.purchase() for _ in range(size)])
    made = [[till.purchase() for _ in range(size)] for _ in range(batches)]
    before = await admin.fetch(STATEMENTS["spent"])
    node = time.process_time()
    backend = sum(thread_s(row["pid"]) for row in before)
    for batch in made:
        answers = await store.run(batch)
        assert answers[0].status == 201, answers[0]  # noqa: PLR2004
    node, backend = time.process_time() - node, sum(thread_s(row["pid"]) for row in before) - backend
    after = await admin.fetch(STATEMENTS["spent"])
    done = size * batches
    wal = after[0]["wal"] - before[0]["wal"]
    return Cost(size, 1e6 * node / done, 1e6 * backend / done, float(wal) / done)


@asynccontextmanager
async def store_of(dsn: str) -> AsyncGenerator[tuple[Store, ProgramCache]]:
    """A store on one shard, as a node has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topology.json"
        write_topology(path, Place(path.parent, [dsn]))
        pools = ShardPools(TopologyWatch(path), size_max=10, statement_timeout_ms=5000)
        node = CommandNode(REGION, TopologyWatch(path), pools, CollectorRegistry())
        await learn_program(pools[SHARD], node.programs)
        try:
            yield node.lanes_of(SHARD).store, node.programs
        finally:
            await node.close()
            await pools.close()


async def earn_us(server: str, clients: int) -> float:
    """CPU of the backends per transaction of pgbench."""
    connection = await asyncpg.connect(server)
    postmaster = psutil.Process(connection.get_server_pid()).ppid()
    await connection.close()
    peers = Peers(server, None, find_pgbench(), postmaster)
    return (await measure_pgbench(peers, PGBENCH_S, clients=clients)).cpu_us[BACKEND]


async def main(server: str) -> None:
    """Measure pgbench, then ours, on scratch databases of a server, and print the table."""
    earns = {clients: await earn_us(server, clients) for clients in (1, PGBENCH_CLIENTS)}
    async with scratch(server) as (dsn, durability):
        await migrate(dsn)
        costs = await measure(dsn)
    sys.stdout.write(f"synchronous_commit {durability}\n")
    for clients, cpu_us in earns.items():
        sys.stdout.write(f"pgbench, {clients:2} clients: backend {cpu_us:6.1f} us\n")
    for cost in costs:
        clients = CLIENTS.get(cost.size, PGBENCH_CLIENTS)
        sys.stdout.write(
            f"batch of {cost.size:2}: node {cost.node_us:6.1f} us, backend {cost.backend_us:6.1f} us "
            f"({cost.backend_us / earns[clients]:.2f} of pgbench with {clients}), WAL {cost.wal_bytes:5.0f} bytes\n"
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
