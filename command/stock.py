"""A reward's stock, shared out to the shards: each gives away its own allotment in its own transactions.

A shard that runs out fetches more from the others before it refuses. Allotment moves by two steps,
taken there and taken in here, each done once; a move cut short is finished later. So the sum of
allotments and moves is the stock at every moment, and nothing is ever oversold.
"""

import asyncio
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import structlog

from rules.program import Program
from shard_router.errors import ProblemError
from shard_router.pool import ShardPools
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("stock.sql"))
UNFINISHED_S: Final = 5.0
"""A move that is older was begun by a node that is gone."""


class StockKeeper:
    """Moves allotments between the shards of a program."""

    def __init__(self, pools: ShardPools) -> None:
        self._pools = pools
        # One fetch at a time per reward and shard: those who wait find what the first one brought.
        self._fetching: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def fetch(self, reward: str, *, receiver: str, donors: list[str], quantity: int) -> bool:
        """Bring at least `quantity` of a reward to a shard if the others have it; tells whether it has enough now."""
        async with self._fetching[reward, receiver]:
            missing = quantity - await self._left(receiver, reward)
            for donor in await self._richest_first(donors, reward):
                if missing <= 0:
                    break
                missing -= await self._move(donor, receiver, reward=reward, quantity=missing)
        return missing <= 0

    async def finish_moves(self, donor: str) -> None:
        """Finish what somebody began and did not end."""
        async with self._pools[donor].primary() as connection:
            rows = await connection.fetch(STATEMENTS["open_moves"], UNFINISHED_S)
        for row in rows:
            await self._arrive(donor, row)

    async def _richest_first(self, donors: list[str], reward: str) -> list[str]:
        left = await asyncio.gather(*(self._left_or_none(donor, reward) for donor in donors))
        ranked = sorted(zip(left, donors, strict=True), reverse=True)
        return [donor for points, donor in ranked if points > 0]

    async def _left_or_none(self, shard: str, reward: str) -> int:
        """A shard that cannot be asked has nothing to give now."""
        try:
            return await self._left(shard, reward)
        except ProblemError as error:
            structlog.get_logger().warning("stock_unknown", shard=shard, reason=error.detail)
            return 0

    async def _left(self, shard: str, reward: str) -> int:
        async with self._pools[shard].primary() as connection:
            row = await connection.fetchrow(STATEMENTS["stock_left"], reward)
            return row["left"] if row else 0

    async def _move(self, donor: str, receiver: str, *, reward: str, quantity: int) -> int:
        """Move what is asked for and half of the rest, so that the next ones need not fetch again."""
        left = await self._left(donor, reward)
        move_id = uuid.uuid4()
        async with self._pools[donor].primary() as connection:
            wanted = max(quantity, (left + quantity) // 2)
            moved = await connection.fetchval(STATEMENTS["send_stock"], move_id, reward, wanted, receiver)
        if not moved:
            return 0
        move = {"move_id": move_id, "reward": reward, "quantity": moved, "receiver": receiver}
        await self._arrive(donor, move)
        return moved

    async def _arrive(self, donor: str, move: Any) -> None:
        async with self._pools[move["receiver"]].primary() as connection:
            await connection.execute(STATEMENTS["take_in_stock"], move["move_id"], move["reward"], move["quantity"])
        async with self._pools[donor].primary() as connection:
            await connection.execute(STATEMENTS["finish_move"], move["move_id"])


async def allot(connections: list[Any], program: Program) -> None:
    """Bring the allotments of every reward to its stock, evenly; run again, it finishes what was cut short."""
    for reward in program.rewards.values():
        if reward.stock is None:
            continue
        counted = [await connection.fetchrow(STATEMENTS["count_stock"], reward.code) for connection in connections]
        missing = reward.stock - sum(row["allotted"] + row["moving"] for row in counted)
        for index, connection in enumerate(connections):
            part = missing // (len(connections) - index)
            allotted = await connection.fetchval(STATEMENTS["change_allotment"], reward.code, part)
            # What a shard cannot give back, because it is redeemed, the next ones give instead.
            missing -= allotted - counted[index]["allotted"]
