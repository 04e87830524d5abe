"""From a request to an envelope: key, credential, body, the member's home, and the way back with the answer."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Generic, TypeVar

from aiohttp import web
from pydantic import BaseModel

from command.courier import Courier
from command.envelope import Answer, Envelope, ReceiptKey
from command.fingerprint import Content, read_content
from command.node import CommandNode, Target
from rules.command import Command, RecordPurchase, ReturnPurchase
from rules.value import value
from service.body import PurchaseBody
from service.credential import Principal
from service.handed import deadline_of, has_left
from service.idempotency import parse_key, stored_key
from service.parse import parse_body
from service.payload import BODY
from service.problem import PROBLEM, REQUEST_ID, malformed_parameter
from service.settings import SETTINGS
from service.trial import NOT_ASKED, Unanswered
from service.web import PASS, PRINCIPAL, render_json
from shard_router.errors import ProblemError
from shard_router.member_id import canonical_id, parse_reference
from shard_router.token import TOKEN_HEADER, format_token

NODE: Final = web.AppKey("node", CommandNode)
COURIER: Final = web.AppKey("courier", Courier)

PAST_MAX: Final = timedelta(days=35)
"""How late an offline till may still send a purchase."""
FUTURE_MAX: Final = timedelta(minutes=10)
"""How wrong a till's clock may be."""


Body_co = TypeVar("Body_co", bound=BaseModel, covariant=True)
Body = TypeVar("Body", bound=BaseModel)


@value
class Heard:
    """What is known of a request beside its body: `ids` are those in its path, `is_left`: whoever asked has gone.

    `request` is the whole of it; None where the quick way has heard it (see quick.py), which hands nothing on.
    """

    method: str
    path: str
    request_id: str
    is_left: Callable[[], bool]
    ids: Sequence[str] = ()
    request: web.Request | None = None


@value
class CommandRequest(Generic[Body_co]):
    """A validated request: who asks which node for what, under which key (see stored_key), until when."""

    heard: Heard
    principal: Principal
    body: Body_co
    raw: bytes
    key: str
    deadline: float
    received_at: datetime
    node: CommandNode

    @property
    def request(self) -> web.Request:
        """The request as aiohttp has it."""
        assert self.heard.request is not None
        return self.heard.request

    async def forward(self, region: str) -> web.Response:
        """The answer of another region, by any of its nodes (see Forwarder)."""
        return await self.node.forwarder.forward(self.request, region, deadline=self.deadline, body=self.raw)

    async def pass_on(self, target: Target) -> web.Response | Unanswered:
        """The answer of the node that a target is for, or that this node is to serve it (see Forwarder)."""
        node, forwarder = self.node, self.node.forwarder
        if tried := self.request[PASS].tried:
            return tried.unanswered
        if target.region == node.region:
            if node.serves_slot(target.slot):
                return NOT_ASKED
            return await forwarder.hand_over(self.request, target.slot, deadline=self.deadline, body=self.raw)
        return await forwarder.forward_or_serve(
            self.request, target.region, slot=target.slot, deadline=self.deadline, body=self.raw
        )


def read_request(request: web.Request, model: type[Body]) -> CommandRequest[Body]:
    """Check key and body of a request."""
    app, principal, raw = request.app, request[PRINCIPAL], request[BODY]
    key = read_key(principal, request.headers.getall("Idempotency-Key", []))
    node = app[NODE]
    deadline = deadline_of(request, deadline_ms=app[SETTINGS].deadline_ms)
    ids = tuple(request.match_info.values())
    heard = Heard(request.method, request.path, request[REQUEST_ID], partial(has_left, request), ids, request)
    return CommandRequest(heard, principal, parse_body(model, raw or b"{}"), raw, key, deadline, node.now(), node)


