"""Documents of tills that are recorded already, found by their natural key, whatever program dated them then.

A document has its business date by the version in force at its instant. One recorded by a node that
had not heard of that version may stand under another day, and a return of the first release stands
without its purchase. Such a row is the same document when its own instant and purchase give the
same key today. Most batches ask for none of these.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from command.envelope import ReceiptKey, ReceiptName
from command.load import STATEMENTS, KnownReceipt, Loaded, pairs
from rules.program import Program
from rules.returning import is_reversed
from rules.stored import full_purchase
from service.stored_answer import read_entry
from shard_router.pool import Connection


async def find_answered(connection: Connection, loaded: Sequence[Loaded]) -> None:
    """Tell each command whose key came again the entry behind its stored answer."""
    again = [(one.row["key_member_id"], one.row["key_version"]) for one in loaded if one.row["key_version"] is not None]
    if not again:
        return
    rows = await connection.fetch(STATEMENTS["entries_answered"], *pairs(again))
    entries = {(row["member_id"], row["version"]): read_entry(row["member_id"], row["version"], row) for row in rows}
    for one in loaded:
        one.answered = entries.get((one.row["key_member_id"], one.row["key_version"]))


async def find_recorded(connection: Connection, program: Program, loaded: Sequence[Loaded]) -> None:
    """Tell each command what its receipt has made already; a command whose key answers anyway is not told."""
    wanted: list[tuple[int, ReceiptName]] = []
    for position, one in enumerate(loaded):
        receipt, row = one.envelope.receipt, one.row
        if receipt is None or row["key_fingerprint"] is not None:
            continue
        if row["receipt_version"] is not None:
            one.recorded = await _recorded_by(connection, row)
        elif receipt.subject or len(one.dates) > 1:
            wanted += [(position, name) for name in _other_names(receipt, one)]
    if wanted:
        await _find_others(connection, program, loaded, wanted)


async def _recorded_by(connection: Connection, row: Any) -> KnownReceipt:
    member_id, version = row["receipt_member_id"], row["receipt_version"]
    found = await connection.fetchrow(STATEMENTS["entry_of"], member_id, version)
    entry = read_entry(member_id, version, found) if found else None
    return KnownReceipt(member_id, version, row["receipt_fingerprint"].hex, entry, is_lost=_is_lost(found))


def _is_lost(row: Any) -> bool:
    return bool(row and row["document"]) and is_reversed(full_purchase(orjson.loads(row["document"])))


def _other_names(receipt: ReceiptKey, one: Loaded) -> list[ReceiptName]:
    """All names but the first, which `load` has asked for."""
    subjects = (receipt.subject, "") if receipt.subject else ("",)
    return [receipt.on(day, subject) for subject in subjects for day in one.dates][1:]


async def _find_others(
    connection: Connection, program: Program, loaded: Sequence[Loaded], wanted: Sequence[tuple[int, ReceiptName]]
) -> None:
    columns = zip(*((position, *name) for position, name in wanted), strict=True)
    for row in await connection.fetch(STATEMENTS["receipts_under"], *map(list, columns)):
        one = loaded[row["position"]]
        entry = read_entry(row["member_id"], row["version"], row)
        if one.recorded is None and _is_same(one, row, entry.detail, program):
            fingerprint = row["fingerprint"].hex
            one.recorded = KnownReceipt(row["member_id"], row["version"], fingerprint, entry, is_lost=_is_lost(row))


def _is_same(one: Loaded, row: Any, detail: dict[str, Any], program: Program) -> bool:
    receipt = one.envelope.receipt
    if receipt is None or program.receipt_dates(receipt.store, row["occurred_at"])[0] != one.dates[0]:
        return False
    return receipt.subject in {"", f"{row['member_id']}-{detail.get('purchase')}"}
