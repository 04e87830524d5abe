"""Points between members after a restore: what was received has its sender's entry, what was spent was received.

A transfer received whose sender's entry is gone is revoked: its points go, what is spent of them is owed. One that was
settled and is not received any more is delivered again, as its errand did; where nobody can receive it, its lots come
back.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from command.courier import NEVER, other_half
from command.envelope import NO_DATE
from command.reconciliation import PAGE, Reconciliation
from rules.codec import parse_lots
from rules.command import ReceiveTransfer, ReturnTransfer, RevokeTransfer
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import format_member_id, parse_member_id

_NOBODY: Final = -1


async def reconcile_points(work: Reconciliation) -> None:
    """Bring the two halves of every transfer together."""
    for shard in work.shards:
        async for page in _received(work, shard, "transfer"):
            for receipt in page.values():
                await _revoke(work, shard, receipt)
    for shard in work.shards:
        async for page in _settled(work, shard):
            for row in page:
                await _deliver_again(work, row)


async def _received(work: Reconciliation, shard: str, kind: str) -> AsyncGenerator[dict[tuple[int, int], Any]]:
    """The receipts of received transfers whose sender's entry is not there, or was given back."""
    after: tuple[Any, ...] = ("", "", NO_DATE, "")
    while rows := await work.fetch(shard, "receipts_after", *after, kind, PAGE):
        after = tuple(rows[-1].values())[:4]
        page = {(_member(row["store"]), int(row["receipt"])): row for row in rows}
        homes: defaultdict[str, list[tuple[int, int, int, str]]] = defaultdict(list)
        for (sender, version), row in page.items():
            if sender != _NOBODY:
                home = work.node.topology.current.shard_of(sender)
                homes[home].append((sender, version, row["member_id"], row["store"]))
        for home, asked in homes.items():
            for row in await work.fetch_of(home, "find_sent", asked):
                del page[row["member_id"], row["version"]]
        yield page


async def _revoke(work: Reconciliation, shard: str, receipt: Any) -> None:
    received, receiver = receipt["version"], receipt["member_id"]
    (row,) = await work.fetch(shard, "points_of", receiver, received)
    sender = _member(receipt["store"])
    command = RevokeTransfer(received, sender, int(receipt["receipt"]), row["points"], datetime.now(UTC))
    await work.run_once(receiver, command, "transfer_revoked", received)
    work.done["transfers revoked whose sender's entry is lost"] += 1


async def _settled(work: Reconciliation, shard: str) -> AsyncGenerator[list[Any]]:
    """Settled transfers that are received no more, and were not returned."""
    after = (0, 0)
    while rows := await work.fetch(shard, "settled_after", *after, PAGE):
        after = rows[-1]["member_id"], rows[-1]["version"]
        names = [(format_member_id(row["member_id"]), str(row["transfer"])) for row in rows]
        known = {tuple(row) for row in await work.fetch_of(shard, "find_receipts", names, "transfer_returned")}
        homes: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for row, name in zip(rows, names, strict=True):
            homes[_home_of(work, orjson.loads(row["detail"])["receiver"])].append(name)
        for home, asked in homes.items():
            known |= {tuple(row) for row in await work.fetch_of(home, "find_receipts", asked, "transfer")}
        yield [row for row, name in zip(rows, names, strict=True) if name not in known]


async def _deliver_again(work: Reconciliation, row: Any) -> None:
    sent, sender, transfer = orjson.loads(row["detail"]), row["member_id"], row["transfer"]
    lots = parse_lots(sent["lots"])
    receive = ReceiveTransfer(sender, transfer, lots, datetime.now(UTC))
    code = await work.run(sent["receiver"], receive, other_half(sender, transfer, sent, "transfer"))
    if code in NEVER:
        await work.run_once(sender, ReturnTransfer(transfer, lots, datetime.now(UTC)), "transfer_returned", transfer)
        work.done["transfers returned whose receiver is lost"] += 1
    elif code is None:
        work.done["transfers delivered again"] += 1
    else:
        raise ProblemError(code, f"transfer {format_member_id(sender)}-{transfer} could not be delivered again")


def _home_of(work: Reconciliation, member_id: int) -> str:
    return work.node.topology.current.shard_of(member_id)


def _member(text: str) -> int:
    try:
        return parse_member_id(text)
    except MalformedIdError:
        return _NOBODY
