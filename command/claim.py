"""What a member is to be found by: leased before the command that needs it runs, concluded after.

Only identifiers that do not route by themselves need a claim (see Directory). Without an answer
nobody knows whether the member has them: then the lease stays, and whoever comes after it asks the
member's home shard.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

import structlog

from service.detached import DetachedWrites
from service.identifier import forms_of
from shard_router.directory import Directory, Identifier
from shard_router.errors import ProblemError
from shard_router.topology import TopologyWatch


class Claims:
    """Leases and concludes claims; `identifiers_of` tells what a member is found by now, asked of its home shard."""

    def __init__(
        self,
        topology: TopologyWatch,
        directory: Directory,
        detached: DetachedWrites,
        identifiers_of: Callable[[int], Awaitable[set[Identifier]]],
    ) -> None:
        self._topology = topology
        self._directory = directory
        self._detached = detached
        self._identifiers_of = identifiers_of
        self.pseudonyms: Callable[[str], list[str]] = lambda _: []

    async def lease(
        self, identifiers: Iterable[Identifier], member_id: int, *, attempt: int, deadline: float
    ) -> list[Identifier]:
        """Lease what a member is to be found by; tells which of it existing members have (see Directory)."""
        work = self._directory.lease(self._unrouted(identifiers), member_id, attempt=attempt)
        return await self._detached.wait(work, deadline=deadline, what="leasing what the member is to be found by")

    async def came_back(self, identifiers: Iterable[Identifier]) -> bool:
        """Whether one who left lately was found by any of these; asked once they are leased, as they are freed last.

        A card of our own form is looked for on its own shard, by the batch.
        """
        unrouted = self._unrouted(identifiers)
        return await self._directory.remembers([one for each in unrouted for one in self.hashes(each)])

    async def remember(self, identifiers: Iterable[Identifier], forget_at: datetime) -> None:
        """Keep hashes of what members who left were found by, before it is freed."""
        await self._directory.remember([one for each in identifiers for one in self.hashes(each)[:1]], forget_at)

    def hashes(self, identifier: Identifier) -> list[str]:
        """What is kept of an identifier, by each key there is, the current one first; nothing without a key."""
        kind, value = identifier
        return self.pseudonyms(f"{kind} {forms_of(kind, value)[0]}")

    async def stored_before(self, names: Iterable[Identifier], member_id: int) -> list[Identifier]:
        """Which names, as they were sent, another member has in the form of a version before (see forms_of)."""
        before = [(kind, form) for kind, text in names for form in forms_of(kind, text)[1:]]
        holders = [await self._directory.find(identifier) for identifier in before]
        return [one for one, holder in zip(before, holders, strict=True) if holder not in (None, member_id)]

    async def conclude(
        self, identifiers: Iterable[Identifier], member_id: int, *, attempt: int, deadline: float
    ) -> None:
        """Hold the leases of what a member has now, and give up the others that this attempt has alone.

        The answer alone does not tell: it may be that of an earlier attempt, and the identifier gone since. What fails
        here heals by itself when the lease has run out.
        """
        unrouted = self._unrouted(identifiers)
        if not unrouted:
            return
        work = self._conclude(unrouted, member_id, attempt)
        try:
            await self._detached.wait(work, deadline=deadline, what="concluding a lease")
        except ProblemError as error:
            structlog.get_logger().warning("claim_left_leased", reason=error.detail)

    async def region_of_holder(self, identifier: Identifier) -> str | None:
        """The region of whoever has a claimed identifier; None when nobody has."""
        holder = await self._directory.find(identifier)
        return None if holder is None else self._topology.current.region_of(holder)

    def needs_claim(self, identifier: Identifier) -> bool:
        """Whether an identifier needs a claim: a card of our own form is unique on the shard it names."""
        kind, value = identifier
        return kind != "card" or self._topology.current.home_of_card(value) is None

    def is_registered_elsewhere(self, member_id: int, region: str, store: str) -> bool:
        """Whether another shard than a member's home keeps the receipts of a store of a region."""
        topology = self._topology.current
        return topology.register_of(region, store) != topology.shard_of(member_id)

    async def _conclude(self, unrouted: list[Identifier], member_id: int, attempt: int) -> None:
        has = await self._identifiers_of(member_id)
        await self._directory.hold([one for one in unrouted if one in has], member_id, attempt=attempt)
        await self._directory.give_up([one for one in unrouted if one not in has], member_id, attempt=attempt)

    def _unrouted(self, identifiers: Iterable[Identifier]) -> list[Identifier]:
        return [identifier for identifier in identifiers if self.needs_claim(identifier)]
