"""A reward's stock, shared out to the shards: each gives away its own allotment in its own transactions.

A shard that runs out fetches more from the others before it refuses. Allotment moves by two steps,
taken there and taken in here, each done once; a move cut short is finished later. So the sum of
allotments and moves is the stock at every moment, and nothing is ever oversold. Whoever fetches or
counts holds the reward's lock on the keeper, the topology's first shard: else two that take the
last units from each other would both find too few, and refuse what is there.
"""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from rules.program import Program
from service.detached import DetachedWrites
from shard_router.errors import ProblemError
from shard_router.pool import ShardPools
from shard_router.server import connection_to, wait_for_standby
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("stock.sql"))
LOCKS_MAX: Final = 3
"""Fetches that hold or await a lock on the keeper at once: each keeps a connection, and its pool has ten."""
UNFINISHED_S: Final = 5.0
"""A move that is older was begun by a node that is gone."""
_PATIENCE: Final = {"timeout": 30, "command_timeout": 30}


class StockKeeper:
    """Moves allotments between the shards of a program."""

    def __init__(self, pools: ShardPools, detached: DetachedWrites) -> None:
        self._pools = pools
        self._detached = detached
        # One fetch at a time per reward and shard: those who wait find what the first one brought.
        self._fetching: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._locking = asyncio.Semaphore(LOCKS_MAX)
        # The last fetch that found too little: when it began, and for how many.
        self._short: dict[tuple[str, str], tuple[float, int]] = {}

    async def fetch(self, reward: str, *, receiver: str, shards: list[str], quantity: int, deadline: float) -> bool:
        """Bring at least `quantity` of a reward to a shard; False: all shards together have less.

        `shards` are all of the topology, in its order. `shard_unavailable` when those that can be asked have less and
        another cannot be asked, or when it takes longer than the deadline, a monotonic instant.
        """
        work = self._fetch((reward, receiver), shards=shards, quantity=quantity, deadline=deadline)
        return await self._detached.wait(work, deadline=deadline, what=f"fetching stock of {reward}")

    async def finish_moves(self, donor: str, *, older_than_s: float = UNFINISHED_S) -> None:
        """Finish what somebody began and did not end."""
        async with self._pools[donor].look() as connection:
            rows = await connection.fetch(STATEMENTS["open_moves"], older_than_s)
        for row in rows:
            await self._arrive(donor, row)

    async def _fetch(self, place: tuple[str, str], *, shards: list[str], quantity: int, deadline: float) -> bool:
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(deadline - asked_at):  # nothing has begun: this wait may be given up
                await self._fetching[place].acquire()
        except TimeoutError as error:
            raise ProblemError("shard_unavailable", f"others fetch {place[0]} already") from error
        try:
            began_at, short_of = self._short.get(place, (0.0, 0))
            if began_at >= asked_at and quantity >= short_of:
                return False
            began_at = time.monotonic()
            reward, receiver = place
            async with self._locking, self._alone(reward, keeper=shards[0]):
                enough = await self._gather(reward, receiver=receiver, shards=shards, quantity=quantity)
            if not enough:
                self._short[place] = (began_at, quantity)
            return enough
        finally:
            self._fetching[place].release()

    @asynccontextmanager
    async def _alone(self, reward: str, *, keeper: str) -> AsyncGenerator[None]:
        async with self._pools[keeper].primary() as connection, connection.transaction():
            await connection.execute(STATEMENTS["lock_reward"], reward)
            yield

    async def _gather(self, reward: str, *, receiver: str, shards: list[str], quantity: int) -> bool:
        missing = quantity - await self._left(receiver, reward)
        left: dict[str, int | None] = {}
        if missing > 0:
            # The lock is ours: a move that is still open is one whose node is gone.
            await asyncio.gather(*(self._finish_or_none(shard) for shard in shards))
            missing = quantity - await self._left(receiver, reward)
            donors = [shard for shard in shards if shard != receiver]
            answers = await asyncio.gather(*(self._left_or_none(donor, reward) for donor in donors))
            left = dict(zip(donors, answers, strict=True))
        for donor in sorted(left, key=lambda donor: left[donor] or 0, reverse=True):
            if missing > 0 and left[donor]:
                missing -= await self._move(donor, receiver, reward=reward, quantity=missing)
        if missing > 0 and None in left.values():
            raise ProblemError("shard_unavailable", f"not every shard can be asked for its stock of {reward}")
        return missing <= 0

    async def _left_or_none(self, shard: str, reward: str) -> int | None:
        try:
            return await self._left(shard, reward)
        except ProblemError as error:
            structlog.get_logger().warning("stock_unknown", shard=shard, reason=error.detail)
            return None

    async def _finish_or_none(self, shard: str) -> None:
        with suppress(ProblemError):  # whoever cannot be asked is met again when its stock is
            await self.finish_moves(shard, older_than_s=0)

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


async def give_up_stock(giver: str, receivers: Mapping[str, str]) -> None:
    """Have a shard that goes give nothing more of any reward, and end what it has begun to give; may be repeated.

    Addresses are for the tables' owner. What was left there is nowhere then: `allot` gives it to the others.
    """
    async with connection_to(giver, **_PATIENCE) as leaving:
        await leaving.execute(STATEMENTS["give_up_allotments"])
        await wait_for_standby(leaving)
        for row in await leaving.fetch(STATEMENTS["open_moves"], 0.0):
            if row["receiver"] in receivers:
                async with connection_to(receivers[row["receiver"]], **_PATIENCE) as receiver:
                    await receiver.execute(STATEMENTS["take_in_stock"], row["move_id"], row["reward"], row["quantity"])
            await leaving.execute(STATEMENTS["finish_move"], row["move_id"])


async def allot(connections: list[Any], program: Program) -> None:
    """Bring the allotments of every reward to its stock, evenly; run again, it finishes what was cut short.

    The connections hold the rewards' locks until they are closed.
    """
    for reward in program.rewards.values():
        if reward.stock is None:
            continue
        for connection in connections:  # on each: one of them is the keeper
            await connection.execute(STATEMENTS["lock_reward_for_session"], reward.code)
        await _allot_one(connections, reward.code, reward.stock)


async def _allot_one(connections: list[Any], reward: str, stock: int) -> None:
    """Share out what is missing, or take back what is too much: what one shard has redeemed already, others give."""
    allotted = [await connection.fetchval(STATEMENTS["allotted"], reward) for connection in connections]
    missing = stock - sum(allotted) - await _under_way(connections, reward)
    before = None
    while missing != before:
        before = missing
        for index, connection in enumerate(connections):
            part = missing // (len(connections) - index)
            now = await connection.fetchval(STATEMENTS["change_allotment"], reward, part)
            missing -= now - allotted[index]
            allotted[index] = now


async def _under_way(connections: list[Any], reward: str) -> int:
    """What was taken somewhere and has not arrived: a move that has arrived and was not ended counts there."""
    moves = [row for connection in connections for row in await connection.fetch(STATEMENTS["moves_of"], reward)]
    asked = [row["move_id"] for row in moves]
    arrived = {
        row["move_id"] for connection in connections for row in await connection.fetch(STATEMENTS["arrived"], asked)
    }
    return sum(row["quantity"] for row in moves if row["move_id"] not in arrived)
