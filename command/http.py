"""The commands over HTTP: a table of what each takes and asks, and the one driver that answers them all.

Body, store and time are checked, the member's home is found, what lives elsewhere is handed on, the
rest goes to its lane. Enrolments and changes of identifiers lease them first, redemptions may fetch
stock, and what leaves an errand wakes the courier.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Final, Generic

from aiohttp import web

from command.body import (
    AdjustmentBody,
    CancelBody,
    CaptureBody,
    EnrolBody,
    EraseBody,
    HoldBody,
    IdentifiersBody,
    RedemptionBody,
    ReturnBody,
    TransferBody,
    UseBody,
    VoidBody,
)
from command.envelope import Envelope
from command.node import Target
from command.record import identifiers_of
from command.request import COURIER, Body, CommandRequest, check_till, envelope_of, read_request, render
from rules.command import (
    AdjustPoints,
    CancelRedemption,
    CaptureHold,
    ChangeIdentifiers,
    CloseMember,
    Command,
    EnrolMember,
    PlaceHold,
    Receipt,
    RedeemReward,
    ReturnPurchase,
    SendTransfer,
    UseRedemption,
    VoidHold,
)
from rules.outcome import Reason
from service.basket import basket_command, named_holds
from service.body import PurchaseBody
from service.handed import is_forwarded
from service.identifier import forms_of
from service.web import PASS, Handler
from shard_router.card import new_card
from shard_router.directory import Identifier, new_attempt
from shard_router.errors import ProblemError, SlotGivenError, parse_or
from shard_router.member_id import SLOT_COUNT, format_member_id, parse_member_id, parse_reference, region_number_of

_CODE_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_CODE_LENGTH: Final = 10  # 50 bits: nobody guesses the code of somebody's reward
_CONCLUDE_S: Final = 1.0

MemberBody = PurchaseBody | AdjustmentBody | HoldBody | RedemptionBody
"""Bodies that name the member the command is for."""


async def answer_command(call: "Call[Body]", request: web.Request) -> web.Response:
    """Answer one command of whatever kind."""
    asked = read_request(request, call.body)
    check_till(asked)
    target, node = await call.target(asked), asked.node
    handed = await asked.pass_on(target)
    if isinstance(handed, web.Response):
        return handed
    with handed:
        request[PASS].enter(node.lanes_at(target.region, target.slot).gate)
        made = call.command(asked, target)
        command = await made if asyncio.iscoroutine(made) else made
        response = await call.run(asked, envelope_of(asked, target, command))
    if call.leaves_errand:
        request.app[COURIER].kick()
    return response


async def _at_once(asked: CommandRequest[Any], envelope: Envelope) -> web.Response:
    return render(await asked.node.run(envelope))


async def _with_claims(asked: CommandRequest[EnrolBody | IdentifiersBody], envelope: Envelope) -> web.Response:
    """Lease what the member is to be found by, run the command, and hold what the member has then."""
    claims, (identifiers, member_id) = asked.node.claims, _to_claim(envelope)
    in_time = partial(asked.node.in_time, deadline=asked.deadline)
    attempt = new_attempt()
    taken = await claims.lease(identifiers, member_id, attempt=attempt, deadline=asked.deadline)
    taken += await in_time(claims.stored_before(asked.body.as_sent, member_id))
    if taken and isinstance(envelope.command, EnrolMember) and not is_forwarded(asked.request):
        # The same key may have made that member from a node of its region: there it gets its first answer again.
        region = await in_time(claims.region_of_holder(taken[0]))
        if region not in (None, asked.node.region):
            await claims.conclude(identifiers, member_id, attempt=attempt, deadline=asked.deadline)
            return await asked.forward(region)
    came_back = await in_time(claims.came_back(identifiers))
    run = asked.node.enrol if isinstance(envelope.command, EnrolMember) else asked.node.run
    try:
        answer = await run(replace(envelope, taken=tuple(kind for kind, _ in taken), came_back=came_back))
    except SlotGivenError:  # whoever sends it again is another newcomer, who needs these leases
        await claims.conclude(identifiers, member_id, attempt=attempt, deadline=time.monotonic() + _CONCLUDE_S)
        raise
    await claims.conclude(identifiers, member_id, attempt=attempt, deadline=asked.deadline)
    return render(answer)


def _to_claim(envelope: Envelope) -> tuple[list[Identifier], int]:
    """What a command's member is to be found by, and who that is."""
    match envelope.command:
        case EnrolMember(member_id=member_id) as command:
            return identifiers_of(command), member_id
        case ChangeIdentifiers(add=add) if envelope.member_id is not None:
            return list(add), envelope.member_id
        case _:
            raise AssertionError(envelope.command)


