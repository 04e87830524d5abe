"""The commands over HTTP: validate, name the member, forward what lives elsewhere, hand the rest to its lane."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

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
from command.node import CommandNode, Target
from command.record import identifiers_of
from command.request import (
    COURIER,
    NODE,
    CommandRequest,
    check_till,
    check_time,
    envelope_of,
    read_request,
    render,
    run,
    run_for,
    run_on,
)
from rules.command import (
    AdjustPoints,
    CancelRedemption,
    CaptureHold,
    ChangeIdentifiers,
    CloseMember,
    Command,
    EnrolMember,
    Line,
    PlaceHold,
    Receipt,
    RecordPurchase,
    RedeemReward,
    ReturnPurchase,
    SendTransfer,
    UseRedemption,
    VoidHold,
)
from service.body import PurchaseBody
from service.forward import FORWARDED_HEADER
from service.web import PRINCIPAL
from shard_router.card import new_card
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import SLOT_COUNT, Reference, new_member_id, parse_member_id, parse_reference

_CODE_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_CODE_LENGTH: Final = 10  # 50 bits: nobody guesses the code of somebody's reward


async def enrol_member(request: web.Request) -> web.Response:
    """POST /v1/members."""
    asked = await read_request(request, EnrolBody)
    body: EnrolBody = asked.body
    check_till(asked, body.store)
    node = request.app[NODE]
    # The slot comes from the key, so a retry meets the same lane and the stored answer of the first attempt.
    drawn = int.from_bytes(blake2b(asked.key.encode(), digest_size=4).digest(), "big") % SLOT_COUNT
    target = node.home_of_new(body.card, drawn)
    if target.region != node.region:
        return await node.forward(request, target.region, deadline=asked.deadline, body=asked.raw)
    number = node.region_number
    referrer = await _referrer(asked, body.referred_by)
    profile = body.model_dump(mode="json", exclude_none=True, exclude={"store", "referred_by"})
    member_id = new_member_id(number, target.slot)
    card = body.card or new_card(number, target.slot)
    command = EnrolMember(
        member_id, card, asked.received_at, profile | {"card": card}, store=body.store, referrer=referrer
    )
    identifiers = identifiers_of(command)
    taken = await node.claim(identifiers, member_id, deadline=asked.deadline)
    if taken and FORWARDED_HEADER not in request.headers:
        # The same key may have made that member from a node of his region: there it gets its first answer again.
        region = await node.region_of_holder(taken[0])
        if region != node.region:
            await node.conclude_claim(identifiers, member_id, created=False, deadline=asked.deadline)
            return await node.forward(request, region, deadline=asked.deadline, body=asked.raw)
    home = Target(target.region, target.slot, member_id=member_id)
    envelope = replace(envelope_of(asked, home, command), taken=tuple(kind for kind, _ in taken))
    answer = await node.lanes_at(target.slot).run(envelope)
    # Without an answer nobody knows: then the lease stays, and whoever comes after it asks the home shard.
    created = answer.member_id == member_id
    await node.conclude_claim(identifiers, member_id, created=created, deadline=asked.deadline)
    return render(answer)


async def record_purchase(request: web.Request) -> web.Response:
    """POST /v1/purchases."""
    asked = await read_request(request, PurchaseBody)
    body: PurchaseBody = asked.body
    check_till(asked, body.store)
    check_time(asked, body.occurred_at)
    receipt = Receipt(body.store, body.till, body.receipt)
    target = await request.app[NODE].find(*body.member.names)
    holds = _holds_of(target, body.capture_holds)
    lines = tuple(Line(line.sku, line.quantity, line.amount, line.category) for line in body.lines)
    command = RecordPurchase(
        receipt,
        body.currency,
        lines,
        body.occurred_at,
        asked.received_at,
        capture_holds=tuple(hold.version for hold in holds),
        coupons=tuple(body.coupons),
        pay_with_points=body.pay_with_points,
    )
    holds_of = holds[0].member_id if holds else None
    return await run(asked, target, command, receipt_kind="purchase", holds_of=holds_of)


async def return_purchase(request: web.Request) -> web.Response:
    """POST /v1/purchases/{purchase_id}/returns."""
    asked = await read_request(request, ReturnBody)
    body: ReturnBody = asked.body
    check_till(asked, body.store)
    check_time(asked, body.occurred_at)
    lines = tuple(line.line_returned() for line in body.lines)

    def command(version: int) -> Command:
        receipt = Receipt(body.store, body.till, body.receipt)
        return ReturnPurchase(version, receipt, lines, body.occurred_at, asked.received_at)

    return await run_on(asked, "pur", command, receipt_kind="return")


async def adjust_points(request: web.Request) -> web.Response:
    """POST /v1/adjustments."""
    asked = await read_request(request, AdjustmentBody)
    body: AdjustmentBody = asked.body
    command = AdjustPoints(
        body.points, body.reason, asked.received_at, pending_until=body.pending_until, expires_at=body.expires_at
    )
    return await run_for(asked, body.member, command)


async def place_hold(request: web.Request) -> web.Response:
    """POST /v1/holds."""
    asked = await read_request(request, HoldBody)
    body: HoldBody = asked.body
    check_till(asked, body.store)
    command = PlaceHold(body.points, body.expires_in_s, asked.received_at, store=body.store, till=body.till)
    return await run_for(asked, body.member, command)


async def capture_hold(request: web.Request) -> web.Response:
    """POST /v1/holds/{hold_id}/capture."""
    asked = await read_request(request, CaptureBody)
    return await run_on(asked, "hld", lambda version: CaptureHold(version, asked.body.points, asked.received_at))


async def void_hold(request: web.Request) -> web.Response:
    """POST /v1/holds/{hold_id}/void."""
    asked = await read_request(request, VoidBody)
    return await run_on(asked, "hld", lambda version: VoidHold(version, asked.received_at))


async def send_transfer(request: web.Request) -> web.Response:
    """POST /v1/transfers."""
    asked = await read_request(request, TransferBody)
    body: TransferBody = asked.body
    node = request.app[NODE]
    target = await node.find(*body.from_.names)
    if target.region != node.region:
        return await node.forward(request, target.region, deadline=asked.deadline, body=asked.raw)
    own = asked.principal.member_id
    if own is not None and await node.member_at(target) != own:
        raise ProblemError("member_not_found")
    receiver = await node.member_at(await node.find(*body.to.names))
    response = await run(asked, target, SendTransfer(receiver, body.points, asked.received_at))
    request.app[COURIER].kick()
    return response


async def redeem_reward(request: web.Request) -> web.Response:
    """POST /v1/redemptions. A shard that runs out of a reward fetches stock from the others before it refuses."""
    asked = await read_request(request, RedemptionBody)
    body: RedemptionBody = asked.body
    check_till(asked, body.store)
    node = request.app[NODE]
    target = await node.find(*body.member.names)
    if target.region != node.region:
        return await node.forward(request, target.region, deadline=asked.deadline, body=asked.raw)
    code = "".join(secrets.choice(_CODE_ALPHABET) for _ in range(_CODE_LENGTH))
    command = RedeemReward(body.reward, body.quantity, code, asked.received_at, store=body.store)
    envelope = envelope_of(asked, target, command)
    lanes, enough = node.lanes_at(target.slot), True
    while enough:  # others may take what was fetched, until the stock or the time is up
        answer = await lanes.run(replace(envelope, may_fetch_stock=True))
        if not answer.not_final:
            return render(answer)
        enough = await node.fetch_stock(body.reward, slot=target.slot, quantity=body.quantity, deadline=asked.deadline)
    return render(await lanes.run(envelope))


async def use_redemption(request: web.Request) -> web.Response:
    """POST /v1/redemptions/{id}/use."""
    asked = await read_request(request, UseBody)
    body: UseBody = asked.body
    check_till(asked, body.store)
    return await run_on(
        asked, "red", lambda version: UseRedemption(version, body.store, asked.received_at, till=body.till)
    )


async def cancel_redemption(request: web.Request) -> web.Response:
    """POST /v1/redemptions/{id}/cancel."""
    asked = await read_request(request, CancelBody)
    body: CancelBody = asked.body
    check_till(asked, body.store)
    return await run_on(
        asked,
        "red",
        lambda version: CancelRedemption(version, asked.received_at, store=body.store, till=body.till),
    )


async def change_identifiers(request: web.Request) -> web.Response:
    """POST /v1/members/{id}/identifiers."""
    asked = await read_request(request, IdentifiersBody)
    body: IdentifiersBody = asked.body
    node, member_id, target = _member_in_path(request)
    if target.region != node.region:
        return await node.forward(request, target.region, deadline=asked.deadline, body=asked.raw)
    add = [one.names for one in body.add]
    for kind, value in add:
        if kind == "card" and node.is_foreign_card(value, target):
            raise ProblemError("malformed", "this card belongs to another place", [_CARD_ELSEWHERE])
    if body.new_card:
        add.append(("card", new_card(node.region_number, target.slot)))
    remove = [one.names for one in body.remove]
    taken = await node.claim(add, member_id, deadline=asked.deadline)
    command = ChangeIdentifiers(tuple(add), tuple(remove), asked.received_at)
    envelope = replace(envelope_of(asked, target, command), taken=tuple(kind for kind, _ in taken))
    answer = await node.lanes_at(target.slot).run(envelope)
    await node.conclude_change(add, member_id, deadline=asked.deadline)
    request.app[COURIER].kick()
    return render(answer)


async def erase_member(request: web.Request) -> web.Response:
    """DELETE /v1/members/{id}."""
    asked = await read_request(request, EraseBody)
    node, _, target = _member_in_path(request)
    if target.region != node.region:
        return await node.forward(request, target.region, deadline=asked.deadline, body=asked.raw)
    answer = await node.lanes_at(target.slot).run(envelope_of(asked, target, CloseMember(asked.received_at)))
    request.app[COURIER].kick()
    return render(answer)


HANDLERS: Final[Mapping[str, Callable[[web.Request], Any]]] = {
    handler.__name__: handler
    for handler in (
        enrol_member,
        change_identifiers,
        erase_member,
        record_purchase,
        return_purchase,
        adjust_points,
        place_hold,
        capture_hold,
        void_hold,
        send_transfer,
        redeem_reward,
        use_redemption,
        cancel_redemption,
    )
}


def _member_in_path(request: web.Request) -> tuple[CommandNode, int, Target]:
    """The member a path names and his home; `member_not_found` for none, and for another one than a member's own."""
    node = request.app[NODE]
    try:
        member_id = parse_member_id(request.match_info["id"])
        target = node.home_of(member_id)
    except MalformedIdError as error:
        raise ProblemError("member_not_found") from error
    if not request[PRINCIPAL].may_see(member_id):
        raise ProblemError("member_not_found")
    return node, member_id, target


