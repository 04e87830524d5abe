"""The routes of a query node. Each handler: who may see it, where it lives, one question, one rendering.

A foreign member's request goes to the home region, and is answered here when nobody there answers; what a credential
may not see is answered exactly like what does not exist, before anything is asked about it. An erased member does not
exist for themselves nor for a look-up; staff still see their points and history, which name nobody.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from query.catalogue import NEAR, Place, describe_rewards, describe_rewards_for, describe_stores, describe_tiers
from query.lookup import HolderQuestion, Identifier, holder_of, nobody, only_name, stored_forms
from query.node import NODE, QueryNode
from query.page import page_size
from query.question import (
    AccountQuestion,
    ActivityQuestion,
    MemberQuestion,
    PurchaseQuestion,
    Question,
    UnlessErased,
    decode_activity_page,
)
from query.reader import Answer
from service.coding import BYTES_MIN
from service.cors import vary
from service.credential import Principal
from service.idempotency import parse_key
from service.identifier import KINDS
from service.problem import malformed_parameter
from service.stored_answer import RenderedEntry, completed, read_entry
from service.web import PRINCIPAL, Handler, render_json
from shard_router.errors import MalformedIdError, ProblemError, parse_or
from shard_router.member_id import Reference, format_member_id, parse_member_id, parse_reference
from shard_router.token import TOKEN_HEADER, ConsistencyToken, parse_token

_REVALIDATE: Final = "private, no-cache"
_DEGREES: Final = re.compile(NEAR)
_TAG: Final = re.compile(r'(?:^|,)[ \t]*(?:W/)?"([^"]*)"[ \t]*(?=,|$)')
_JSON: Final = "application/json; charset=utf-8"


async def get_account(request: web.Request) -> web.StreamResponse:
    """Answer the account."""
    return await _answer_member(request, as_seen_by(request[PRINCIPAL], AccountQuestion(member_of(request))))


async def get_member(request: web.Request) -> web.StreamResponse:
    """Answer profile and account."""
    return await _answer_member(request, MemberQuestion(member_of(request)))


async def list_activity(request: web.Request) -> web.StreamResponse:
    """Answer a page of entries. One that goes on from another begins where that ended, or is not visible yet."""
    member_id = member_of(request)
    token = request.query.get("page_token")
    top = decode_activity_page(member_id, token) if token is not None else None
    question = ActivityQuestion(member_id, top, page_size(request.query.get("page_size")))
    return await _answer_member(
        request, as_seen_by(request[PRINCIPAL], question), page_from=top or 0, is_newest=top is None
    )


async def get_purchase(request: web.Request) -> web.StreamResponse:
    """Answer a purchase."""
    reference = _purchase_of(request)
    return await _answer_member(
        request,
        as_seen_by(request[PRINCIPAL], PurchaseQuestion(reference)),
        missing="purchase_not_found",
        is_newest=False,
    )


async def list_member_rewards(request: web.Request) -> web.StreamResponse:
    """Answer what a member can redeem. The answer depends on the program too, so its ETag names both versions."""
    node, member_id = request.app[NODE], member_of(request)
    if from_home := await node.ask_home(request, member_id):
        return from_home
    program, question = node.catalogue.program, as_seen_by(request[PRINCIPAL], AccountQuestion(member_id))
    answer = await node.read(request, question, at_least=demanded_version(request, member_id))
    account = orjson.loads(_existing(answer, "member_not_found"))
    items = describe_rewards_for(program, account["balance"]["available"])
    return respond(request, _items(items), etag=f"{answer.etag}-{program.version}", source=answer.source)


async def look_up_member(request: web.Request) -> web.StreamResponse:
    """Answer the member behind an identifier."""
    node, name = request.app[NODE], only_name(request.query.items())
    if name is None:
        raise _no_one_name([kind for kind in KINDS if kind in request.query] or KINDS)
    found = await find_named(request, name)
    if isinstance(found, web.Response):
        return found
    member_id, question = found, UnlessErased(AccountQuestion(found))
    answer = await node.read(request, question, at_least=demanded_version(request, member_id))
    account = _existing(answer, "member_not_found")
    body = b'{"member_id":"%b","account":%b}' % (format_member_id(member_id).encode(), account)
    # An identifier may move to another member, so the version alone would not tell.
    return respond(request, body, etag=f"{answer.etag}-{format_member_id(member_id)}", source=answer.source)


def _no_one_name(sent: Iterable[str]) -> ProblemError:
    detail = "send exactly one of card, phone and email"
    return ProblemError("malformed", detail, [{"pointer": f"/{kind}", "detail": detail} for kind in sent])


async def get_command(request: web.Request) -> web.StreamResponse:
    """Answer what became of a command; a till's credential sees its own commands only, a member theirs."""
    key = parse_key(request.match_info["idempotency_key"])
    found = await request.app[NODE].find_command(request, key) if key else None
    content: dict[str, Any] = {"status": "unknown"}
    if found is not None:
        row = found.row
        answer = completed(row["answer"], _entry_of(row))
        content = {"status": "done", "answer_status": row["status"], "answer": orjson.Fragment(answer)}
    source = found.source if found else "replica"
    return render_json(content, headers={"Loyalty-Source": source, "Cache-Control": _REVALIDATE})


