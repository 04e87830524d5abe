"""Moves claim slots from one shard to another: fence, copy, switch. Each of them may be done twice.

A few slots at a time. The owner writes down that they are fenced, waits for who is writing, and refuses from then on;
whoever asks waits a moment and looks again. The receiver gets their rows, leases too, in one transaction. Then the
topology says that they are there, and that is the switch: nobody asks the receiver before, nobody is served by the
owner after. Last the owner deletes its rows. A fence is never taken away: whoever goes on after a crash, goes on to
the receiver that it names.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg

from shard_router.claim_slot import claim_slot
from shard_router.directory import LEASE_S, hash_digest, identifier_digest
from shard_router.incarnation import is_unreconciled
from shard_router.pool import ShardServers
from shard_router.server import connection_to, wait_for_standby
from shard_router.statement import load_statements
from shard_router.topology import Topology

SLOTS_AT_ONCE: Final = 128
"""So few that their claims are copied within a moment."""
PAGE: Final = 5_000
STATEMENTS: Final = load_statements(Path(__file__).with_name("claim_move.sql"))
_SAMPLE: Final = 100
_COMMAND_TIMEOUT_S: Final = 60.0
_LOCK_TIMEOUT_MS: Final = 1_000
"""So long, at most, the claims of a shard wait for one writer that does not end."""
LOCK_TRIES: Final = 20
_WRITER_MAX: Final = timedelta(seconds=10)
"""No command takes as long. One that does has lost its client between two messages, and would keep its lock."""

Step = Callable[[str], None]


class MoveError(RuntimeError):
    """Why slots cannot move now. What was begun is gone on with when it is asked for again."""


CUT_SHORT: Final = (MoveError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What ends a move before its time, other than an error that a server tells in words."""