def envelope_of(asked: CommandRequest[BaseModel], target: Target, command: Command) -> Envelope:
    """Put a command in its envelope."""
    heard, content = asked.heard, read_content(asked.body, asked.raw)
    return Envelope(
        command=command,
        region=target.region,
        slot=target.slot,
        deadline=asked.deadline,
        request_id=heard.request_id,
        credential=asked.principal.credential,
        key=asked.key,
        fingerprint=content.under_key(f"{heard.method} {_canonical_path(heard)}", f"{heard.method} {heard.path}"),
        member_id=target.member_id,
        identifier=target.identifier,
        reference=target.reference or None,
        receipt=_receipt_key(asked, target, command, content),
        holds_of=_holds_of(asked.body),
        store=asked.principal.store,
        is_left=heard.is_left,
    )


def render(answer: Answer) -> web.Response:
    """Render an answer with its headers."""
    response = render_json(answer.body, status=answer.status, headers=headers_of(answer))
    if answer.is_refusal:
        response.content_type = PROBLEM
    return response


def headers_of(answer: Answer) -> dict[str, str]:
    """What the head of an answer tells."""
    headers: dict[str, str] = {}
    if answer.member_id is not None and answer.version is not None:
        headers[TOKEN_HEADER] = format_token(answer.member_id, answer.version)
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    if answer.retry_after_s is not None:
        headers["Retry-After"] = str(answer.retry_after_s)
    return headers


def _holds_of(body: BaseModel) -> int | None:
    """The member whose holds a basket names."""
    holds = body.capture_holds if isinstance(body, PurchaseBody) else ()
    return parse_reference("hld", holds[0]).member_id if holds else None


def _receipt_key(
    asked: CommandRequest[BaseModel], target: Target, command: Command, content: Content
) -> ReceiptKey | None:
    """The natural key of a till's document; one slip may return goods of several purchases, so that is part of it."""
    match command:
        case RecordPurchase(receipt=receipt):
            kind, subject, paths = "purchase", "", ("", "")
        case ReturnPurchase(receipt=receipt, purchase=purchase):
            kind, subject = "return", f"{target.member_id}-{purchase}"
            paths = (_canonical_path(asked.heard), asked.heard.path)
        case _:
            return None
    fingerprint = content.under_receipt(*paths)
    return ReceiptKey(
        receipt.store, receipt.till, receipt.receipt, kind, fingerprint, subject, occurred_at=command.occurred_at
    )


def _canonical_path(heard: Heard) -> str:
    path = heard.path
    for entity_id in heard.ids:
        path = path.replace(entity_id, canonical_id(entity_id))
    return path


def read_key(principal: Principal, given: Sequence[str]) -> str:
    """The key under which a principal's answer is stored, of the Idempotency-Key headers that were sent."""
    if not given:
        raise ProblemError("idempotency_key_missing", "send Idempotency-Key: 1-255 visible ASCII characters")
    key = parse_key(given[0].strip())
    if key is None or len(given) > 1:
        raise malformed_parameter("Idempotency-Key", "one key of 1-255 visible ASCII characters, bare or quoted")
    return stored_key(principal, key)


def check_till(asked: CommandRequest[BaseModel]) -> None:
    """Check what a till may say: `forbidden` for another store than its key's, `malformed` for a time nobody means."""
    bound = asked.principal.store
    if bound is not None and (store := getattr(asked.body, "store", bound)) != bound:
        detail = f"this key acts for store {bound} alone" + ("" if store else ": name it as `store`")
        raise ProblemError("forbidden", detail, [{"pointer": "/store", "detail": f"write {bound!r}"}])
    occurred_at: datetime | None = getattr(asked.body, "occurred_at", None)
    if occurred_at is not None:
        _check_time(asked, occurred_at)


def _check_time(asked: CommandRequest[BaseModel], occurred_at: datetime) -> None:
    late = asked.principal.role == "pos" and asked.received_at - occurred_at > PAST_MAX
    if late or occurred_at - asked.received_at > FUTURE_MAX:
        for clock in asked.node.clocks().values():
            clock.ahead()  # a node whose own clock is off may not call a till's wrong
        detail = f"a till may be {PAST_MAX.days} days late and {FUTURE_MAX.seconds // 60} minutes ahead"
        raise ProblemError("malformed", detail, [{"pointer": "/occurred_at", "detail": detail}])