def _entry_of(row: Mapping[str, Any]) -> RenderedEntry | None:
    """The entry that a stored answer answers with."""
    return None if row["version"] is None else read_entry(row["member_id"], row["version"], row)


async def list_rewards(request: web.Request) -> web.StreamResponse:
    """Answer the rewards of the program."""
    program = request.app[NODE].catalogue.program
    return respond(request, _items(describe_rewards(program)), etag=f"p{program.version}", source="cache")


async def list_tiers(request: web.Request) -> web.StreamResponse:
    """Answer the tiers of the program."""
    program = request.app[NODE].catalogue.program
    return respond(request, _items(describe_tiers(program)), etag=f"p{program.version}", source="cache")


async def list_stores(request: web.Request) -> web.StreamResponse:
    """Answer a page of stores."""
    program, query = request.app[NODE].catalogue.program, request.query
    content = describe_stores(
        program,
        region=query.get("region"),
        near=_place(query.get("near")),
        size=page_size(query.get("page_size")),
        page_token=query.get("page_token"),
    )
    return respond(request, orjson.dumps(content), etag=f"p{program.version}", source="cache")


HANDLERS: Final[dict[str, Handler]] = {
    "get_member": get_member,
    "get_account": get_account,
    "list_activity": list_activity,
    "list_member_rewards": list_member_rewards,
    "look_up_member": look_up_member,
    "get_purchase": get_purchase,
    "get_command": get_command,
    "list_rewards": list_rewards,
    "list_tiers": list_tiers,
    "list_stores": list_stores,
}
"""By operation id; event stream and evaluations are added where the node is built."""


async def find_named(request: web.Request, name: Identifier, *, body: bytes | None = None) -> int | web.Response:
    """Find the member with an identifier whom the principal may see; the home region's answer when that is not ours.

    A Consistency-Token is obeyed first: its member may have the identifier since then, or have it no longer. A member
    can only name themselves, and nobody else is looked for: neither answer nor time taken tells who else there is.
    """
    node, token, own = request.app[NODE], token_of(request), request[PRINCIPAL].member_id
    if token and not request[PRINCIPAL].may_see(token.member_id):
        raise malformed_parameter(TOKEN_HEADER, "this token is of another member")
    first = token.member_id if token else own
    if first and (from_home := await node.ask_home(request, first, body=body)):
        return from_home
    holder = None
    for identifier in stored_forms(name):
        holder = holder or await _holder_of(request, identifier, first, at_least=token.version if token else 0)
    if holder is None:
        raise nobody(name)
    if not request[PRINCIPAL].may_see(holder):
        raise ProblemError("member_not_found")
    if token and token.member_id != holder:  # told here: the token's region has been asked, and hands nothing on
        raise malformed_parameter(TOKEN_HEADER, "this token is of another member")
    return await node.ask_home(request, holder, body=body) or holder


