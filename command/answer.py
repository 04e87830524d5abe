"""What a command answers: made from its entry, so that it can be made again from the journal."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson

from command.envelope import Answer, Envelope
from rules.codec import posting_document
from rules.command import (
    CancelRedemption,
    CaptureHold,
    ChangeIdentifiers,
    CloseMember,
    Command,
    EnrolMember,
    UseRedemption,
    VoidHold,
)
from rules.describe import describe_account
from rules.outcome import Entry, Refused
from rules.program import Program
from service.problem import problem_document, problem_of
from service.stored_answer import ALL_LEFT_OUT, RenderedEntry, answer_of, shortened
from shard_router.errors import PROBLEMS, ProblemError
from shard_router.member_id import format_member_id, format_reference

CREATED: Final = 201
OK: Final = 200
NOTHING_TO_DO: Final = Answer(204, b"")
"""For settler and courier: what they asked is as it should be already."""
MAY_CHANGE: Final = frozenset({404, 429})
"""Refusals that are not stored: what is missing may still arrive, and what was asked too often may be asked later."""
_ON_WHAT_IS_THERE: Final = (CaptureHold, VoidHold, UseRedemption, CancelRedemption, CloseMember)


def render_entry(entry: Entry, program: Program) -> RenderedEntry:
    """An entry with its documents."""
    account = entry.account
    return RenderedEntry(
        account.member_id,
        account.version,
        entry.kind,
        entry.points,
        [posting_document(posting) for posting in entry.postings],
        entry.detail,
        describe_account(account, program, format_member_id(account.member_id)),
    )


def accepted(command: Command, rendered: RenderedEntry, *, replayed: bool = False) -> Answer:
    """Answer an accepted command."""
    status = OK if isinstance(command, _ON_WHAT_IS_THERE) else CREATED
    own_words = _OWN_WORDS.get(type(command))
    document = own_words(command, rendered) if own_words else answer_of(rendered)
    stored = shortened(document) if own_words else ALL_LEFT_OUT
    return Answer(status, orjson.dumps(document), rendered.member_id, rendered.version, replayed, stored=stored)


def refused(envelope: Envelope, refusal: Refused) -> Answer:
    """Answer a business "no": a problem like any other, but stored and replayed."""
    answer = problem_answer(envelope, problem_of(refusal))
    return replace(answer, retry_after_s=refusal.retry_after_s) if refusal.retry_after_s is not None else answer


def problem_answer(envelope: Envelope, error: ProblemError) -> Answer:
    """Answer a problem."""
    body = orjson.dumps(problem_document(error, envelope.request_id))
    return Answer(PROBLEMS[error.code].status, body)


def _enrolment(command: EnrolMember, entry: RenderedEntry) -> dict[str, Any]:
    return {"member_id": format_member_id(entry.member_id), "card": command.card, "account": entry.account}


def _identifiers(command: ChangeIdentifiers, entry: RenderedEntry) -> dict[str, Any]:
    return {
        "member_id": format_member_id(entry.member_id),
        "entry_id": format_reference("ent", entry.member_id, entry.version),
        "added": [{kind: value} for kind, value in command.add],
        "account": entry.account,
    }


def _closure(_command: CloseMember, entry: RenderedEntry) -> dict[str, Any]:
    # The entry is not dated before the one it follows: a command may be, where another was decided in between.
    return {"member_id": format_member_id(entry.member_id), "erased_at": entry.account["as_of"]}


_OWN_WORDS: Final[dict[type, Callable[[Any, RenderedEntry], dict[str, Any]]]] = {
    EnrolMember: _enrolment,
    ChangeIdentifiers: _identifiers,
    CloseMember: _closure,
}