async def _with_stock(asked: CommandRequest[RedemptionBody], envelope: Envelope) -> web.Response:
    """Run a redemption; a shard that runs out of a reward fetches stock from the others before it refuses."""
    node, reward, enough = asked.node, asked.body, True
    while enough:  # others may take what was fetched, until the stock or the time is up
        answer = await node.run(replace(envelope, not_final=Reason.OUT_OF_STOCK))
        if not answer.not_final:
            return render(answer)
        enough = await node.fetch_stock(
            reward.reward,
            shard=node.shard_at(envelope.region, envelope.slot),
            quantity=reward.quantity,
            deadline=asked.deadline,
        )
    return render(await node.run(envelope))


async def _with_receiver(asked: CommandRequest[TransferBody], envelope: Envelope) -> web.Response:
    """Run a transfer; the receiver is looked for only once nothing but that is missing.

    So neither answer nor time tells a sender without points, or one who guessed too often, who is a member.
    """
    answer = await asked.node.run(replace(envelope, not_final=Reason.MEMBER_NOT_FOUND))
    if answer.not_final and isinstance(envelope.command, SendTransfer):
        receiver = await asked.node.find_open(*asked.body.to.names, deadline=asked.deadline)
        answer = await asked.node.run(replace(envelope, command=replace(envelope.command, to=receiver)))
    return render(answer)


async def _named_member(asked: CommandRequest[MemberBody]) -> Target:
    return await asked.node.find(*asked.body.member.names, deadline=asked.deadline)


async def _new_member(asked: CommandRequest[EnrolBody]) -> Target:
    # The slot comes from the key, so a retry meets the same lane and the stored answer of the first attempt.
    drawn = int.from_bytes(blake2b(asked.key.encode(), digest_size=4).digest(), "big") % SLOT_COUNT
    return asked.node.home_of_new(asked.body.card, drawn)


async def _sender(asked: CommandRequest[TransferBody]) -> Target:
    """The sender; of a member's own token always that member, whoever is named: the home region tells if it is they."""
    own = asked.principal.member_id
    if own is not None:
        return parse_or("member_not_found", asked.node.home_of, own)
    return await asked.node.find(*asked.body.from_.names, deadline=asked.deadline)


def _in_path(asked: CommandRequest[Any]) -> str:
    """The one id that a path names."""
    (text,) = asked.heard.ids
    return text


async def _member_in_path(asked: CommandRequest[Any]) -> Target:
    """The member a path names; `member_not_found` for none, and for another one than a member's own."""
    member_id = parse_or("member_not_found", parse_member_id, _in_path(asked))
    if not asked.principal.may_see(member_id):
        raise ProblemError("member_not_found")
    return parse_or("member_not_found", asked.node.home_of, member_id)


def _entry_in_path(kind: str, missing: str) -> Callable[[CommandRequest[Any]], Awaitable[Target]]:
    """The member of an earlier entry that a path names, and that entry."""

    async def target(asked: CommandRequest[Any]) -> Target:
        reference = parse_or(missing, parse_reference, kind, _in_path(asked))
        home = parse_or(missing, asked.node.home_of, reference.member_id)
        return replace(home, reference=reference.version)

    return target