def _holds_of(target: Target, hold_ids: Sequence[str]) -> list[Reference]:
    """The holds a body names, all of the buyer; `hold_not_found` for any other."""
    try:
        holds = [parse_reference("hld", hold_id) for hold_id in hold_ids]
    except MalformedIdError as error:
        raise ProblemError("hold_not_found") from error
    owners = {hold.member_id for hold in holds} | ({target.member_id} if target.member_id is not None else set())
    if holds and len(owners) > 1:
        raise ProblemError("hold_not_found")
    return holds


async def _referrer(asked: CommandRequest, referred_by: str | None) -> int | None:
    """The member whose word brought a newcomer: named by his id or his card; `member_not_found` when there is none."""
    if referred_by is None:
        return None
    node = asked.request.app[NODE]
    kind = "card" if referred_by.isdigit() else "member_id"
    try:
        return await node.member_at(await node.find(kind, referred_by))
    except ProblemError as error:
        if error.code != "member_not_found":
            raise
        raise ProblemError("member_not_found", "no such referrer", [_REFERRER_WRONG]) from error


_CARD_ELSEWHERE: Final = {"pointer": "/add", "detail": "its number names another region or slot"}
_REFERRER_WRONG: Final = {"pointer": "/referred_by", "detail": "no member has this id or card"}
