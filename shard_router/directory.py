"""Who has an identifier that does not route by itself: phone, e-mail, a card of foreign form.

One claim per identifier in the whole program, on the shard its hash names. Enrolling leases the
claim first, creates the member, then holds it; whoever dies in between leaves a lease that runs
out, and the next one asks the holder's home whether the member came into being. So two members
never have one identifier, and no identifier stays lost. Of those who left a keyed hash stays for a while.
"""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from shard_router.errors import MalformedIdError, ProblemError
from shard_router.pool import Connection, ShardPools
from shard_router.statement import load_statements
from shard_router.topology import TopologyWatch

LEASE_S: Final = 30.0
"""After it nobody makes the member any more, though a server takes over whose clock is ahead: what a command gives is
written 9 s after it came, or never (command.store.LATE_MAX_S), and two servers by whose clocks nodes go are 20 s apart
at most (see ShardClock)."""

AT_ONCE_MAX: Final = 4
"""Statements under way per shard: one that stalls keeps a connection, and its commands need theirs."""

LOOKS_MAX: Final = 50
"""How often, at most, a claim that moves is looked for again; whoever waits for it gives up with their deadline."""

_LOOK_AGAIN_S: Final = 0.1

_STATEMENTS: Final = load_statements(Path(__file__).with_name("directory.sql"))

_BY_CLOCK: Final = frozenset({"lease_claim", "take_over_claim"})
"""What tells whether a lease has run out, or when it will."""

Identifier = tuple[str, str]


def identifier_digest(identifier: Identifier) -> bytes:
    """What names the claim slot of an identifier."""
    return blake2b("\0".join(identifier).encode(), digest_size=8).digest()


def hash_digest(text: str) -> bytes:
    """What names the claim slot of a keyed hash (hex)."""
    return bytes.fromhex(text)[:8]


def new_attempt() -> int:
    """A number for one command that leases."""
    return secrets.randbits(63)


