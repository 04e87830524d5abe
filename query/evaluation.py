"""What a basket would bring at any instant: the decision of the write side, made here, with nothing kept.

The member is read from a hot standby, the program is the one in force at the instant asked about. A
refusal is the problem the purchase would get.
"""

from datetime import UTC, date, datetime
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field

from query.http import demanded_version, find_named, visible_member
from query.lookup import Identifier
from query.node import NODE
from query.question import StandingQuestion
from rules.codec import parse_state, posting_document
from rules.evaluate import Evaluation, evaluate
from rules.facts import Facts
from rules.outcome import Refused
from rules.program import Program
from rules.state import Account
from service.basket import basket_command, named_holds
from service.body import Instant, MemberReference, PurchaseBody
from service.parse import parse_body
from service.payload import BODY
from service.problem import problem_of
from service.web import PRINCIPAL, render_json
from shard_router.errors import ProblemError

_EXAMPLE: Final[dict[str, Any]] = {
    "member": {"phone": "+4930123456"},
    "store": "berlin-mitte",
    "till": "1",
    "receipt": "000431",
    "occurred_at": "2026-11-22T10:00:00Z",
    "currency": "EUR",
    "lines": [{"sku": "1095275", "quantity": 1, "amount": 1299, "category": "GROCERY"}],
    "at": "2026-12-05T10:00:00Z",
}


class EvaluationBody(PurchaseBody):
    """A basket that nobody has bought yet."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    at: Instant | None = Field(default=None, description="When it would be bought; absent: as it stands, posted now.")


async def evaluate_purchase(request: web.Request) -> web.StreamResponse:
    """Answer what a basket would bring."""
    raw = request[BODY]
    body = parse_body(EvaluationBody, raw)
    node, principal = request.app[NODE], request[PRINCIPAL]
    if principal.store not in (None, body.store):
        raise ProblemError("forbidden", f"this key belongs to store {principal.store}")
    found = await _find_member(request, body.member, raw)
    if isinstance(found, web.Response):
        return found
    at, occurred_at = body.at or datetime.now(UTC), body.at or body.occurred_at
    holds = named_holds(body, found)
    question = StandingQuestion(found, tuple(hold.version for hold in holds), at, occurred_at)
    answer = await node.read_servers(request, question, at_least=demanded_version(request, found))
    if answer.body is None:
        raise ProblemError("member_not_found")
    standing: dict[str, Any] = orjson.loads(answer.body)
    if principal.role == "member" and standing["status"] != "open":
        raise ProblemError("member_not_found")
    if principal.store and any(store != principal.store for _, store in standing["holds"] or ()):
        raise ProblemError("hold_not_found", "this store placed no such hold")
    if standing["program_version"] is None:
        raise ProblemError("shard_unavailable", "no program is applied")
    program = await _program(request, found, standing["program_version"])
    if not program.knows(occurred_at):
        ruling = await _program(request, found, standing["ruling_version"])
        program = program.with_history([*program.history, (occurred_at, ruling)])
    command = basket_command(body, holds, occurred_at=occurred_at, received_at=at)
    evaluation = evaluate(_account(found, standing), command, program, at, _facts(standing))
    headers = {"Loyalty-Source": answer.source, "Cache-Control": "private, no-cache"}
    return render_json(_document(evaluation), headers=headers)


async def _find_member(request: web.Request, member: MemberReference, raw: bytes) -> int | web.Response:
    """Find whom a body names, if the principal may see them; the answer of their home region when that is not ours."""
    kind, value = member.names
    if kind == "member_id":
        node, member_id = request.app[NODE], visible_member(request, value)
        return await node.ask_home(request, member_id, body=raw) or member_id
    return await find_named(request, Identifier(kind, value), body=raw)


async def _program(request: web.Request, member_id: int, version: int) -> Program:
    node = request.app[NODE]
    return await node.within_deadline(request, node.catalogue.version(version, node.reader_of(member_id)))


def _account(member_id: int, standing: dict[str, Any]) -> Account:
    return parse_state(
        member_id,
        standing["state"],
        version=standing["version"],
        status=standing["status"],
        totals=standing["totals"],
    )


def _facts(standing: dict[str, Any]) -> Facts:
    birth_date = standing["birth_date"]
    return Facts(
        holds_existed=frozenset(version for version, _ in standing["holds"] or ()),
        birth_date=date.fromisoformat(birth_date) if birth_date else None,
    )


def _document(evaluation: Evaluation | Refused) -> dict[str, Any]:
    """Write the answer; the problem of a refusal."""
    if isinstance(evaluation, Refused):
        raise problem_of(evaluation)
    return {
        "points": evaluation.points,
        "postings": [posting_document(posting) for posting in evaluation.postings],
        **evaluation.holds,
        "tier_after": evaluation.tier_after,
        "explanation": evaluation.explanation,
        "not_applied": evaluation.not_applied,
    }
