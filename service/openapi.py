"""One list of operations gives both the routes and the OpenAPI document, so that they cannot disagree.

    OPERATIONS = (
        Operation("POST", "/v1/holds", "place_hold", "Set points aside", roles=STAFF, request_model=HoldBody,
                  answer_model=HoldAnswer, status=201, problems=("member_not_found", "insufficient_points"),
                  answer_headers=COMMAND_HEADERS, idempotent=True),
    )
    add_operations(app, OPERATIONS, {"place_hold": place_hold}, about=About("Loyalty commands", "..."))

What an operation declares is also enforced: its roles, and that no undeclared query parameter is sent.
"""

import asyncio
import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema

from service.admission import Rank
from service.coding import LEVEL, takes_gzip
from service.credential import Role
from service.docs import add_docs
from service.health import Together
from service.idempotency import KEY
from service.schema import Mode, schemas_of
from service.ticket import PARAMETER, holder_of
from service.web import OPEN, STREAMS, UNDER_WAY, Guard, Handler, add_route
from shard_router.errors import PROBLEMS

STAFF: Final[tuple[Role, ...]] = ("pos", "service", "admin")
EVERYONE: Final[tuple[Role, ...]] = (*STAFF, "member")
COMMAND_HEADERS: Final = ("Consistency-Token", "Idempotent-Replayed")
QUERY_HEADERS: Final = ("ETag", "Loyalty-Source", "Cache-Control")

_ALWAYS: Final = ("malformed", "unauthenticated", "rate_limited", "internal", "overloaded")
_DESK: Final = " A `pos` key that is bound to a store needs the right `desk`."
_ANY_SEGMENT: Final = re.compile(r"{(\w+)}")  # aiohttp's own parameters match no braces

