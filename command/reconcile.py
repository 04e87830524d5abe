"""After a restore: brings what shards hold about each other back to what their journals say.

The journals are the authority, each for its own members; which shard was restored, and whether several were and to
different points, does not matter: every fact that spans two shards is looked at from both sides. What is missing is
done again, what has lost its cause is taken back, both by ordinary commands that have natural keys. So it may be cut
short, run again, and run beside nodes that serve.
"""

from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from command.courier import Courier
from command.node import CommandNode
from command.program import learn_program
from command.reconcile_claims import reconcile_claims, reconcile_slots
from command.reconcile_points import reconcile_points
from command.reconcile_receipts import reconcile_receipts
from command.reconcile_referrals import reconcile_referrals
from command.reconciliation import Reconciliation
from command.slot import open_slots
from command.stock import allot
from rules.program import parse_program


async def reconcile(node: CommandNode) -> Reconciliation:
    """Reconcile all shards; `shard_unavailable` ends it, and what is done is done."""
    shards = list(node.topology.current.document.shards)
    work = Reconciliation(node, shards, set())
    begun = {shard: [row["number"] for row in await work.fetch(shard, "unreconciled")] for shard in shards}
    work.restored |= {shard for shard, numbers in begun.items() if numbers}
    await _restore_programs(work)
    await learn_program(node.pools[shards[0]], node.programs)
    await reconcile_slots(work)
    await _open_own_slots(work)
    await reconcile_claims(work)
    await reconcile_points(work)
    await reconcile_referrals(work)
    await reconcile_receipts(work)
    await _do_errands(work)
    await _allot_stock(work)
    for shard, numbers in begun.items():
        await work.execute(shard, "set_reconciled", numbers)
    return work


async def _restore_programs(work: Reconciliation) -> None:
    """Every shard gets the versions that others hold."""
    held = {shard: {row["version"]: row for row in await work.fetch(shard, "programs")} for shard in work.shards}
    known = {version: row for rows in held.values() for version, row in rows.items()}
    for shard in work.shards:
        for version in sorted(known.keys() - held[shard].keys()):
            await work.execute(shard, "restore_program", *known[version])
            work.done["program versions restored"] += 1


async def _open_own_slots(work: Reconciliation) -> None:
    """A shard that was restored to before slots came back to it would refuse all who enrol in them."""
    shards = work.node.topology.current.document.shards
    for shard in work.restored:
        slots = [slot for first, last in shards[shard].slots for slot in range(first, last + 1)]
        async with work.node.pools[shard].primary() as connection:
            await open_slots(connection, slots)


async def _do_errands(work: Reconciliation) -> None:
    courier = Courier(work.node)
    for shard in work.shards:
        await work.node.stock.finish_moves(shard, older_than_s=0)
        while await courier.work_off(shard):
            pass


async def _allot_stock(work: Reconciliation) -> None:
    """Share each stock out anew: a restored shard gave its allotment up, and others may have got of it before."""
    async with AsyncExitStack() as stack:
        connections: list[Any] = []
        for shard in work.shards:
            taken = await work.node.pools[shard].take_primary()
            await taken.give_back()
            connection = await asyncpg.connect(taken.server)  # of its own: closing it ends the locks on the rewards
            stack.push_async_callback(connection.close)
            connections.append(connection)
        rows = await work.fetch(work.shards[0], "programs")
        if rows:
            await allot(connections, parse_program(rows[-1]["source"], rows[-1]["version"]))
