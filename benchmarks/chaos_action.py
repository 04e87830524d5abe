"""What a till of the campaign sends: every kind of command there is, on guests who come, buy and sometimes leave.

Each action books what must come of it. A guest is served for a while and then another: the program lets nobody earn
on more than fifty purchases of a day.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.chaos_client import BUCKETS, Customer, Till, points_of

ACTIONS_PER_GUEST: Final = 40
RECEIPT_AMOUNT: Final = 1000
BASE_POINTS: Final = RECEIPT_AMOUNT // 100
THANKS: Final = 200
"""What rules/main_street.toml gives who brought a newcomer; what the newcomer gets is posted with the purchase."""
NEWCOMER: Final = "referral"
BEYOND: Final = 10_000_000
OFTEN, SELDOM = 0.5, 0.3

Action = Callable[[Till], Awaitable[None]]


async def work(till: Till, stop: asyncio.Event) -> None:
    """Serve guests until told to stop; what was begun is finished."""
    reply = await till.insist("enrol", "/v1/members", {"name": till.name, "store": till.store})
    till.friend = Customer(reply["member_id"])
    till.log.balances[till.friend.member] = till.friend.books
    while not stop.is_set():
        await _welcome(till)
        for _ in range(ACTIONS_PER_GUEST):
            if stop.is_set():
                return
            await till.random.choice(ACTIONS)(till)
            await till.read()
        if till.random.random() < SELDOM:
            await _erase(till)


async def _welcome(till: Till) -> None:
    """A guest whom the till's friend has brought, found by a phone."""
    body = {"name": till.name, "store": till.store, "referred_by": till.friend.member}
    reply = await till.insist("enrol", "/v1/members", body | {"phone": _phone(till)})
    if "refused" in reply:  # somebody has that number
        reply = await till.insist("enrol", "/v1/members", body)
    account = reply["account"]
    till.guest = Customer(reply["member_id"], version=int(account["version"]))
    till.log.balances[till.guest.member] = till.guest.books


def _phone(till: Till) -> str:
    return f"+4930{till.random.randrange(1_000_000, 9_999_999)}"


def _named(till: Till) -> dict[str, str]:
    return {"member_id": till.guest.member}


def _basket(till: Till) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = {"sku": "a", "quantity": 1, "amount": RECEIPT_AMOUNT}
    receipt = f"{till.name}-r{till.number + 1}"
    return {
        "member": _named(till), "store": till.store, "till": "1", "receipt": receipt, "occurred_at": now,
        "currency": "EUR", "lines": [line],
    }  # fmt: skip


async def _buy(till: Till) -> None:
    """Buy; one of three baskets comes back."""
    body = _basket(till)
    reply = await till.insist("purchase", "/v1/purchases", body)
    (till.log.receipts if till.book(reply) else till.log.refused_receipts).add(body["receipt"])
    if "refused" in reply:
        return
    if points_of(reply, "base") != BASE_POINTS:
        till.log.diverges(f"{body['receipt']}: {points_of(reply, 'base')} base points, not {BASE_POINTS}")
    _thank(till, reply)
    if till.random.random() < SELDOM:
        back = {name: body[name] for name in ("store", "till", "occurred_at")}
        back |= {"receipt": body["receipt"] + "b", "lines": [{"line": 1, "quantity": 1}]}
        path = f"/v1/purchases/{reply['purchase_id']}/returns"
        returned = await till.insist("return", path, back)
        till.book(returned)
        _thank(till, returned)


def _thank(till: Till, reply: dict[str, Any]) -> None:
    """Who brought a newcomer is thanked when the newcomer is, and gives it back likewise."""
    newcomer = points_of(reply, NEWCOMER)
    till.friend.move({"available": THANKS if newcomer > 0 else -THANKS if newcomer < 0 else 0})


async def _pay_by_hold(till: Till) -> None:
    """A basket that captures a hold placed for it."""
    points = till.random.randint(1, 50)
    placed = await till.insist("hold", "/v1/holds", {"member": _named(till), "points": points, "expires_in_s": 3600})
    if not till.expect(placed, {"available": -points, "held": points}):
        return
    body: dict[str, Any] = _basket(till) | {"capture_holds": [placed["hold_id"]]}
    reply = await till.insist("purchase", "/v1/purchases", body)
    (till.log.receipts if till.book(reply) else till.log.refused_receipts).add(body["receipt"])
    _thank(till, reply)


async def _adjust(till: Till) -> None:
    points = till.random.choice((1, 1, 1, -1)) * till.random.randint(1, 400)
    reply = await till.insist(
        "adjustment", "/v1/adjustments", {"member": _named(till), "points": points, "reason": "goodwill"}
    )
    till.book(reply) if till.guest.books["debt"] else till.expect(reply, {"available": points})


async def _hold(till: Till) -> None:
    points = till.random.randint(1, 50)
    reply = await till.insist("hold", "/v1/holds", {"member": _named(till), "points": points, "expires_in_s": 3600})
    if not till.expect(reply, {"available": -points, "held": points}):
        return
    if till.random.random() < OFTEN:
        taken = till.random.randint(1, points)
        path = f"/v1/holds/{reply['hold_id']}/capture"
        till.expect(
            await till.insist("capture", path, {"points": taken}), {"held": -points, "available": points - taken}
        )
    else:
        path = f"/v1/holds/{reply['hold_id']}/void"
        till.expect(await till.insist("void", path, None), {"held": -points, "available": points})


async def _redeem(till: Till) -> None:
    reply = await till.insist("redemption", "/v1/redemptions", {"member": _named(till), "reward": "coffee"})
    points = int(reply.get("points", 0))
    if not till.expect(reply, {"available": -points}):
        return
    path = f"/v1/redemptions/{reply['redemption_id']}"
    if till.random.random() < OFTEN:
        till.expect(await till.insist("cancel", f"{path}/cancel", None), {"available": points})
    else:
        body = {"store": till.store, "code": reply["code"]}
        till.expect(await till.insist("use", f"{path}/use", body), {})


async def _give_away(till: Till) -> None:
    """Points to the friend: they are the friend's once the courier has been there."""
    points = till.random.randint(1, 30)
    body = {"from": _named(till), "to": {"member_id": till.friend.member}, "points": points}
    reply = await till.insist("transfer", "/v1/transfers", body)
    if "refused" in reply:
        return
    till.guest.sent += points
    till.expect(reply, {"available": -points})
    till.friend.move({"available": points})


async def _change_phone(till: Till) -> None:
    path = f"/v1/members/{till.guest.member}/identifiers"
    till.expect(await till.insist("identifiers", path, {"new_card": True, "add": [{"phone": _phone(till)}]}), {})


async def _overspend(till: Till) -> None:
    reply = await till.insist("hold", "/v1/holds", {"member": _named(till), "points": BEYOND, "expires_in_s": 60})
    if "refused" not in reply:
        till.log.diverges(f"{till.name}: a hold of ten million points was taken")


async def _erase(till: Till) -> None:
    """The guest leaves, and everything they had is forfeited."""
    reply = await till.insist("erase", f"/v1/members/{till.guest.member}", None, method="DELETE")
    if "refused" not in reply:
        till.guest.books.update(dict.fromkeys(BUCKETS, 0))
        till.log.erased.add(till.guest.member)


ACTIONS: Final[tuple[Action, ...]] = (
    _buy, _buy, _buy, _pay_by_hold, _adjust, _adjust, _hold, _redeem, _give_away, _change_phone, _overspend,
)  # fmt: skip