async def _enrolment(asked: CommandRequest[EnrolBody], target: Target) -> Command:
    body, member_id = asked.body, target.member_id
    assert member_id is not None
    referrer = await _referrer(asked, body.referred_by)
    profile = body.model_dump(mode="json", exclude_none=True, exclude={"store", "referred_by"})
    card = body.card or new_card(region_number_of(member_id), target.slot)
    return EnrolMember(
        member_id, card, asked.received_at, profile | {"card": card}, store=body.store, referrer=referrer
    )


def _purchase(asked: CommandRequest[PurchaseBody], target: Target) -> Command:
    body = asked.body
    holds = named_holds(body, target.member_id)
    return basket_command(body, holds, occurred_at=body.occurred_at, received_at=asked.received_at)


def _return(asked: CommandRequest[ReturnBody], target: Target) -> Command:
    body = asked.body
    receipt = Receipt(body.store, body.till, body.receipt)
    lines = tuple(line.line_returned() for line in body.lines)
    return ReturnPurchase(target.reference, receipt, lines, body.occurred_at, asked.received_at)


def _adjustment(asked: CommandRequest[AdjustmentBody], _target: Target) -> Command:
    body = asked.body
    return AdjustPoints(
        body.points, body.reason, asked.received_at, pending_until=body.pending_until, expires_at=body.expires_at
    )


def _hold(asked: CommandRequest[HoldBody], _target: Target) -> Command:
    body = asked.body
    return PlaceHold(body.points, body.expires_in_s, asked.received_at, store=body.store, till=body.till)


def _capture(asked: CommandRequest[CaptureBody], target: Target) -> Command:
    return CaptureHold(target.reference, asked.body.points, asked.received_at)


def _void(asked: CommandRequest[VoidBody], target: Target) -> Command:
    return VoidHold(target.reference, asked.received_at)


async def _transfer(asked: CommandRequest[TransferBody], _target: Target) -> Command:
    own = asked.principal.member_id
    if own is not None and not await _is_named(asked, own):
        raise ProblemError("member_not_found")
    return SendTransfer(None, asked.body.points, asked.received_at, by_member=own is not None)


async def _is_named(asked: CommandRequest[TransferBody], member_id: int) -> bool:
    """Whether `from` names a member. Only what that member has is looked at: the time taken tells of nobody else."""
    kind, text = asked.body.from_.names
    has = await asked.node.identifiers_of(member_id)
    if kind == "member_id":
        return text.upper() == format_member_id(member_id)
    return any((kind, form) in has for form in forms_of(kind, text))


def _redemption(asked: CommandRequest[RedemptionBody], _target: Target) -> Command:
    body = asked.body
    code = "".join(secrets.choice(_CODE_ALPHABET) for _ in range(_CODE_LENGTH))
    return RedeemReward(body.reward, body.quantity, code, asked.received_at, store=body.store)


def _use(asked: CommandRequest[UseBody], target: Target) -> Command:
    body = asked.body
    if asked.principal.role == "pos" and body.code is None:
        raise ProblemError("malformed", "/code: a till sends the code it was shown", [_CODE_MISSING])
    return UseRedemption(target.reference, body.store, asked.received_at, till=body.till, code=body.code)


def _cancellation(asked: CommandRequest[CancelBody], target: Target) -> Command:
    body = asked.body
    return CancelRedemption(target.reference, asked.received_at, store=body.store, till=body.till, code=body.code)


async def _identifiers(asked: CommandRequest[IdentifiersBody], target: Target) -> Command:
    body, node = asked.body, asked.node
    add = [one.canonical for one in body.add]
    for kind, value in add:
        # A card of our own form is found where it says, nowhere else.
        if kind == "card" and node.home_of_card(value) not in (None, (target.region, target.slot)):
            raise ProblemError("malformed", "this card belongs to another place", [_CARD_ELSEWHERE])
    if body.new_card:
        add.append(("card", new_card(node.number_of(target.region), target.slot)))
    remove = await _stored(asked, target, [one.names for one in body.remove])
    return ChangeIdentifiers(tuple(add), tuple(remove), asked.received_at)