Place = Literal["path", "query", "header"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; `schema` is JSON Schema and carries the example."""

    name: str
    place: Place
    description: str
    schema: dict[str, Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: what it takes, what it answers, who may use it, and the problem codes of its own.

    Every path parameter must be among `parameters`. Codes of `_ALWAYS`, and `forbidden` where some may not,
    need not be named. `idempotent` asks for the Idempotency-Key header, `desk` for that right where
    a key is bound to a store. `rank` tells when it is shed.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    operation_id: str
    summary: str
    answer_model: type[BaseModel] | None
    description: str = ""
    roles: tuple[Role, ...] = EVERYONE
    request_model: type[BaseModel] | None = None
    status: int = 200
    problems: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    answer_headers: tuple[str, ...] = ()
    answer_type: str = "application/json"
    idempotent: bool = False
    takes_ticket: bool = False
    desk: bool = False
    tag: str = "members"
    rank: Rank = Rank.READ


@dataclass(frozen=True, slots=True)
class About:
    """The head of a document."""

    title: str
    description: str
    version: str = "1"


def add_operations(
    app: web.Application, operations: Iterable[Operation], handlers: Mapping[str, Handler], *, about: About
) -> None:
    """Register a route for every operation and `/openapi.json`; handlers go by operation id, exactly one for each."""
    listed = tuple(operations)
    unmatched = {operation.operation_id for operation in listed} ^ set(handlers)
    if unmatched:
        raise ValueError(f"operations and handlers differ: {sorted(unmatched)}")
    for operation in listed:
        handler, path = handlers[operation.operation_id], _ANY_SEGMENT.sub(r"{\1:[^/]+}", operation.path)
        add_route(app, operation.method, path, handler, guard=_guard_of(operation))
    written: list[tuple[bytes, bytes]] = []

    async def write() -> None:
        document = await asyncio.to_thread(lambda: orjson.dumps(describe(listed, about)))
        written.append((document, gzip.compress(document, LEVEL, mtime=0)))

    once = Together(write)

    async def answer_document(request: web.Request) -> web.Response:
        if not written:  # when it is first asked for: who describes touches pages that forked nodes share
            await once.result()
        document, packed = written[0]
        if takes_gzip(request.headers.get("Accept-Encoding", "")):  # packed for each, strangers could keep a node busy
            headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
            return web.Response(body=packed, content_type="application/json", headers=headers)
        return web.Response(body=document, content_type="application/json")

    add_route(app, "GET", "/openapi.json", answer_document, guard=OPEN)
    add_docs(app, about.title)


def describe(operations: Iterable[Operation], about: About) -> dict[str, Any]:
    """Write the OpenAPI 3.1 document of some operations."""
    listed = tuple(operations)
    wanted: list[tuple[type[BaseModel], Mode]] = [(ProblemDocument, "serialization")]
    for operation in listed:
        if body := _described_body(operation):
            wanted.append((body, "validation"))
        if operation.answer_model:
            wanted.append((operation.answer_model, "serialization"))
    references, schemas = schemas_of(wanted)
    paths: dict[str, dict[str, Any]] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, references, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": about.title, "version": about.version, "description": about.description} | _INFO,
        "servers": [{"url": "/", "description": "Any node of any region takes any member's request."}],
        "tags": [{"name": tag, "description": _TAGS[tag]} for tag in dict.fromkeys(one.tag for one in listed)],
        "paths": paths,
        "components": {"schemas": schemas, "headers": _used_headers(listed), "securitySchemes": _used_security(listed)},
    }


class MalformedField(BaseModel):
    """One thing wrong with the input."""

    pointer: str
    detail: str


class ProblemDocument(BaseModel):
    """RFC 9457. Decide by `code` (stable) and `retryable`, show `title` or `detail` to people."""

    type: str
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    code: Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(PROBLEMS)})]
    retryable: bool
    request_id: str
    errors: list[MalformedField] = []


def _guard_of(operation: Operation) -> Guard:
    return Guard(
        roles=frozenset(operation.roles),
        desk=operation.desk,
        query=frozenset(parameter.name for parameter in operation.parameters if parameter.place == "query"),
        takes_body=operation.method != "GET",
        places=STREAMS if operation.answer_type == "text/event-stream" else UNDER_WAY,
        identify=holder_of if operation.takes_ticket else None,
        rank=operation.rank,
    )


def _operation(operation: Operation, references: Mapping[Any, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    described = f"{operation.description}\n\n" if operation.description else ""
    document: dict[str, Any] = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "description": f"{described}Roles: {', '.join(operation.roles)}.{_DESK if operation.desk else ''}",
        "tags": [operation.tag],
        "security": _security(operation),
        "parameters": [_parameter(parameter) for parameter in _parameters(operation)],
        "responses": _responses(operation, references, schemas),
    }
    if body := _described_body(operation):
        content = {"application/json": _content(references[body, "validation"], schemas)}
        document["requestBody"] = {"required": not _may_be_absent(body), "content": content}
    return document


def _described_body(operation: Operation) -> type[BaseModel] | None:
    """The body; that of a DELETE may come and means nothing."""
    return None if operation.method == "DELETE" else operation.request_model


def _may_be_absent(model: type[BaseModel]) -> bool:
    """Whether no body is a body: nothing in it is required."""
    try:
        model.model_validate({})
    except ValidationError:
        return False
    return True


def _used_security(operations: Iterable[Operation]) -> dict[str, Any]:
    used = {name for operation in operations for scheme in _security(operation) for name in scheme}
    return {name: scheme for name, scheme in _SECURITY.items() if name in used}


def _used_headers(operations: Iterable[Operation]) -> dict[str, Any]:
    used = {"Retry-After"}.union(*(_headers(operation) for operation in operations))
    return {name: header for name, header in _HEADERS.items() if name in used}


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    staff = [{"apiKey": []}] if set(operation.roles) - {"member"} else []
    member = [{"memberToken": []}] if "member" in operation.roles else []
    ticket: list[dict[str, list[str]]] = [{"ticket": []}] if operation.takes_ticket else []
    return [*staff, *member, *ticket]


def _parameters(operation: Operation) -> Iterable[Parameter]:
    yield from operation.parameters
    if operation.idempotent:
        example = f"berlin-mitte-7-{operation.operation_id}"  # one each: two commands under one key are refused
        yield replace(IDEMPOTENCY_KEY, schema=IDEMPOTENCY_KEY.schema | {"examples": [example]})


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required or parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _responses(operation: Operation, references: Mapping[Any, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _headers(operation)}
    done: dict[str, Any] = {"description": operation.summary, "headers": headers}
    if operation.answer_model:
        reference = references[operation.answer_model, "serialization"]
        done["content"] = {operation.answer_type: _content(reference, schemas)}
    elif operation.answer_type != "application/json":
        done["content"] = {operation.answer_type: {"schema": {"type": "string"}}}
    responses: dict[str, Any] = {str(operation.status): done}
    if "ETag" in operation.answer_headers:
        responses["304"] = {"description": "Unchanged since the ETag in If-None-Match", "headers": headers}
    return responses | _problem_responses(operation)


def _headers(operation: Operation) -> Iterable[str]:
    return ("Request-Id", "Loyalty-Region", *operation.answer_headers)


def _problem_responses(operation: Operation) -> dict[str, Any]:
    own = ("forbidden",) if operation.desk or set(EVERYONE) - set(operation.roles) else ()
    codes_by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*_ALWAYS, *own, *operation.problems)):
        codes_by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {str(status): _problem_response(codes_by_status[status]) for status in sorted(codes_by_status)}


def _problem_response(codes: list[str]) -> dict[str, Any]:
    lines = [
        f"- `{code}`: {PROBLEMS[code].title}{' (retryable)' if PROBLEMS[code].retryable else ''}" for code in codes
    ]
    names = ["Request-Id", "Loyalty-Region", *(["Retry-After"] if PROBLEMS[codes[0]].retry_after_s else [])]
    return {
        "description": "\n".join(lines),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                "examples": {code: {"value": _problem_example(code)} for code in codes},
            }
        },
    }


def _problem_example(code: str) -> dict[str, Any]:
    problem = PROBLEMS[code]
    return {
        "type": f"urn:loyalty:problem:{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": code,
        "retryable": problem.retryable,
        "request_id": "5f2c9a1e0b7d4c38",
    }


def _content(reference: Any, schemas: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": reference}
    model = reference.get("$ref", "").rpartition("/")[2]
    examples = schemas.get(model, {}).get("examples")
    return content | {"example": examples[0]} if examples else content


IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "Names this attempt: 1-255 visible ASCII characters, bare or quoted. Send the same key with the same body again "
    "after a timeout or a 503; the command takes effect once.",
    {"type": "string", "pattern": KEY},
    required=True,
)


def _header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", "examples": [example]}}


_HEADERS: Final = {
    "Request-Id": _header("Names this request in our logs: quote it when you ask us.", "5f2c9a1e0b7d4c38"),
    "Loyalty-Region": _header("The region that did the work.", "eu"),
    "Loyalty-Source": _header("Where the answer came from: `cache`, `replica` or `primary`.", "cache"),
    "ETag": _header("The version of what was answered; send it in If-None-Match.", 'W/"7"'),
    "Cache-Control": _header("`private, no-cache`: keep it, but ask again (with If-None-Match).", "private, no-cache"),
    "Consistency-Token": _header(
        "Send it with a query to see at least the state this command made.", "v1.08G0000000001X.7"
    ),
    "Idempotent-Replayed": _header(
        "`true` when this is the stored answer of an earlier request with this key.", "true"
    ),
    "Retry-After": _header("Seconds to wait before sending the same request again.", "1"),
}

_INFO: Final[dict[str, Any]] = {
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    "contact": {"name": "Whoever runs this node"},
}
_TAGS: Final = {
    "members": "Enrol members, change what they are found by, read and end memberships.",
    "purchases": "Baskets, what they earn and why, and goods that come back.",
    "points": "Points given, taken and handed on.",
    "holds": "Points set aside while a basket is being paid.",
    "rewards": "Rewards redeemed, handed out and given up.",
    "lookup": "Members behind cards, phone numbers and e-mail addresses.",
    "commands": "What became of a command.",
    "program": "Rewards, tiers and stores.",
    "system": "Regions, shards and servers, for those who tend them.",
}
_SECURITY: Final = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "loy_<id>_<secret>",
        "description": "A key of a till (`pos`, may be bound to one store), a `service` or an `admin`. Of a system on "
        "this machine: `loyalty key service`.",
    },
    "memberToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A member's own token (EdDSA; `sub` is the member id): sees that member only.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": PARAMETER,
        "description": "A ticket of `/v1/stream-tickets` instead of a token, where no header can be sent.",
    },
}
