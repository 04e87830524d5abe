"""The commands over HTTP: validate, name the member, forward what lives elsewhere, hand the rest to its lane."""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from command.batch import identifiers_of, now_utc
from command.body import (
    AdjustmentBody,
    CaptureBody,
    EnrolBody,
    HoldBody,
    MemberReference,
    PurchaseBody,
    ReturnBody,
    VoidBody,
    parse_body,
)
from command.envelope import Answer, Envelope, ReceiptKey
from command.router import CommandRouter, Target
from rules.command import (
    AdjustPoints,
    CaptureHold,
    Command,
    EnrolMember,
    PlaceHold,
    Receipt,
    RecordPurchase,
    ReturnPurchase,
    VoidHold,
)
from shard_router.card import new_card
from shard_router.credential import Principal
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.forward import deadline_of
from shard_router.member_id import SLOT_COUNT, new_member_id, parse_reference
from shard_router.token import TOKEN_HEADER, format_token
from shard_router.web import PRINCIPAL, REQUEST_ID, SETTINGS, read_body, render_json

ROUTER: Final = web.AppKey("router", CommandRouter)

PAST_MAX: Final = timedelta(days=35)
"""How late an offline till may still send a purchase."""
FUTURE_MAX: Final = timedelta(minutes=10)
"""How wrong a till's clock may be."""

