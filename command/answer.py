"""What a command answers: made from its entry, so that it can be made again from the journal."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

import orjson

from command.envelope import Answer, Envelope
from rules.codec import instant_text, posting_document
from rules.command import (
    CancelRedemption,
    CaptureHold,
    ChangeIdentifiers,
    CloseMember,
    Command,
    EnrolMember,
    PlaceHold,
    RecordPurchase,
    RedeemReward,
    ReturnPurchase,
    SendTransfer,
    UseRedemption,
    VoidHold,
)
from rules.describe import describe_account
from rules.detail import HeldDetail, HoldEndDetail, PurchaseDetail, RedeemedDetail, RedemptionEndDetail, ReturnDetail
from rules.outcome import Entry, Refused
from rules.program import Program
from rules.purchase import told_of_holds
from service.problem import problem_document
from service.stored_answer import shortened
from shard_router.errors import PROBLEMS, ProblemError
from shard_router.member_id import format_member_id, format_reference

CREATED: Final = 201
OK: Final = 200
NOTHING_TO_DO: Final = Answer(204, b"")
"""For settler and courier: what they asked is as it should be already."""
REFUSED: Final = 400
MAY_CHANGE: Final = frozenset({404, 429})
"""Refusals that are not stored: what is missing may still arrive, and what was asked too often may be asked later."""
_ON_WHAT_IS_THERE: Final = (CaptureHold, VoidHold, UseRedemption, CancelRedemption, CloseMember)


class RenderedEntry(NamedTuple):
    """An entry as it is stored: its JSON parts rendered once, for the journal, the answer and the view alike.

    `detail` has the layout of the entry's kind (rules/detail.py).
    """

    member_id: int
    version: int
    points: int
    postings: bytes
    detail: Any
    account_after: bytes


def render_entry(entry: Entry, program: Program) -> RenderedEntry:
    """Render an entry's JSON parts."""
    account = entry.account
    return RenderedEntry(
        account.member_id,
        account.version,
        entry.points,
        orjson.dumps([posting_document(posting) for posting in entry.postings]),
        entry.detail,
        orjson.dumps(describe_account(account, program, format_member_id(account.member_id))),
    )


def accepted(command: Command, rendered: RenderedEntry, *, replayed: bool = False) -> Answer:
    """Answer an accepted command."""
    status = OK if isinstance(command, _ON_WHAT_IS_THERE) else CREATED
    document = _document(command, rendered)
    if not isinstance(command, CloseMember):
        document["account"] = orjson.Fragment(rendered.account_after)
    stored = shortened(document)
    return Answer(status, orjson.dumps(document), rendered.member_id, rendered.version, replayed, stored=stored)


def refused(envelope: Envelope, refusal: Refused) -> Answer:
    """Answer a business "no": a problem like any other, but stored and replayed."""
    errors = [{"pointer": refusal.pointer, "detail": refusal.detail}] if refusal.pointer else []
    answer = problem_answer(envelope, ProblemError(refusal.reason, refusal.detail, errors))
    return replace(answer, retry_after_s=refusal.retry_after_s) if refusal.retry_after_s is not None else answer


def problem_answer(envelope: Envelope, error: ProblemError) -> Answer:
    """Answer a problem."""
    body = orjson.dumps(problem_document(error, envelope.request_id))
    return Answer(PROBLEMS[error.code].status, body)


def _document(command: Command, entry: RenderedEntry) -> dict[str, Any]:
    make = _DOCUMENTS.get(type(command), _entry_document)
    return make(command, entry)


def _entry_document(_command: Any, entry: RenderedEntry) -> dict[str, Any]:
    return {"entry_id": _reference("ent", entry), "postings": orjson.Fragment(entry.postings)}


def _enrolment(command: EnrolMember, entry: RenderedEntry) -> dict[str, Any]:
    return {"member_id": format_member_id(entry.member_id), "card": command.card}


def _purchase(_command: RecordPurchase, entry: RenderedEntry) -> dict[str, Any]:
    detail: PurchaseDetail = entry.detail
    return {
        "purchase_id": _reference("pur", entry),
        "entry_id": _reference("ent", entry),
        "points_earned": detail.get("points_earned", entry.points),
        "postings": orjson.Fragment(entry.postings),
        "not_applied": detail.get("not_applied", []),
        **told_of_holds(detail),
    }


def _return(_command: ReturnPurchase, entry: RenderedEntry) -> dict[str, Any]:
    detail: ReturnDetail = entry.detail
    return {
        "return_id": _reference("ret", entry),
        "entry_id": _reference("ent", entry),
        "points_reversed": detail.get("points_reversed", -entry.points),
        "postings": orjson.Fragment(entry.postings),
    }


def _identifiers(command: ChangeIdentifiers, entry: RenderedEntry) -> dict[str, Any]:
    added = [{kind: value} for kind, value in command.add]
    return {"member_id": format_member_id(entry.member_id), "entry_id": _reference("ent", entry), "added": added}


def _hold(_command: PlaceHold, entry: RenderedEntry) -> dict[str, Any]:
    detail: HeldDetail = entry.detail
    return {"hold_id": _reference("hld", entry), "points": detail["held"], "expires_at": detail["expires_at"]}


def _hold_closed(_command: CaptureHold | VoidHold, entry: RenderedEntry) -> dict[str, Any]:
    detail: HoldEndDetail = entry.detail
    hold_id = format_reference("hld", entry.member_id, detail["hold"])
    document: dict[str, Any] = {"hold_id": hold_id}
    if "captured" in detail:
        document["captured"] = detail["captured"]
    return document | {"released": detail.get("released", 0)}


def _redemption(_command: RedeemReward, entry: RenderedEntry) -> dict[str, Any]:
    detail: RedeemedDetail = entry.detail
    return {"redemption_id": _reference("red", entry), "code": detail["code"], "points": detail["redeemed"]}


def _redemption_closed(_command: UseRedemption | CancelRedemption, entry: RenderedEntry) -> dict[str, Any]:
    detail: RedemptionEndDetail = entry.detail
    redemption_id = format_reference("red", entry.member_id, detail["redemption"])
    return {"redemption_id": redemption_id, "status": detail["status"]}


def _transfer(_command: SendTransfer, entry: RenderedEntry) -> dict[str, Any]:
    return {"transfer_id": _reference("trf", entry), "entry_id": _reference("ent", entry)}


def _closure(command: CloseMember, entry: RenderedEntry) -> dict[str, Any]:
    return {"member_id": format_member_id(entry.member_id), "erased_at": instant_text(command.received_at)}


def _reference(kind: str, entry: RenderedEntry) -> str:
    return format_reference(kind, entry.member_id, entry.version)


_DOCUMENTS: Final[dict[type, Callable[[Any, RenderedEntry], dict[str, Any]]]] = {
    EnrolMember: _enrolment,
    ChangeIdentifiers: _identifiers,
    RecordPurchase: _purchase,
    ReturnPurchase: _return,
    PlaceHold: _hold,
    CaptureHold: _hold_closed,
    VoidHold: _hold_closed,
    RedeemReward: _redemption,
    UseRedemption: _redemption_closed,
    CancelRedemption: _redemption_closed,
    SendTransfer: _transfer,
    CloseMember: _closure,
}
