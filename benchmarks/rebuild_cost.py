"""What a rebuild of views costs a member: CPU of the projector, of the backends and of Valkey, at full duty.

On a system that runs on a data folder of this machine, by one checkout of the code or several in turn: the rebuild that
a projector runs, from the same rows, into another database of the shard's Valkey, which is emptied again. CPU time,
which stands up beside other work; what idle nodes take meanwhile counts too. Members/s are by the clock, so tell the
load.

    python -m benchmarks.rebuild_cost DATA [CHECKOUT ...]
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.audit_cost import Cost, output_of, processes_of
from benchmarks.cpu import BACKEND, cpu_seconds

ROUNDS: Final = 3
_REBUILD: Final = """
import asyncio, sys, time
from pathlib import Path
from cdc.rebuild import Rebuild, RebuildSettings
from cdc.sink import Position, Session
from cluster.document import Documents
from query.views import mark_key
from service.serve import collect_seldom
from shard_router.pool import ShardPools
from shard_router.server import CDC_SLOT
from shard_router.topology import TopologyWatch

async def main(data):
    collect_seldom()  # as a projector does
    watch = TopologyWatch(data.topology, data.projector())
    shard, place = next(iter(watch.current.document.shards.items()))
    pools = ShardPools(watch, size_max=4, statement_timeout_ms=600_000)
    database = place.valkey.removesuffix("/0") + "/1"
    session = Session(database, mark_key(shard)).open(Position("measured", None))
    rebuild = Rebuild(pools[shard], RebuildSettings(CDC_SLOT, duty=1.0))
    rebuild.request("measured")
    began_at, cpu_s = time.monotonic(), time.process_time()
    running = asyncio.create_task(rebuild.run(lambda: Session(database, mark_key(shard), epoch=session.epoch)))
    while not rebuild.state.completed:
        await asyncio.sleep(0.02)
    took_s, cpu_s = time.monotonic() - began_at, time.process_time() - cpu_s
    running.cancel()
    print(rebuild.state.members_done, took_s, cpu_s)
    for keys in session.keys("*", 500):
        session._redis.unlink(*keys)
    await pools.close()

asyncio.run(main(Documents(Path(sys.argv[1]))))
"""


def measured(data: Path, checkout: Path) -> Cost:
    """One rebuild by a checkout."""
    processes = processes_of(data)
    before = cpu_seconds(processes)
    told = output_of(checkout, _REBUILD, data)
    after = cpu_seconds(processes)
    members, took_s, own = map(float, told.split()[-3:])
    backend, valkey = (1e6 * (after[role] - before[role]) / members for role in (BACKEND, "Valkey"))
    return Cost(1e6 * own / members, backend, valkey, members / took_s)


def main(data: Path, checkouts: Sequence[Path]) -> None:
    """Measure all in turn, and print the table."""
    found: dict[Path, list[Cost]] = {}
    for _ in range(ROUNDS):
        for checkout in checkouts:
            found.setdefault(checkout, []).append(measured(data, checkout))
    sys.stdout.write("projector  backend  Valkey | members/s\n")
    for checkout, costs in found.items():
        own, backend, valkey, per_s = map(median, zip(*map(astuple, costs), strict=True))
        sys.stdout.write(f"{own:9.1f}  {backend:7.1f}  {valkey:6.1f} | {per_s:9.0f}  {checkout}\n")
    sys.stdout.write(f"load {os.getloadavg()[0]:.1f}\n")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    main(Path(sys.argv[1]).resolve(), [Path(one).resolve() for one in sys.argv[2:]] or [here])
