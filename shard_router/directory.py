"""Finds the member behind an identifier that does not route by itself: phone, e-mail, a card of foreign form."""

import asyncio
from pathlib import Path
from typing import Final

from shard_router.pool import ShardPools
from shard_router.statement import load_statements
from shard_router.topology import Topology

_STATEMENTS: Final = load_statements(Path(__file__).with_name("directory.sql"))


async def find_member(topology: Topology, pools: ShardPools, kind: str, value: str) -> int | None:
    """The member's id, asked of every shard at once; `shard_unavailable` when one cannot answer and none has it."""
    shards = list(topology.document.shards)
    answers = await asyncio.gather(*(_ask(pools, shard, kind, value) for shard in shards), return_exceptions=True)
    found = next((answer for answer in answers if isinstance(answer, int)), None)
    failed = next((answer for answer in answers if isinstance(answer, BaseException)), None)
    if found is None and failed is not None:
        raise failed
    return found


async def _ask(pools: ShardPools, shard: str, kind: str, value: str) -> int | None:
    async with pools[shard].primary() as connection:
        return await connection.fetchval(_STATEMENTS["find_member"], kind, value)
