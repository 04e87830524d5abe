"""Receipts after a restore: each is claimed where those of its store are kept, and nothing is claimed for nobody.

The purchase at its member's home is the fact, the claim follows it. What has lost its purchase is free again; what has
lost its claim is claimed once more, and conflicts with others are settled as ever (command/register.py).
"""

from collections import defaultdict
from collections.abc import AsyncGenerator
from datetime import date
from typing import Any

from command.claim_again import claim_again
from command.reconciliation import PAGE, Reconciliation
from shard_router.errors import MalformedIdError


async def reconcile_receipts(work: Reconciliation) -> None:
    """Free what is claimed for nobody, then have claimed what a restored shard may have lost."""
    for shard in work.shards if work.restored else ():
        async for page in _claims(work, shard):
            homes: defaultdict[str, list[Any]] = defaultdict(list)
            for row in page:
                try:
                    homes[work.node.topology.current.shard_of(row["member_id"])].append(tuple(row))
                except MalformedIdError:
                    continue  # of a region that is no more
            for home, rows in homes.items():
                found = {tuple(row) for row in await work.fetch_of(home, "find_purchase_receipts", rows)}
                gone = [row for row in rows if row not in found]
                work.done["receipts freed whose purchase is lost"] += len(
                    await work.fetch_of(shard, "free_receipts", gone)
                )
    for place in work.restored:
        await _claim_again(work, place)


async def _claims(work: Reconciliation, shard: str) -> AsyncGenerator[list[Any]]:
    after: tuple[str, str, date, str] = ("", "", date.min, "")
    while rows := await work.fetch(shard, "receipt_claims_after", *after, PAGE):
        last = rows[-1]
        after = last["store"], last["till"], last["business_date"], last["receipt"]
        yield rows


async def _claim_again(work: Reconciliation, place: str) -> None:
    topology = work.node.topology.current
    for home in work.shards:
        if home != place:
            async with work.node.pools[home].primary() as connection:
                work.done["receipts to be claimed again"] += await claim_again(connection, topology, [place])