_KEY: Final = re.compile(r'^(?:"([\x21\x23-\x7e]{1,255})"|([\x21-\x7e]{1,255}))$')
_ADAPTERS: Final[dict[type[BaseModel], TypeAdapter[Any]]] = {
    model: TypeAdapter(model)
    for model in (EnrolBody, PurchaseBody, ReturnBody, AdjustmentBody, HoldBody, CaptureBody, VoidBody)
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A validated request: who asks for what, under which key, until when."""

    request: web.Request
    principal: Principal
    body: Any
    raw: bytes
    key: str
    deadline: float
    received_at: datetime

    @property
    def fingerprint(self) -> str:
        """What tells two bodies apart under one key: method, path and the validated body."""
        head = f"{self.request.method} {self.request.path}\n"
        return _fingerprint(head.encode() + self.body.model_dump_json(exclude_unset=True).encode())


async def enrol_member(request: web.Request) -> web.Response:
    """POST /v1/members."""
    asked = await _ask(request, EnrolBody)
    body: EnrolBody = asked.body
    router = request.app[ROUTER]
    # The slot comes from the key, so a retry meets the same lane and the stored answer of the first attempt.
    drawn = int.from_bytes(blake2b(asked.key.encode(), digest_size=4).digest(), "big") % SLOT_COUNT
    target = router.home_of_new(body.card, drawn)
    if target.region != router.region:
        return await router.forward(request, target.region, deadline=asked.deadline, body=asked.raw)
    number = router.region_number
    profile = body.model_dump(mode="json", exclude_none=True, exclude={"store"})
    member_id = new_member_id(number, target.slot)
    card = body.card or new_card(number, target.slot)
    command = EnrolMember(member_id, card, asked.received_at, profile | {"card": card}, store=body.store)
    identifiers = identifiers_of(command)
    taken = await router.claim(identifiers, member_id)
    home = Target(target.region, target.slot, member_id=member_id)
    envelope = replace(_envelope(asked, home, command), taken=tuple(taken))
    answer = await router.lanes_at(target.slot).run(envelope)
    # Without an answer nobody knows: then the lease stays, and whoever comes after it asks the home shard.
    await router.conclude_claim(identifiers, member_id, created=answer.member_id == member_id)
    return _render(answer)


async def record_purchase(request: web.Request) -> web.Response:
    """POST /v1/purchases."""
    asked = await _ask(request, PurchaseBody)
    body: PurchaseBody = asked.body
    _check_till(asked, body.store)
    _check_time(asked, body.occurred_at)
    receipt = Receipt(body.store, body.till, body.receipt)
    lines = tuple(line.line() for line in body.lines)
    command = RecordPurchase(receipt, body.currency, lines, body.occurred_at, asked.received_at)
    return await _run_for(asked, body.member, command, receipt_kind="purchase")


async def return_purchase(request: web.Request) -> web.Response:
    """POST /v1/purchases/{purchase_id}/returns."""
    asked = await _ask(request, ReturnBody)
    body: ReturnBody = asked.body
    _check_till(asked, body.store)
    _check_time(asked, body.occurred_at)
    lines = tuple(line.line_returned() for line in body.lines)

    def command(version: int) -> Command:
        receipt = Receipt(body.store, body.till, body.receipt)
        return ReturnPurchase(version, receipt, lines, body.occurred_at, asked.received_at)

    return await _run_on(asked, "pur", command, receipt_kind="return")


async def adjust_points(request: web.Request) -> web.Response:
    """POST /v1/adjustments."""
    asked = await _ask(request, AdjustmentBody)
    body: AdjustmentBody = asked.body
    command = AdjustPoints(
        body.points, body.reason, asked.received_at, pending_until=body.pending_until, expires_at=body.expires_at
    )
    return await _run_for(asked, body.member, command)


async def place_hold(request: web.Request) -> web.Response:
    """POST /v1/holds."""
    asked = await _ask(request, HoldBody)
    body: HoldBody = asked.body
    _check_till(asked, body.store)
    command = PlaceHold(body.points, body.expires_in_s, asked.received_at, store=body.store, till=body.till)
    return await _run_for(asked, body.member, command)


async def capture_hold(request: web.Request) -> web.Response:
    """POST /v1/holds/{hold_id}/capture."""
    asked = await _ask(request, CaptureBody)
    return await _run_on(asked, "hld", lambda version: CaptureHold(version, asked.body.points, asked.received_at))


async def void_hold(request: web.Request) -> web.Response:
    """POST /v1/holds/{hold_id}/void."""
    asked = await _ask(request, VoidBody)
    return await _run_on(asked, "hld", lambda version: VoidHold(version, asked.received_at))


HANDLERS: Final[Mapping[str, Callable[[web.Request], Any]]] = {
    handler.__name__: handler
    for handler in (
        enrol_member,
        record_purchase,
        return_purchase,
        adjust_points,
        place_hold,
        capture_hold,
        void_hold,
    )
}


async def _ask(request: web.Request, model: type[BaseModel]) -> Asked:
    key = _idempotency_key(request)
    raw = await read_body(request)
    return Asked(
        request,
        request[PRINCIPAL],
        parse_body(_ADAPTERS[model], raw or b"{}"),
        raw,
        key,
        deadline_of(request, deadline_ms=request.app[SETTINGS].deadline_ms),
        now_utc(),
    )


async def _run_for(
    asked: Asked, member: MemberReference, command: Command, receipt_kind: str | None = None
) -> web.Response:
    router = asked.request.app[ROUTER]
    target = await router.find(*(member.named or ("", "")))
    return await _run(asked, target, command, receipt_kind=receipt_kind)


async def _run_on(
    asked: Asked, kind: str, command: Callable[[int], Command], receipt_kind: str | None = None
) -> web.Response:
    """Run a command on what an earlier entry created: its id names member and entry."""
    missing = "purchase_not_found" if kind == "pur" else "hold_not_found"
    router = asked.request.app[ROUTER]
    try:
        reference = parse_reference(kind, asked.request.match_info["id"])
        target = router.home_of(reference.member_id)
    except MalformedIdError as error:
        raise ProblemError(missing) from error
    return await _run(asked, target, command(reference.version), reference=reference.version, receipt_kind=receipt_kind)


async def _run(
    asked: Asked, target: Target, command: Command, *, reference: int | None = None, receipt_kind: str | None = None
) -> web.Response:
    router = asked.request.app[ROUTER]
    if target.region != router.region:
        return await router.forward(asked.request, target.region, deadline=asked.deadline, body=asked.raw)
    envelope = _envelope(asked, target, command, reference=reference, receipt_kind=receipt_kind)
    return _render(await router.lanes_at(target.slot).run(envelope))


def _envelope(
    asked: Asked, target: Target, command: Command, *, reference: int | None = None, receipt_kind: str | None = None
) -> Envelope:
    return Envelope(
        command=command,
        slot=target.slot,
        deadline=asked.deadline,
        request_id=asked.request[REQUEST_ID],
        credential=asked.principal.credential,
        key=asked.key,
        fingerprint=asked.fingerprint,
        member_id=target.member_id,
        identifier=target.identifier,
        reference=reference,
        receipt=_receipt_key(asked, command, receipt_kind) if receipt_kind else None,
    )


def _render(answer: Answer) -> web.Response:
    headers: dict[str, str] = {}
    if answer.member_id is not None and answer.version is not None:
        headers[TOKEN_HEADER] = format_token(answer.member_id, answer.version)
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    response = render_json(answer.body, status=answer.status, headers=headers)
    if answer.status >= 400:  # noqa: PLR2004 - a stored refusal
        response.content_type = "application/problem+json"
    return response


def _receipt_key(asked: Asked, command: Command, kind: str) -> ReceiptKey | None:
    if not isinstance(command, RecordPurchase | ReturnPurchase):
        return None
    content = asked.body.model_dump_json(exclude={"member"}, exclude_unset=True)
    path = asked.request.path if kind == "return" else ""
    receipt = command.receipt
    business_date = asked.request.app[ROUTER].business_date(command.occurred_at)
    fingerprint = _fingerprint(f"{path}\n{content}".encode())
    return ReceiptKey(receipt.store, receipt.till, business_date, receipt.receipt, kind, fingerprint)


def _idempotency_key(request: web.Request) -> str:
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        raise ProblemError("idempotency_key_missing", "send Idempotency-Key: 1-255 visible ASCII characters")
    match = _KEY.match(given[0].strip())
    if match is None or len(given) > 1:
        raise ProblemError("malformed", "Idempotency-Key: one key of 1-255 visible ASCII characters, bare or quoted")
    return match[1] or match[2]


def _check_till(asked: Asked, store: str | None) -> None:
    bound = asked.principal.store
    if bound is not None and store is not None and store != bound:
        raise ProblemError("forbidden", f"this key belongs to store {bound}")


def _check_time(asked: Asked, occurred_at: datetime) -> None:
    late = asked.principal.role == "pos" and asked.received_at - occurred_at > PAST_MAX
    if late or occurred_at - asked.received_at > FUTURE_MAX:
        detail = f"a till may be {PAST_MAX.days} days late and {FUTURE_MAX.seconds // 60} minutes ahead"
        raise ProblemError("malformed", detail, [{"pointer": "/occurred_at", "detail": detail}])


def _fingerprint(content: bytes) -> str:
    """128 bits are enough to tell bodies of one key apart; nobody gains by forging his own."""
    return str(uuid.UUID(bytes=blake2b(content, digest_size=16).digest()))
