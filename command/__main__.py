"""A command node: `python -m command --config node.toml`."""

import asyncio
import time
from typing import Final

import structlog
import uvloop
from aiohttp import web

from command.courier import Courier
from command.http import HANDLERS
from command.node import CommandNode
from command.operation import ABOUT, OPERATIONS
from command.program import NoProgramError, learn_program
from command.quick import QuickCommand
from command.register import CONFLICTS, Register
from command.request import COURIER, NODE
from command.settings import CommandSettings
from command.settler import settle_until
from command.store import DEBT_WRITTEN_OFF
from service.credential import Credentials
from service.health import CHECKS, DRAINING, REGISTRY, WARNINGS, Steady, show_clocks, show_epoch
from service.openapi import add_operations
from service.process import run_process
from service.quick import QUICK
from service.serve import serve
from service.status import add_status
from service.web import GATES, build_app
from shard_router.clock import Now
from shard_router.errors import ProblemError
from shard_router.login import read_logins
from shard_router.pool import ShardPools
from shard_router.topology import TopologyWatch

POOL_SIZE_MAX: Final = (
    10  # lanes, look-ups, the settler and the courier; 4 processes x 10 stay well under max_connections 100
)
STATEMENT_TIMEOUT_MS: Final = 5_000  # no deadline is longer; it does not end the wait for the standby (by design)
_LEARN_INTERVAL_S: Final = 0.5
_NO_REJOIN_KEY: Final = "the credentials document has no rejoin_keys: who was erased gets all bonuses again at once"


def build(settings: CommandSettings, wall: Now = time.time) -> web.Application:
    """Wire a command node; `run` adds what works in the background. DocumentError without a usable topology."""
    topology = TopologyWatch(settings.topology, read_logins(settings.secrets, "node"))
    pools = ShardPools(topology, size_max=POOL_SIZE_MAX, statement_timeout_ms=STATEMENT_TIMEOUT_MS, wall=wall)
    credentials = Credentials(settings.credentials)
    app = build_app(settings, credentials)
    node = CommandNode(settings.region, topology, pools, app[REGISTRY], settings.address)
    node.shed_by(app[GATES])
    node.lanes_per_shard = settings.lanes_per_shard
    node.claims.pseudonyms = credentials.pseudonyms
    app[NODE] = node
    app[REGISTRY].register(DEBT_WRITTEN_OFF)
    app[REGISTRY].register(CONFLICTS)
    app[COURIER] = Courier(node)
    add_operations(app, OPERATIONS, HANDLERS, about=ABOUT)
    app[QUICK] = QuickCommand(app)
    _add_checks(app, node)
    show_epoch(app, topology)
    show_clocks(app, node.clocks)
    add_status(app, node.facts)
    app[WARNINGS]["topology"] = lambda: topology.trouble
    app[WARNINGS]["rejoin_keys"] = lambda: None if credentials.pseudonyms("") else _NO_REJOIN_KEY
    return app


async def run(settings: CommandSettings) -> int:
    """Serve until told to stop; then answer what is under way and leave."""
    app = build(settings)
    node = app[NODE]
    settler = asyncio.create_task(settle_until(app[DRAINING], node))
    over = asyncio.create_task(_drain_time(app[DRAINING], settings.drain_grace_s + settings.drain_s))
    others = [
        asyncio.create_task(node.topology.watch()),
        asyncio.create_task(node.pools.watch()),
        asyncio.create_task(_learn(node)),
        asyncio.create_task(app[COURIER].run_for_ever()),
        asyncio.create_task(Register(node).run_for_ever()),
    ]
    try:
        await serve(app)
    finally:
        app[DRAINING].set()
        closing = asyncio.create_task(_close(node, settler))
        await asyncio.wait([closing, over], return_when=asyncio.FIRST_COMPLETED)
        # Whoever is cancelled in a commit that waits for a standby shows what no standby has. So first the connections
        # are cut: the server finishes such a commit whenever it can, and the client has its key. Then nobody is in one.
        await node.pools.close()
        for task in (closing, settler, over, *others):
            task.cancel()
    return 0


async def _close(node: CommandNode, settler: asyncio.Task[None]) -> None:
    """Let what has begun come to its end."""
    await asyncio.wait([settler])
    await node.close()


async def _drain_time(draining: asyncio.Event, seconds: float) -> None:
    """Return when a stopping node has had its time."""
    await draining.wait()
    await asyncio.sleep(seconds)


def _add_checks(app: web.Application, node: CommandNode) -> None:
    async def program() -> str | None:
        return None if node.programs.newest else "none is known yet"

    _check_shards(app, node)
    node.topology.on_change(lambda _: _check_shards(app, node, well_at=time.monotonic()))
    app[CHECKS]["program"] = program


def _check_shards(app: web.Application, node: CommandNode, *, well_at: float | None = None) -> None:
    """Have a check for each shard of the region as the topology has them now; those that are new were well just now."""
    checks, wanted = app[CHECKS], {f"primary {shard}": shard for shard in node.shards()}
    for name in [name for name in checks if name.startswith("primary ") and name not in wanted]:
        del checks[name]
    for name, shard in wanted.items():

        async def primary(shard: str = shard) -> str | None:
            async with node.pools[shard].look():
                return None

        if name not in checks:
            checks[name] = Steady(primary, well_at=well_at)


async def _learn(node: CommandNode) -> None:
    """Know a program before the first command; later versions arrive with the batches."""
    while node.programs.newest is None:
        for shard in node.shards():
            try:
                await learn_program(node.pools[shard], node.programs)
            except (ProblemError, NoProgramError) as error:
                structlog.get_logger().info("no_program_yet", shard=shard, reason=str(error))
        await asyncio.sleep(_LEARN_INTERVAL_S)


def main() -> None:
    """Read the settings and run."""
    run_process("command", __doc__, CommandSettings, run, loop=uvloop.run)


if __name__ == "__main__":
    main()
