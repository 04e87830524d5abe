"""Does the errands of a region's shards: points to receivers, thanks to referrers, identifiers to free.

A saga of ordinary commands: the receiver's half carries a natural key, the sender's half ends the
errand in its own transaction. Every step may be repeated, so whoever dies at any point, the next
courier goes on; points are conserved at every moment because they wait in the sender's hold.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import orjson
import structlog

from command.answer import NOTHING_TO_DO
from command.envelope import Answer, Envelope, ReceiptKey
from command.fingerprint import Fingerprint
from command.node import CommandNode
from command.rounds import Rounds
from command.stock import UNFINISHED_S
from rules.codec import instant, parse_lots
from rules.command import CancelTransfer, Command, CreditReferral, ReceiveTransfer, ReturnReferral, SettleTransfer
from service.identifier import forms_of
from shard_router.errors import ProblemError
from shard_router.member_id import format_member_id, slot_of

PAGE: Final = 64
NEVER: Final = frozenset({"member_closed", "member_not_found"})
"""Answers by which a receiver can never have the points."""
_ENDED: Final = frozenset({"not_found", "member_not_found"})
"""Answers by which there is no such transfer to end."""
_REFERRED: Final = frozenset({None, *NEVER})
"""Answers by which a referrer has their thanks or has given them back, now or before, or is gone."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What an entry still owes: `member_id` and `version` name the entry."""

    member_id: int
    version: int
    kind: str
    document: dict[str, Any]

    @property
    def receipt(self) -> ReceiptKey:
        """The natural key of what it makes for another member."""
        return other_half(self.member_id, self.version, self.document, self.kind)


class Courier(Rounds):
    """Runs errands."""

    name = "courier"

    def __init__(self, node: CommandNode) -> None:
        super().__init__(node)
        self._moves_due: dict[str, float] = {}
        """When to look for unfinished moves of a shard's stock, which are older anyway."""
        self._deliver: dict[str, Callable[[Errand], Awaitable[None]]] = {
            "transfer": self._deliver_transfer,
            "referral": self._deliver_referral,
            "referral_return": self._return_referral,
            "release": self._release_identifiers,
        }

    async def work_off(self, shard: str) -> int:
        """Do one page of a shard's due errands; tells how many there were."""
        rows = await self._in_time(self._node.lanes_of(shard).store.due_errands(PAGE), "looking for errands")
        errands = [Errand(row["member_id"], row["version"], row["kind"], orjson.loads(row["document"])) for row in rows]
        await asyncio.gather(*(self._try(errand) for errand in errands))
        return len(errands)

    async def work_through(self, shard: str) -> None:
        """Do all errands that are due, and now and then finish moves of stock."""
        if time.monotonic() >= self._moves_due.get(shard, 0.0):
            await self._in_time(self._node.stock.finish_moves(shard), "finishing moves of stock")
            self._moves_due[shard] = time.monotonic() + UNFINISHED_S
        while await self.work_off(shard):  # what is done may free what waited for it
            pass

    async def _try(self, errand: Errand) -> None:
        try:
            await self._deliver[errand.kind](errand)
        except ProblemError as error:
            structlog.get_logger().warning("errand_waits", kind=errand.kind, reason=error.detail or error.code)

    async def _deliver_transfer(self, errand: Errand) -> None:
        """Give the receiver the lots, then spend them here; or give them back when who was to have them never can."""
        now = self._node.now()
        lots = parse_lots(errand.document["lots"])
        receive = ReceiveTransfer(errand.member_id, errand.version, lots, now)
        code = (await self._run(errand.document["receiver"], receive, errand.receipt)).code
        if code is None:  # received, now or before
            end: Command = SettleTransfer(errand.version, now)
        elif code in NEVER:
            end = CancelTransfer(errand.version, now, code)
        else:  # it may still be received: neither half may end yet
            raise ProblemError(code, f"transfer {errand.member_id}-{errand.version} waits")
        ended = await self._run(errand.member_id, end, None, reference=errand.version)
        if ended == NOTHING_TO_DO or ended.code in _ENDED:
            await self._finish(errand)

    async def _deliver_referral(self, errand: Errand) -> None:
        credit = CreditReferral(errand.member_id, errand.version, errand.document["points"], self._node.now())
        await self._tell_referrer(errand, credit)

    async def _return_referral(self, errand: Errand) -> None:
        """Take back what a purchase gave its referrer; by then that errand has ended, see `due_errands`."""
        document = errand.document
        purchase, points, on_return = document["purchase"], document["points"], document.get("on_return")
        back = ReturnReferral(errand.member_id, purchase, points, self._node.now(), on_return)
        await self._tell_referrer(errand, back)

    async def _tell_referrer(self, errand: Errand, command: Command) -> None:
        code = (await self._run(errand.document["referrer"], command, errand.receipt)).code
        if code not in _REFERRED:
            raise ProblemError(code or "internal", f"{errand.kind} {errand.member_id}-{errand.version} waits")
        await self._finish(errand)

    async def _release_identifiers(self, errand: Errand) -> None:
        """Free what the member has no more, once it is remembered. What they are about to get again is leased by then.

        What they have in another form is freed and not remembered: nobody left.
        """
        kept = await self._node.identifiers_of(errand.member_id)  # what came back meanwhile
        identifiers = [(kind, value) for kind, value in errand.document["identifiers"] if (kind, value) not in kept]
        forget_at = instant(errand.document.get("forget_at"))
        if forget_at:
            forms = {(kind, forms_of(kind, value)[0]) for kind, value in kept}
            gone = [(kind, value) for kind, value in identifiers if (kind, forms_of(kind, value)[0]) not in forms]
            await self._in_time(self._node.claims.remember(gone, forget_at), "remembering identifiers")
        await self._in_time(self._node.directory.release(identifiers, errand.member_id), "freeing identifiers")
        await self._finish(errand)

    async def _run(
        self, member_id: int, command: Command, receipt: ReceiptKey | None, reference: int | None = None
    ) -> Answer:
        """Run a command on its member's shard, wherever that is; the row locks there order it with everything else."""
        envelope = Envelope(
            command=command,
            slot=slot_of(member_id),
            deadline=self._deadline(),
            request_id="courier",
            credential="courier",
            member_id=member_id,
            receipt=receipt,
            reference=reference,
        )
        return await self._node.lanes_for(member_id).run(envelope)

    async def _finish(self, errand: Errand) -> None:
        store = self._node.lanes_for(errand.member_id).store
        await self._in_time(store.finish_errand(errand.member_id, errand.version), "ending an errand")


def other_half(member_id: int, version: int, document: dict[str, Any], kind: str) -> ReceiptKey:
    """The natural key of what an errand makes for another member: one per entry, for ever."""
    digest = blake2b(orjson.dumps(document, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
    return ReceiptKey(format_member_id(member_id), "-", str(version), kind, Fingerprint(digest))