def no_step(_: str) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Mover:
    """Moves claim slots between shards that it has a connection to."""

    shards: Mapping[str, Any]
    """A connection of the owner of the tables to the primary of every shard of the topology."""
    table: list[str]
    """Who keeps each slot, as the topology says."""
    say: Callable[[Sequence[str]], None]
    """Makes the topology say it."""
    at: Step = no_step
    """Hears of each step that is done."""

    async def move(self, wanted: Sequence[str] | None) -> int:
        """Go on with what was begun, then have slots moved to who is wanted to keep them; tells how many were."""
        if wanted is None and not any([await shard.fetch(STATEMENTS["slots"]) for shard in self.shards.values()]):
            return 0
        await self._prepare()
        moved = 0
        for (owner, receiver), slots in (await self._begun()).items():
            moved += await self._move_all(owner, receiver, slots)
        await self._clear()
        planned: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for slot, pair in enumerate(zip(self.table, wanted or self.table, strict=True)):
            if pair[0] != pair[1]:
                planned[pair].append(slot)
        for (owner, receiver), slots in planned.items():
            moved += await self._move_all(owner, receiver, slots)
        return moved

    async def _prepare(self) -> None:
        if not await _alone(self.shards):
            raise MoveError("claims are being moved, or reconciled, by somebody else just now")
        for name, shard in self.shards.items():
            await must_be_reconciled(name, shard)
            await shard.execute(STATEMENTS["state_slots"], *said_of(self.table, name))

    async def _begun(self) -> dict[tuple[str, str], list[int]]:
        """What was fenced, or even left, before the topology said so."""
        begun: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for name, shard in self.shards.items():
            for row in await shard.fetch(STATEMENTS["slots"]):
                if row["state"] != "here" and self.table[row["slot"]] == name:
                    if row["receiver"] not in self.shards:
                        to = row["receiver"] or "nobody"
                        raise MoveError(f"{name} gave claim slot {row['slot']} to {to}: `loyalty reconcile`")
                    begun[name, row["receiver"]].append(row["slot"])
        return begun

    async def _clear(self) -> None:
        """Have everybody else than its keeper leave a slot."""
        for name, shard in self.shards.items():
            left = [
                row["slot"]
                for row in await shard.fetch(STATEMENTS["slots"])
                if row["state"] != "gone" and self.table[row["slot"]] != name
            ]
            if left:
                await self._leave(name, left, None)

    async def _move_all(self, owner: str, receiver: str, slots: Sequence[int]) -> int:
        for first in range(0, len(slots), SLOTS_AT_ONCE):
            await self._move(owner, receiver, slots[first : first + SLOTS_AT_ONCE])
        return len(slots)

    async def _move(self, owner: str, receiver: str, slots: Sequence[int]) -> None:
        await self._fence(owner, receiver, slots)
        self.at("fenced")
        states = await self.shards[owner].fetch(STATEMENTS["slots"])
        fenced = {row["slot"] for row in states if row["state"] == "fenced"}.intersection(slots)
        if fenced:  # what the owner has left already is there
            await self._copy(owner, receiver, sorted(fenced))
        await self._must_be_there(receiver, slots)
        self.at("copied")
        table = list(self.table)
        for slot in slots:
            table[slot] = receiver
        self.say(table)
        self.table = table
        self.at("switched")
        await self._leave(owner, slots, receiver)
        self.at("left")

    async def _fence(self, owner: str, receiver: str, slots: Sequence[int]) -> None:
        shard = self.shards[owner]

        async def fence() -> bool:
            if await shard.fetchval(STATEMENTS["lacks_slots"]):
                return False
            await must_be_reconciled(owner, shard)
            await shard.execute(STATEMENTS["fence_slots"], slots, receiver)
            return True

        for _ in range(LOCK_TRIES):
            await self._give_slots(shard)
            if await locked(shard, STATEMENTS["lock_claims"], ["claim", "former_identifier"], fence):
                return
        raise MoveError(f"{owner}: claims are being written by somebody who does not end")

    async def _give_slots(self, shard: Any) -> None:
        """Rows of versions before have none."""
        while rows := await shard.fetch(STATEMENTS["claims_without_slot"], PAGE):
            names = [(row["kind"], row["value"]) for row in rows]
            slots = [claim_slot(identifier_digest(name), len(self.table)) for name in names]
            await shard.execute(STATEMENTS["give_claims_slots"], *map(list, zip(*names, strict=True)), slots)
        while rows := await shard.fetch(STATEMENTS["hashes_without_slot"], PAGE):
            hashes = [row["hash"] for row in rows]
            slots = [claim_slot(hash_digest(one.hex), len(self.table)) for one in hashes]
            await shard.execute(STATEMENTS["give_hashes_slots"], hashes, slots)

    async def _copy(self, owner: str, receiver: str, slots: Sequence[int]) -> None:
        """Nobody reads or writes them meanwhile: not there, as they are fenced, nor here, as no topology says so."""
        source, target = self.shards[owner], self.shards[receiver]
        claims = await source.fetch(STATEMENTS["claims"], slots)
        hashes = await source.fetch(STATEMENTS["hashes"], slots)
        async with target.transaction():
            await must_be_reconciled(receiver, target)
            await target.execute(STATEMENTS["clear_claims"], slots)
            await target.execute(STATEMENTS["clear_hashes"], slots)
            columns = [
                [row[name] for row in claims] for name in ("kind", "value", "member_id", "held", "slot", "attempt")
            ]
            await target.execute(STATEMENTS["put_claims"], *columns, LEASE_S)
            columns = [[row[name] for row in hashes] for name in ("hash", "forget_at", "slot")]
            await target.execute(STATEMENTS["put_hashes"], *columns)
            await target.execute(STATEMENTS["keep_slots"], slots)

    async def _must_be_there(self, receiver: str, slots: Sequence[int]) -> None:
        rows = await self.shards[receiver].fetch(STATEMENTS["slots"])
        there = {row["slot"] for row in rows if row["state"] == "here"}
        if missing := set(slots) - there:
            raise MoveError(f"claim slot {min(missing)} never came to {receiver}: `loyalty reconcile`")

    async def _leave(self, owner: str, slots: Sequence[int], receiver: str | None) -> None:
        shard = self.shards[owner]
        async with shard.transaction():
            await shard.execute(STATEMENTS["clear_claims"], slots)
            await shard.execute(STATEMENTS["clear_hashes"], slots)
            await shard.execute(STATEMENTS["leave_slots"], slots, receiver)


def said_of(table: Sequence[str], shard: str) -> tuple[list[int], list[bool]]:
    """Every slot, and whether a shard keeps it, as statements take it."""
    return list(range(len(table))), [keeper == shard for keeper in table]


async def begin_without_claims(address: str, count: int) -> None:
    """Have a shard that no topology names yet refuse all claim slots, until some come to it."""
    async with connected(address) as shard:
        await shard.execute(STATEMENTS["state_slots"], list(range(count)), [False] * count)
        await wait_for_standby(shard)