async def _stored(asked: CommandRequest[Any], target: Target, names: list[Identifier]) -> list[Identifier]:
    """Identifiers as this member has them: canonical, or as a version before stored what was sent."""
    forms = [[(kind, form) for form in forms_of(kind, text)] for kind, text in names]
    assert target.member_id is not None
    older = any(len(one) > 1 for one in forms)
    has = await asked.node.identifiers_of(target.member_id) if older else set[Identifier]()
    return [next((form for form in one if form in has), one[0]) for one in forms]


def _erasure(asked: CommandRequest[EraseBody], _target: Target) -> Command:
    return CloseMember(asked.received_at)


async def _referrer(asked: CommandRequest[EnrolBody], referred_by: str | None) -> int | None:
    """The member whose word brought a newcomer: named by id or card; `member_not_found` when there is none."""
    if referred_by is None:
        return None
    kind = "card" if referred_by.isdigit() else "member_id"
    try:
        found = await asked.node.find(kind, referred_by, deadline=asked.deadline)
        return await asked.node.member_at(found, deadline=asked.deadline)
    except ProblemError as error:
        if error.code != "member_not_found":
            raise
        raise ProblemError("member_not_found", "no such referrer", [_REFERRER_WRONG]) from error


_CODE_MISSING: Final = {"pointer": "/code", "detail": "is missing"}
_CARD_ELSEWHERE: Final = {"pointer": "/add", "detail": "its number names another region or slot"}
_REFERRER_WRONG: Final = {"pointer": "/referred_by", "detail": "no member has this id or card"}


@dataclass(frozen=True, slots=True)
class Call(Generic[Body]):
    """One kind of command over HTTP.

    `target` finds whom it is for, `command` is asked in that member's region only, `run` takes it to the lane.
    """

    body: type[Body]
    target: Callable[[CommandRequest[Body]], Awaitable[Target]]
    command: Callable[[CommandRequest[Body], Target], Command | Coroutine[Any, Any, Command]]
    run: Callable[[CommandRequest[Body], Envelope], Awaitable[web.Response]] = _at_once
    leaves_errand: bool = False


_PURCHASE: Final = _entry_in_path("pur", "purchase_not_found")
_HOLD: Final = _entry_in_path("hld", "hold_not_found")
_REDEMPTION: Final = _entry_in_path("red", "not_found")

CALLS: Final[Mapping[str, Call[Any]]] = {
    "enrol_member": Call(EnrolBody, _new_member, _enrolment, run=_with_claims),
    "change_identifiers": Call(IdentifiersBody, _member_in_path, _identifiers, run=_with_claims, leaves_errand=True),
    "erase_member": Call(EraseBody, _member_in_path, _erasure, leaves_errand=True),
    "record_purchase": Call(PurchaseBody, _named_member, _purchase),
    "return_purchase": Call(ReturnBody, _PURCHASE, _return),
    "adjust_points": Call(AdjustmentBody, _named_member, _adjustment),
    "place_hold": Call(HoldBody, _named_member, _hold),
    "capture_hold": Call(CaptureBody, _HOLD, _capture),
    "void_hold": Call(VoidBody, _HOLD, _void),
    "send_transfer": Call(TransferBody, _sender, _transfer, run=_with_receiver, leaves_errand=True),
    "redeem_reward": Call(RedemptionBody, _named_member, _redemption, run=_with_stock),
    "use_redemption": Call(UseBody, _REDEMPTION, _use),
    "cancel_redemption": Call(CancelBody, _REDEMPTION, _cancellation),
}
"""By operation id."""

HANDLERS: Final[Mapping[str, Handler]] = {name: partial(answer_command, call) for name, call in CALLS.items()}
