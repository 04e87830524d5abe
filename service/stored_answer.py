"""The "yes" of a command: made from its entry, when it is given and again when its key comes again.

Under its key stands {} where the entry says it all. Where the command said something of its own the answer stands
there, with null in place of what the entry has; what earlier versions have stored may be whole, and stays so.
The bytes are the same as at first, also after a later version has been deployed: an answer made here may get new
parts for new entries, and never another form for old ones.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from rules.detail import HeldDetail, HoldEndDetail, PurchaseDetail, RedeemedDetail, RedemptionEndDetail, ReturnDetail
from rules.document import AccountDocument, PostingDocument
from rules.purchase import told_of_holds
from rules.stored import full_account, full_postings, full_purchase, not_applied_of
from shard_router.member_id import format_member_id, format_reference

LEFT_OUT: Final = ("postings", "not_applied", "account")
"""What answers have word for word from the journal; none of it is ever null."""
OWN_WORDS: Final = frozenset({"member_enrolled", "identifiers_changed", "member_closed"})
"""Entries whose answers say what only the command did: what the member is found by, or when all that was erased."""
ALL_LEFT_OUT: Final = b"{}"
"""What stands under a key whose answer is all in its entry."""


class RenderedEntry(NamedTuple):
    """An entry as API.md shows it. `detail` has the layout of the entry's kind (rules/detail.py)."""

    member_id: int
    version: int
    kind: str
    points: int
    postings: list[PostingDocument]
    detail: Any
    account: AccountDocument


def read_entry(member_id: int, version: int, row: Mapping[str, Any]) -> RenderedEntry:
    """The entry of a row of the journal, JSON columns as text; `document` is that of the purchase it made."""
    detail = orjson.loads(row["detail"])
    purchase = full_purchase(orjson.loads(row["document"])) if row["document"] else None
    if purchase and "explained" in purchase and "not_applied" not in detail:
        # Where an explanation is written out, an entry that tells of nothing was answered so.
        detail |= {"not_applied": not_applied_of(purchase)}
    account = full_account(
        orjson.loads(row["account_after"]),
        member=format_member_id(member_id),
        version=version,
        as_of=row["recorded_at"],
    )
    postings = full_postings(orjson.loads(row["postings"]))
    return RenderedEntry(member_id, version, row["kind"], row["points"], postings, detail, account)


def answer_of(entry: RenderedEntry) -> dict[str, Any]:
    """What the command that made an entry was answered, unless that says something of its own."""
    return {**_DOCUMENTS.get(entry.kind, _entry)(entry), "account": entry.account}


def shortened(document: Mapping[str, Any]) -> bytes:
    """An answer that says something of its own, as it is stored."""
    return orjson.dumps({name: None if name in LEFT_OUT else value for name, value in document.items()})


def is_shortened(document: Mapping[str, Any], name: str) -> bool:
    """Whether a part of a stored answer was left out."""
    return name in LEFT_OUT and document.get(name, ...) is None


def completed(stored: str, entry: RenderedEntry | None) -> bytes:
    """A stored answer as it was first given; `entry` is what it answers with."""
    if entry is None:
        return stored.encode()
    document = orjson.loads(stored)
    if not document:
        return orjson.dumps(answer_of(entry))
    missing = {name: _part(name, entry) for name in LEFT_OUT if is_shortened(document, name)}
    return orjson.dumps({**document, **missing}) if missing else stored.encode()


def _part(name: str, entry: RenderedEntry) -> Any:
    return entry.detail.get("not_applied", []) if name == "not_applied" else getattr(entry, name)


def _entry(entry: RenderedEntry) -> dict[str, Any]:
    return {"entry_id": _reference("ent", entry), "postings": entry.postings}


def _purchase(entry: RenderedEntry) -> dict[str, Any]:
    detail: PurchaseDetail = entry.detail
    return {
        "purchase_id": _reference("pur", entry),
        "entry_id": _reference("ent", entry),
        "points_earned": detail.get("points_earned", entry.points),
        "postings": entry.postings,
        "not_applied": detail.get("not_applied", []),
        **told_of_holds(detail),
    }


def _return(entry: RenderedEntry) -> dict[str, Any]:
    detail: ReturnDetail = entry.detail
    return {
        "return_id": _reference("ret", entry),
        "entry_id": _reference("ent", entry),
        "points_reversed": detail.get("points_reversed", -entry.points),
        "postings": entry.postings,
    }


def _hold(entry: RenderedEntry) -> dict[str, Any]:
    detail: HeldDetail = entry.detail
    return {"hold_id": _reference("hld", entry), "points": detail["held"], "expires_at": detail["expires_at"]}


def _hold_closed(entry: RenderedEntry) -> dict[str, Any]:
    detail: HoldEndDetail = entry.detail
    document: dict[str, Any] = {"hold_id": format_reference("hld", entry.member_id, detail["hold"])}
    if "captured" in detail:
        document["captured"] = detail["captured"]
    return document | {"released": detail.get("released", 0)}


def _redemption(entry: RenderedEntry) -> dict[str, Any]:
    detail: RedeemedDetail = entry.detail
    return {"redemption_id": _reference("red", entry), "code": detail["code"], "points": detail["redeemed"]}


def _redemption_closed(entry: RenderedEntry) -> dict[str, Any]:
    detail: RedemptionEndDetail = entry.detail
    redemption_id = format_reference("red", entry.member_id, detail["redemption"])
    return {"redemption_id": redemption_id, "status": detail["status"]}


def _transfer(entry: RenderedEntry) -> dict[str, Any]:
    return {"transfer_id": _reference("trf", entry), "entry_id": _reference("ent", entry)}


def _reference(kind: str, entry: RenderedEntry) -> str:
    return format_reference(kind, entry.member_id, entry.version)


_DOCUMENTS: Final[dict[str, Callable[[RenderedEntry], dict[str, Any]]]] = {
    "purchase_recorded": _purchase,
    "purchase_returned": _return,
    "hold_placed": _hold,
    "hold_captured": _hold_closed,
    "hold_voided": _hold_closed,
    "reward_redeemed": _redemption,
    "redemption_used": _redemption_closed,
    "redemption_cancelled": _redemption_closed,
    "transfer_sent": _transfer,
}