async def has_claims_of_others(address: str, name: str, topology: Topology) -> bool:
    """Whether a shard keeps claims that a topology has at others, as far as a few of them tell."""
    async with connected(address) as shard:
        rows = await shard.fetch(STATEMENTS["some_claims"], _SAMPLE)
    digests = (identifier_digest((row["kind"], row["value"])) for row in rows)
    return any(topology.claim_shards[topology.claim_slot(digest)] != name for digest in digests)


async def stray_claims(primaries: Mapping[str, str], topology: Topology) -> str | None:
    """A shard that keeps claims which a topology has at others, and which are not on their way, as far as a few tell.

    One that was restored, and not reconciled yet, may have some of another time.
    """
    kept: dict[str, set[int]] = {}
    moving: dict[str, dict[int, str | None]] = {}
    for name, address in primaries.items():
        async with connected(address) as shard:
            rows = [] if await is_unreconciled(shard) else await shard.fetch(STATEMENTS["some_claims"], _SAMPLE)
            kept[name] = {topology.claim_slot(identifier_digest((row["kind"], row["value"]))) for row in rows}
            states = await shard.fetch(STATEMENTS["slots"])
            moving[name] = {row["slot"]: row["receiver"] for row in states if row["state"] != "here"}
    for name, slots in kept.items():
        for slot in slots:
            keeper = topology.claim_shards[slot]
            if keeper != name and slot not in moving[name] and moving[keeper].get(slot) != name:
                return name
    return None


async def put_slots_right(shard: Any, table: Sequence[str], name: str) -> None:
    """Have a shard say what the topology says, and keep nothing of other slots; nobody moves any meanwhile."""
    slots, kept = said_of(table, name)
    others = [slot for slot, here in zip(slots, kept, strict=True) if not here]
    async with shard.transaction():
        await shard.execute(STATEMENTS["correct_slots"], slots, kept)
        await shard.execute(STATEMENTS["clear_claims"], others)
        await shard.execute(STATEMENTS["clear_hashes"], others)


async def _alone(shards: Mapping[str, Any]) -> bool:
    """Whether nobody else moves claims between some of these shards, as long as the connections last."""
    return all([await shards[name].fetchval(STATEMENTS["lock_moves"]) for name in sorted(shards)])


@asynccontextmanager
async def moving_alone(pools: Mapping[str, ShardServers]) -> AsyncGenerator[bool]:
    """Whether nobody else moves claims as long as the block lasts; asked on all shards."""
    async with AsyncExitStack() as stack:
        shards: dict[str, Any] = {}
        for name, servers in pools.items():
            taken = await servers.take_primary()
            await taken.give_back()
            shards[name] = await stack.enter_async_context(connected(taken.server))  # closing it ends the lock
        yield await _alone(shards)


@asynccontextmanager
async def connected(address: str) -> AsyncGenerator[Any]:
    """A connection of a mover to a primary."""
    settings = {"lock_timeout": str(_LOCK_TIMEOUT_MS)}
    async with connection_to(address, command_timeout=_COMMAND_TIMEOUT_S, server_settings=settings) as connection:
        yield connection


async def locked(shard: Any, lock: str, tables: Sequence[str], work: Callable[[], Awaitable[bool]]) -> bool:
    """Do some work in a transaction that waits for whoever writes some tables now; False when it is to be tried again.

    Whoever does not end is made to.
    """
    try:
        async with shard.transaction():
            await shard.execute(lock)
            done = await work()
            await wait_for_standby(shard)
            return done
    except asyncpg.LockNotAvailableError:
        await shard.execute(STATEMENTS["end_writers"], _WRITER_MAX, tables)
        return False


async def move_claims(
    addresses: Mapping[str, str],
    table: Sequence[str],
    wanted: Sequence[str] | None,
    say: Callable[[Sequence[str]], None],
    at: Step = no_step,
) -> int:
    """Move slots until each is kept by who is wanted (None: only go on with what was begun).

    `addresses` are those of all shards' primaries, for the owner of their tables.
    """
    async with AsyncExitStack() as stack:
        shards = {name: await stack.enter_async_context(connected(url)) for name, url in addresses.items()}
        return await Mover(shards, list(table), say, at).move(wanted)


async def must_be_reconciled(name: str, shard: Any) -> None:
    """Nothing moves from or to a shard that was restored, until it is reconciled."""
    if await shard.fetchval(STATEMENTS["is_unreconciled"]):
        raise MoveError(f"{name} was restored: `loyalty reconcile` first")
