"""What a command answers: made from its entry, so that it can be made again from the journal."""

from typing import Any, Final, NamedTuple

import orjson

from command.envelope import Answer, Envelope
from rules.codec import posting_document
from rules.command import (
    AdjustPoints,
    CaptureHold,
    Command,
    EnrolMember,
    PlaceHold,
    RecordPurchase,
    ReturnPurchase,
    VoidHold,
)
from rules.describe import describe_account
from rules.outcome import Entry, Refused
from rules.program import Program
from shard_router.errors import PROBLEMS, ProblemError
from shard_router.member_id import format_member_id, format_reference
from shard_router.web import problem_document

CREATED: Final = 201
OK: Final = 200


class RenderedEntry(NamedTuple):
    """An entry as it is stored: its JSON parts rendered once, for the journal, the answer and the view alike."""

    member_id: int
    version: int
    points: int
    postings: bytes
    detail: dict[str, Any]
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
    status = OK if isinstance(command, CaptureHold | VoidHold) else CREATED
    document = _document(command, rendered) | {"account": orjson.Fragment(rendered.account_after)}
    return Answer(status, orjson.dumps(document), rendered.member_id, rendered.version, replayed)


def refused(envelope: Envelope, refusal: Refused) -> Answer:
    """Answer a business "no": a problem like any other, but stored and replayed."""
    errors = [{"pointer": refusal.pointer, "detail": refusal.detail}] if refusal.pointer else []
    return problem_answer(envelope, ProblemError(refusal.reason, refusal.detail, errors))


def problem_answer(envelope: Envelope, error: ProblemError) -> Answer:
    """Answer a problem."""
    body = orjson.dumps(problem_document(error, envelope.request_id))
    return Answer(PROBLEMS[error.code].status, body)


def _document(command: Command, entry: RenderedEntry) -> dict[str, Any]:
    member_id, version, detail = entry.member_id, entry.version, entry.detail
    postings = {"postings": orjson.Fragment(entry.postings)}
    ids = {"entry_id": format_reference("ent", member_id, version)}
    match command:
        case EnrolMember():
            return {"member_id": format_member_id(member_id), "card": command.card}
        case RecordPurchase():
            head = {"purchase_id": format_reference("pur", member_id, version)}
            return head | ids | {"points_earned": entry.points} | postings
        case ReturnPurchase():
            head = {"return_id": format_reference("ret", member_id, version)}
            return head | ids | {"points_reversed": -entry.points} | postings
        case AdjustPoints():
            return ids | postings
        case PlaceHold():
            hold_id = format_reference("hld", member_id, version)
            return {"hold_id": hold_id, "points": detail["held"], "expires_at": detail["expires_at"]}
        case CaptureHold() | VoidHold():
            hold_id = format_reference("hld", member_id, detail["hold"])
            return {"hold_id": hold_id} | {name: detail[name] for name in ("captured", "released") if name in detail}
        case _:
            return ids
