"""Claims receipts at the shard that keeps those of their store, and settles conflicts: who came there first keeps it.

A purchase is recorded at its member's home, at once and alone. Unless that is the store's own shard it leaves a row to
be claimed there, as a row of the same table: its key refuses whoever comes later, a member of that shard at once. Who
was too late gives back all of the purchase. Every step may be repeated, so whoever dies, the next one goes on.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import prometheus_client
import structlog

from command.answer import NOTHING_TO_DO
from command.envelope import Envelope
from command.rounds import Rounds
from rules.command import ReversePurchase
from rules.returning import is_reversed
from rules.stored import full_purchase
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import format_member_id, slot_of
from shard_router.statement import load_statements

PAGE: Final = 1_000
"""Receipts claimed together: one round trip claims them all, also where it takes a quarter of a second."""
_AT_ONCE_MAX: Final = 16
_GONE: Final = frozenset({"member_closed", "member_not_found", "purchase_not_found"})
"""Answers by which there is nothing left to take back."""
STATEMENTS: Final = load_statements(Path(__file__).with_name("register.sql"))
CONFLICTS: Final = prometheus_client.Counter(
    "loyalty_receipt_conflicts", "Purchases taken back because another member had their receipt first.", registry=None
)


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """A purchase's receipt that is still to be claimed: its name, and whose it is."""

    name: tuple[Any, ...]
    region: str
    member_id: int
    version: int
    fingerprint: Any
    attempts: int


class Register(Rounds):
    """Works off what the shards of a region have to claim."""

    name = "register"

    async def work_off(self, shard: str) -> int:
        """Claim one page of what a shard has to; tells how many there were. What could not be claimed stays due."""
        rows = await self._in_time(self._due(shard), "looking for receipts")
        places: defaultdict[str, list[Unclaimed]] = defaultdict(list)
        for row in rows:
            name = row["store"], row["till"], row["business_date"], row["receipt"]
            one = Unclaimed(name, row["region"], row["member_id"], row["version"], row["fingerprint"], row["attempts"])
            places[self._place_of(one)].append(one)
        await asyncio.gather(*(self._try(shard, place, receipts) for place, receipts in places.items()))
        return len(rows)

    def _place_of(self, one: Unclaimed) -> str:
        return self._node.topology.current.register_of(one.region, one.name[0])

    async def work_through(self, shard: str) -> None:
        """Claim all that is due."""
        while await self.work_off(shard) == PAGE:
            pass

    async def _try(self, shard: str, place: str, receipts: Sequence[Unclaimed]) -> None:
        try:
            done = [one for one in await self._settle(place, receipts) if self._place_of(one) == place]
            if done:  # what another shard keeps meanwhile is claimed there next
                columns = list(
                    map(list, zip(*((one.member_id, one.version, one.attempts) for one in done), strict=True))
                )
                await self._in_time(self._rows(shard, "finish_receipts", *columns), "ending claims")
        except ProblemError as error:
            structlog.get_logger().warning("receipts_wait", shard=shard, place=place, reason=error.detail)

    async def _settle(self, place: str, receipts: Sequence[Unclaimed]) -> list[Unclaimed]:
        """Claim receipts at their place; tells which are claimed now, or settled."""
        names = list(map(list, zip(*(one.name for one in receipts), strict=True)))
        whose = [
            [one.member_id for one in receipts],
            [one.version for one in receipts],
            [one.fingerprint for one in receipts],
        ]
        await self._in_time(self._rows(place, "claim_receipts", *names, *whose), "claiming receipts")
        asked = self._rows(place, "receipt_owners", list(range(len(receipts))), *names)
        owners = await self._in_time(asked, "looking who has receipts")
        done: list[Unclaimed] = []
        lost: list[tuple[Unclaimed, int, int]] = []
        for row in owners:
            one, owner, version = receipts[row["position"]], row["member_id"], row["version"]
            if (owner, version) == (one.member_id, one.version):
                done.append(one)
            else:
                lost.append((one, owner, version))
        at_once = asyncio.Semaphore(_AT_ONCE_MAX)
        settled = await asyncio.gather(*(self._lose(place, one, entry, at_once) for one, *entry in lost))
        return done + [one for (one, _, _), over in zip(lost, settled, strict=True) if over]

    async def _lose(self, place: str, one: Unclaimed, owner: Sequence[int], at_once: asyncio.Semaphore) -> bool:
        """Take back a purchase whose receipt another one has; False where that must wait."""
        async with at_once:
            try:
                stands = await self._stands(owner)
                if stands is None:
                    structlog.get_logger().warning("receipt_of_nobody", member_id=format_member_id(owner[0]))
                    return False  # a restore took that purchase: `loyalty reconcile` frees its receipt
                if not stands:  # its name is this one's, who is asked again
                    whose = one.member_id, one.version, one.fingerprint
                    await self._in_time(self._rows(place, "take_lost_name", *one.name, *owner, *whose), "claiming it")
                    return False
                return await self._take_back(one)
            except ProblemError as error:
                structlog.get_logger().warning("conflict_waits", reason=error.detail or error.code)
                return False

    async def _stands(self, owner: Sequence[int]) -> bool | None:
        """Whether the purchase that has a receipt stands, asked of its home; None where it is not there.

        One that was taken back has lost its receipt itself, to another keeper than the one of now.
        """
        try:
            home = self._node.topology.current.shard_of(owner[0])
        except MalformedIdError:
            return True  # of a region that is no more: what it claimed was recorded
        rows = await self._in_time(self._rows(home, "purchase_document", *owner), "looking for a purchase")
        return not is_reversed(full_purchase(orjson.loads(rows[0]["document"]))) if rows else None

    async def _take_back(self, one: Unclaimed) -> bool:
        envelope = Envelope(
            command=ReversePurchase(one.version, self._node.now()),
            slot=slot_of(one.member_id),
            deadline=self._deadline(),
            request_id="register",
            credential="register",
            member_id=one.member_id,
            reference=one.version,
        )
        answer = await self._node.lanes_for(one.member_id).run(envelope)
        if answer == NOTHING_TO_DO:
            return True
        if not answer.is_refusal:
            CONFLICTS.inc()
            name = format_member_id(one.member_id)
            structlog.get_logger().warning("receipt_conflict_settled", member_id=name, version=one.version)
            return True
        return answer.code in _GONE

    async def _due(self, shard: str) -> list[Any]:
        async with self._node.pools[shard].look() as connection:
            return await connection.fetch(STATEMENTS["due_receipts"], PAGE)

    async def _rows(self, shard: str, statement: str, *arguments: Any) -> list[Any]:
        async with self._node.pools[shard].primary() as connection:
            return await connection.fetch(STATEMENTS[statement], *arguments)