async def _holder_of(request: web.Request, identifier: Identifier, first: int | None, *, at_least: int) -> int | None:
    """The member with an identifier as it is stored: the one who is asked about first, or for staff anybody."""
    node, asked_on = request.app[NODE], None
    if first:
        question, asked_on = HolderQuestion(first, identifier), node.topology.current.shard_of(first)
        answer = await node.read(request, question, at_least=at_least)
        if answer.body:
            return holder_of(answer.body)
    if request[PRINCIPAL].member_id is not None:
        return None
    return await node.find_member(request, identifier, but_on=asked_on)


def as_seen_by(principal: Principal, question: Question) -> Question:
    """Make the question of whoever asks: to a member nothing is left of an erased one."""
    return UnlessErased(question) if principal.role == "member" else question


def member_of(request: web.Request) -> int:
    """Read the member of the path; `member_not_found` for no id as for one this principal may not see."""
    return visible_member(request, request.match_info["member_id"])


def visible_member(request: web.Request, text: str) -> int:
    """Read a member id; `member_not_found` as above."""
    member_id = parse_or("member_not_found", parse_member_id, text)
    if not request[PRINCIPAL].may_see(member_id):
        raise ProblemError("member_not_found")
    return member_id


def token_of(request: web.Request) -> ConsistencyToken | None:
    """Read the Consistency-Token, if there is one; `malformed` when it cannot be read, as two of them cannot."""
    texts = request.headers.getall(TOKEN_HEADER, None)
    if texts is None:
        return None
    try:
        return parse_token(", ".join(texts))
    except MalformedIdError as error:
        raise malformed_parameter(TOKEN_HEADER, "send it as the command answered it") from error


def demanded_version(request: web.Request, member_id: int) -> int:
    """Read the version of this member that the answer must include, 0 for none; `malformed` for another member's."""
    token = token_of(request)
    if token is None:
        return 0
    if token.member_id != member_id:
        raise malformed_parameter(TOKEN_HEADER, "this token is of another member")
    return token.version


def respond(request: web.Request, body: bytes, *, etag: str, source: str) -> web.Response:
    """Render an answer with its version, or 304 when the client has it."""
    headers = {
        "Content-Type": _JSON,
        "ETag": f'W/"{etag}"',
        "Loyalty-Source": source,
        "Cache-Control": _REVALIDATE,
    }
    if "If-None-Match" in request.headers and _is_known(request.headers.getall("If-None-Match"), etag):
        del headers["Content-Type"]
        response = web.Response(status=304, headers=headers)
        if len(body) > BYTES_MIN:  # as of the answer that it stands for (RFC 9110, 15.4.5)
            vary(response, hdrs.ACCEPT_ENCODING)
        return response
    return web.Response(body=body, headers=headers)


async def _answer_member(
    request: web.Request,
    question: Question,
    *,
    missing: str = "member_not_found",
    page_from: int = 0,
    is_newest: bool = True,
) -> web.StreamResponse:
    node: QueryNode = request.app[NODE]
    if from_home := await node.ask_home(request, question.member_id, missing=missing, is_newest=is_newest):
        return from_home
    at_least = max(demanded_version(request, question.member_id), page_from)
    answer = await node.read(request, question, at_least=at_least, may_wait=not page_from)
    return respond(request, _existing(answer, missing), etag=str(answer.etag), source=answer.source)


def _existing(answer: Answer, missing: str) -> bytes:
    if answer.body is None:
        raise ProblemError(missing)
    return answer.body


def _purchase_of(request: web.Request) -> Reference:
    reference = parse_or("purchase_not_found", parse_reference, "pur", request.match_info["purchase_id"])
    if not request[PRINCIPAL].may_see(reference.member_id):
        raise ProblemError("purchase_not_found")
    return reference


def _place(text: str | None) -> Place | None:
    if text is None:
        return None
    if not _DEGREES.fullmatch(text):
        raise malformed_parameter("near", "send latitude (-90 to 90) and longitude (-180 to 180), like 52.52,13.405")
    lat, lon = map(float, text.split(","))
    return lat, lon


def _is_known(given: Iterable[str], etag: str) -> bool:
    """Compare weakly, as If-None-Match does (RFC 9110, 13.1.2). Several lines are one list; "*" in quotes is a tag."""
    tags = ", ".join(given).strip()
    return tags == "*" or etag in _TAG.findall(tags)


def _items(items: list[dict[str, Any]]) -> bytes:
    return orjson.dumps({"items": items})
