"""Thanks for bringing members after a restore: given for every purchase that owes them, for no other.

What a referrer was thanked for stands in their counters, what is owed in the journals of newcomers. The commands are
those of the errands, and change nothing when they come twice.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from command.courier import NEVER, other_half
from command.envelope import ReceiptKey
from command.reconciliation import PAGE, Reconciliation
from rules import counters
from rules.command import CreditReferral, ReturnReferral
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import format_member_id


class Thanks(NamedTuple):
    """A referrer was thanked for a purchase of a newcomer's (see rules.counters)."""

    referrer: int
    referee: int
    purchase: int


async def reconcile_referrals(work: Reconciliation) -> None:
    """Take back what nobody owes, then give what is owed."""
    for shard in work.shards:
        async for page in _thanks_given(work, shard):
            entries = await _entries_of(work, {one.referee for one in page})
            for one in page:
                await _take_back_unless_owed(work, shard, one, entries.get(one.referee, []))
    for shard in work.shards:
        async for page in _owed(work, shard):
            for row in page:
                await _give(work, row)


async def _thanks_given(work: Reconciliation, shard: str) -> AsyncGenerator[list[Thanks]]:
    after = 0
    while rows := await work.fetch(shard, "thanking_after", after, PAGE):
        after = rows[-1]["member_id"]
        yield [
            Thanks(row["member_id"], referee, purchase)
            for row in rows
            for referee, purchase in counters.all_thanks({"referrals": orjson.loads(row["referrals"])})
            if purchase != counters.NO_PURCHASE
        ]


async def _entries_of(work: Reconciliation, referees: set[int]) -> dict[int, list[Any]]:
    homes: defaultdict[str, list[int]] = defaultdict(list)
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for referee in referees:
        try:
            homes[work.node.topology.current.shard_of(referee)].append(referee)
        except MalformedIdError:
            continue  # of a region that is no more
    for home, asked in homes.items():
        for row in await work.fetch(home, "referral_entries", asked):
            found[row["member_id"]].append(row)
    return found


async def _take_back_unless_owed(work: Reconciliation, shard: str, thanks: Thanks, entries: list[Any]) -> None:
    """`entries` are all of the newcomer's journal that are about referrals."""
    returned = {
        document["purchase"]: (row["version"], document)
        for row in entries
        if row["referral_return"] and (document := orjson.loads(row["referral_return"]))
    }
    owed = {
        row["version"]
        for row in entries
        if row["referral"] and orjson.loads(row["referral"])["referrer"] == thanks.referrer
    }
    if owed - returned.keys() and thanks.purchase in {counters.ANY_PURCHASE, *(owed - returned.keys())}:
        return
    (credit,) = await work.fetch(shard, "newest_credit", thanks.referrer, thanks.referee)
    on_return = None
    if thanks.purchase in returned and thanks.purchase in owed:  # its errand was done, and what it did is lost
        version, document = returned[thanks.purchase]
        receipt, on_return = other_half(thanks.referee, version, document, "referral_return"), document.get("on_return")
    else:
        receipt = _receipt(thanks.referee, f"{thanks.purchase} for {credit['version']}", "referral_return")
    command = ReturnReferral(thanks.referee, thanks.purchase, credit["points"], datetime.now(UTC), on_return)
    code = await work.run(thanks.referrer, command, receipt)
    if code not in {None, *NEVER}:
        raise ProblemError(code or "internal", f"thanks of {format_member_id(thanks.referrer)} could not be taken back")
    work.done["thanks taken back whose purchase is lost or came back"] += 1


async def _owed(work: Reconciliation, shard: str) -> AsyncGenerator[list[Any]]:
    """Purchases whose referrer is there and was not thanked."""
    after = (0, 0)
    while rows := await work.fetch(shard, "owed_after", *after, PAGE):
        after = rows[-1]["member_id"], rows[-1]["version"]
        homes: defaultdict[str, set[int]] = defaultdict(set)
        for row in rows:
            referrer = orjson.loads(row["referral"])["referrer"]
            homes[work.node.topology.current.shard_of(referrer)].add(referrer)
        given: dict[int, Any] = {}
        for home, asked in homes.items():
            for row in await work.fetch(home, "thanks_of", sorted(asked)):
                given[row["member_id"]] = {"referrals": orjson.loads(row["referrals"])}
        yield [row for row in rows if _lacks(given.get(orjson.loads(row["referral"])["referrer"]), row["member_id"])]


def _lacks(thanks: Any, referee: int) -> bool:
    return thanks is not None and counters.thanked_for(thanks, referee) is None


async def _give(work: Reconciliation, row: Any) -> None:
    referee, purchase, document = row["member_id"], row["version"], orjson.loads(row["referral"])
    referrer = document["referrer"]
    home = work.node.topology.current.shard_of(referrer)
    receipt = other_half(referee, purchase, document, "referral")
    if await work.fetch_of(home, "find_receipts", [(receipt.store, receipt.receipt)], "referral"):
        # It was given before, and taken back for a return that is lost.
        (credit,) = await work.fetch(home, "newest_credit", referrer, referee)
        receipt = _receipt(referee, f"{purchase} after {credit['version']}", "referral")
    code = await work.run(referrer, CreditReferral(referee, purchase, document["points"], datetime.now(UTC)), receipt)
    if code not in {None, *NEVER}:
        raise ProblemError(code or "internal", f"thanks of {format_member_id(referrer)} could not be given again")
    work.done["thanks given again"] += 1


def _receipt(referee: int, name: str, kind: str) -> ReceiptKey:
    fingerprint = other_half(referee, 0, {"name": name}, kind).fingerprint
    return ReceiptKey(format_member_id(referee), "-", name, kind, fingerprint)