class Directory:
    """The claims of all shards. Every call may raise `shard_unavailable`; all may be repeated."""

    def __init__(self, topology: TopologyWatch, pools: ShardPools) -> None:
        self._topology = topology
        self._pools = pools
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE_MAX))

    async def find(self, identifier: Identifier) -> int | None:
        """The member that has, or is about to get, an identifier."""
        row = await self._find_claim(identifier)
        return row["member_id"] if row else None

    async def lease(
        self, identifiers: list[Identifier], member_id: int, *, attempt: int | None = None
    ) -> list[Identifier]:
        """Lease what is free for a member about to be created; tells which are taken by existing members.

        `attempt` is the number, at random, of the command that leases: only that one can give the leases up (None:
        nobody does, they run out). `in_progress` when another enrolment holds one right now: either it becomes a member
        or its lease runs out.
        """
        taken = await asyncio.gather(*(self._is_taken(identifier, member_id, attempt) for identifier in identifiers))
        return [identifier for identifier, one in zip(identifiers, taken, strict=True) if one]

    async def hold(self, identifiers: list[Identifier], member_id: int, *, attempt: int | None = None) -> None:
        """Make leases of this attempt lasting: the member exists."""
        await self._each("hold_claim", identifiers, member_id, attempt)

    async def give_up(self, identifiers: list[Identifier], member_id: int, *, attempt: int) -> None:
        """Drop leases of a member that was not created, or does not get them, but none another command relies on."""
        await self._each("release_lease", identifiers, member_id, attempt)

    async def release(self, identifiers: list[Identifier], member_id: int) -> None:
        """Free those of some identifiers that a member has no more; `in_progress` where they are about to get one."""
        await asyncio.gather(*(self._release(identifier, member_id) for identifier in identifiers))

    async def remember(self, hashes: list[str], forget_at: datetime) -> None:
        """Keep keyed hashes of what members who left were found by; where, they tell themselves."""
        await asyncio.gather(*(self._at(self.slot_of_hash(one), "remember", one, forget_at) for one in hashes))

    async def remembers(self, hashes: list[str]) -> bool:
        """Whether any of some hashes is kept."""
        rows = await asyncio.gather(*(self._at(self.slot_of_hash(one), "remembers", one) for one in hashes))
        return any(row["found"] for row in rows)

    async def _is_taken(self, identifier: Identifier, member_id: int, attempt: int | None) -> bool:
        for _ in range(LOOKS_MAX):  # whoever was in the way may have gone a moment later: then it is asked for anew
            if (await self._execute(identifier, "lease_claim", member_id, LEASE_S, attempt))["done"]:
                return False
            row = await self._find_claim(identifier)
            if row is None:
                continue
            if row["held"]:
                return True
            if not row["expired"]:
                break
            holder = row["member_id"]
            if await self._exists_at_home(identifier, holder):
                await self._execute(identifier, "settle_claim", row["mark"])
                return True
            settled = await self._execute(identifier, "take_over_claim", member_id, LEASE_S, attempt, holder)
            if settled["done"]:
                return False
        raise ProblemError("in_progress", f"somebody is enrolling with this {identifier[0]} right now")

    async def _release(self, identifier: Identifier, member_id: int) -> None:
        """Free an identifier unless its member has it.

        Whoever gives it to them leases it first. So where the claim is as it was before their home was asked, they have
        not got it since; else one looks again.
        """
        for _ in range(LOOKS_MAX):
            row = await self._execute(identifier, "find_claim")  # also where claims wait for `loyalty reconcile`
            if row["member_id"] != member_id:  # freed before, perhaps by one that did not hear that a standby has it
                await self._at(self.slot_of(identifier), "wait_for_standby")
                return
            if not (row["held"] or row["expired"]):
                break
            there, _leaving = await self._ask_home(identifier, member_id)
            if there or (await self._execute(identifier, "release_claim", row["mark"]))["done"]:
                return
        raise ProblemError("in_progress", f"its member is about to get this {identifier[0]} again")

    async def _find_claim(self, identifier: Identifier) -> Any:
        """The claim of an identifier, None when there is none; `shard_unavailable` where that cannot be told."""
        row = await self._execute(identifier, "find_claim")
        if not row["trusted"]:
            shard = self.place_of(identifier)
            raise ProblemError("shard_unavailable", f"{shard} was restored: claims wait for `loyalty reconcile`")
        return None if row["member_id"] is None else row

    async def _exists_at_home(self, identifier: Identifier, holder: int) -> bool:
        """Whether the member behind a lease that ran out came into being.

        `in_progress` where they have left and the errand that frees the identifier is still to be done.
        """
        there, leaving = await self._ask_home(identifier, holder)
        if leaving:
            raise ProblemError("in_progress", f"this {identifier[0]} is being freed right now")
        return there

    async def _ask_home(self, identifier: Identifier, holder: int) -> tuple[bool, bool]:
        """Whether a member has an identifier, waiting for a commit under way; if not, whether it is being freed."""
        try:
            home = self._topology.current.shard_of(holder)
        except MalformedIdError:
            return False, False  # of a region that is no more: nobody ever lived there
        async with self._pools[home].primary() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                absent = await connection.fetchval(_STATEMENTS["probe_identifier"], *identifier, holder)
                leaving = absent and await connection.fetchval(_STATEMENTS["is_leaving"], holder)
            finally:
                await transaction.rollback()
        return not absent, bool(leaving)

    async def _each(self, statement: str, identifiers: list[Identifier], *arguments: int | None) -> None:
        await asyncio.gather(*(self._execute(identifier, statement, *arguments) for identifier in identifiers))

    async def _execute(self, identifier: Identifier, statement: str, *arguments: Any) -> Any:
        return await self._at(self.slot_of(identifier), statement, *identifier, *arguments)

    async def _at(self, slot: int, statement: str, *arguments: Any) -> Any:
        """The row of a statement where a claim slot is kept; while it moves, or has moved, the topology tells anew."""
        for _ in range(LOOKS_MAX):
            shard = self._topology.current.claim_shards[slot]
            async with self._connection(shard) as connection:
                if statement in _BY_CLOCK:
                    self._pools[shard].clock.ahead()  # raises where that is far off: leases of now would have run out
                row = await connection.fetchrow(_STATEMENTS[statement], slot, *arguments)
            if row["here"]:
                return row
            self._topology.look()
            if self._topology.current.claim_shards[slot] == shard:
                await asyncio.sleep(_LOOK_AGAIN_S)
        raise ProblemError("shard_unavailable", f"claim slot {slot} moves to another shard just now")

    @asynccontextmanager
    async def _connection(self, shard: str) -> AsyncGenerator[Connection]:
        async with self._places[shard], self._pools[shard].primary() as connection:
            yield connection

    def place_of(self, identifier: Identifier) -> str:
        """The shard that keeps an identifier's claim, as the topology has it."""
        return self._topology.current.claim_shards[self.slot_of(identifier)]

    def place_of_hash(self, text: str) -> str:
        """The shard that keeps a keyed hash (hex), likewise."""
        return self._topology.current.claim_shards[self.slot_of_hash(text)]

    def slot_of(self, identifier: Identifier) -> int:
        """The claim slot of an identifier."""
        return self._topology.current.claim_slot(identifier_digest(identifier))

    def slot_of_hash(self, text: str) -> int:
        """The claim slot of a keyed hash (hex): it picks likewise, so its place tells nothing of what was hashed."""
        return self._topology.current.claim_slot(hash_digest(text))
