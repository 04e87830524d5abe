"""What an entry of the journal is about, as ids that its member can use: a purchase, a hold, a redemption, a transfer.

The ids are made from the entry's own version or from what its `detail` names. Entries of earlier versions may lack a
name (the reward of a redemption that was used or expired); then it is left out.
"""

from collections.abc import Callable
from typing import Any, Final

from rules.detail import (
    EntryDetail,
    HeldDetail,
    HoldEndDetail,
    RedeemedDetail,
    RedemptionEndDetail,
    ReturnDetail,
    TransferEndDetail,
    TransferReceivedDetail,
    TransferSentDetail,
)
from shard_router.member_id import format_reference

Subject = dict[str, Any]


def subject_of(member_id: int, version: int, kind: str, detail: Any) -> Subject:
    """The fields of an activity entry that say what it is about; none for most kinds."""
    describe = _SUBJECTS.get(kind)
    return describe(member_id, version, detail) if describe else {}


def _purchase(member_id: int, version: int, _detail: EntryDetail) -> Subject:
    return {"purchase_id": format_reference("pur", member_id, version)}


def _return(member_id: int, version: int, detail: ReturnDetail) -> Subject:
    purchase_id = format_reference("pur", member_id, detail["purchase"])
    subject = {"purchase_id": purchase_id, "return_id": format_reference("ret", member_id, version)}
    return subject | ({"why": detail["why"]} if "why" in detail else {})


def _hold(member_id: int, _version: int, detail: HeldDetail | HoldEndDetail) -> Subject:
    return {"hold_id": format_reference("hld", member_id, detail["hold"])}


def _redemption(member_id: int, _version: int, detail: RedeemedDetail | RedemptionEndDetail) -> Subject:
    redemption_id = format_reference("red", member_id, detail["redemption"])
    return {"redemption_id": redemption_id} | ({"reward": detail["reward"]} if "reward" in detail else {})


def _sent(member_id: int, _version: int, detail: TransferSentDetail | TransferEndDetail) -> Subject:
    return {"transfer_id": format_reference("trf", member_id, detail["transfer"]), "direction": "sent"}


def _received(_member_id: int, _version: int, detail: TransferReceivedDetail) -> Subject:
    return {"transfer_id": format_reference("trf", int(detail["sender"]), detail["transfer"]), "direction": "received"}


_SUBJECTS: Final[dict[str, Callable[[int, int, Any], Subject]]] = {
    "purchase_recorded": _purchase,
    "purchase_returned": _return,
    "hold_placed": _hold,
    "hold_captured": _hold,
    "hold_voided": _hold,
    "hold_lapsed": _hold,
    "reward_redeemed": _redemption,
    "redemption_used": _redemption,
    "redemption_cancelled": _redemption,
    "redemption_expired": _redemption,
    "transfer_sent": _sent,
    "transfer_settled": _sent,
    "transfer_cancelled": _sent,
    "transfer_returned": _sent,
    "transfer_received": _received,
    "transfer_revoked": _received,
}
