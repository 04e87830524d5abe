"""The real service on real Postgres against a simple model: whatever is asked in whatever order, the balances agree."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule, run_state_machine_as_test

from tests.command_node import Reply, RunningNode, running_command_node

DEADLINE_S = 30
points = st.integers(1, 200)


class Service:
    """A command node in a thread with a loop of its own, so that a state machine can talk to it step by step."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._ready: Future[RunningNode] = Future()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(dsn, folder),))
        self._thread.start()
        self.node = self._ready.result(DEADLINE_S)

    def call(self, make: Callable[[RunningNode], Awaitable[Reply]]) -> Reply:
        async def run() -> Reply:
            return await make(self.node)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    async def _live(self, dsn: str, folder: Path) -> None:
        async with running_command_node(dsn, folder) as node:
            self._ready.set_result(node)
            await self._stop.wait()


@pytest.fixture
def service(database: str, tmp_path: Path) -> Generator[Service]:
    running = Service(database, tmp_path)
    yield running
    running.close()


@dataclass
class Member:
    """What a member should have."""

    id: str
    available: int = 0
    debt: int = 0
    held: int = 0
    version: int = 1

    def earn(self, points: int) -> None:
        paid = min(points, self.debt)
        self.debt -= paid
        self.available += points - paid

    def lose(self, points: int) -> None:
        taken = min(points, self.available)
        self.available -= taken
        self.debt += points - taken


@dataclass
class Bought:
    member: Member
    purchase_id: str
    quantity: int
    earned: int
    returned: int = 0
    reversed: int = 0


@dataclass
class Held:
    member: Member
    hold_id: str
    points: int
    open: bool = True


@dataclass
class Sent:
    """What was posted before, to be posted again."""

    path: str
    body: dict[str, Any]
    key: str
    reply: Reply = field(repr=False)


numbers = itertools.count(1)


class Shop(RuleBasedStateMachine):
    """Every rule asks the service and the model; `service` is set by the test."""

    service: ClassVar[Service]
    members = Bundle("members")
    purchases = Bundle("purchases")
    holds = Bundle("holds")
    sent = Bundle("sent")

    def post(self, path: str, body: dict[str, Any]) -> Sent:
        key = f"model-{next(numbers)}"
        reply = self.service.call(lambda node: node.post(path, body, key=key))
        return Sent(path, body, key, reply)

    def agree(self, member: Member, sent: Sent, *, refused: str | None) -> None:
        if refused:
            assert (sent.reply.status // 100, sent.reply.code) == (4, refused), sent.reply.body
            return
        assert sent.reply.status in {200, 201}, sent.reply.body
        member.version += 1
        account = sent.reply.json["account"]
        shown = {name: account["balance"][name] for name in ("available", "held", "debt", "pending")}
        assert shown == {
            "available": member.available, "held": member.held, "debt": member.debt, "pending": 0,
        }  # fmt: skip
        assert account["version"] == member.version

    @rule(target=members)
    def enrol(self) -> Member:
        return Member(self.post("/v1/members", {}).reply.json["member_id"])

    @rule(target=sent, member=members, amount=points, sign=st.sampled_from([1, 1, -1]))
    def adjust(self, member: Member, amount: int, sign: int) -> Sent:
        body = {"member": {"member_id": member.id}, "points": amount * sign, "reason": "model"}
        refused = "insufficient_points" if sign < 0 and amount > member.available else None
        if not refused:
            member.earn(amount) if sign > 0 else member.lose(amount)
        sent = self.post("/v1/adjustments", body)
        self.agree(member, sent, refused=refused)
        return sent

    @rule(target=purchases, member=members, amount=st.integers(0, 9_999), quantity=st.integers(1, 5))
    def buy(self, member: Member, amount: int, quantity: int) -> Bought:
        lines = [{"sku": "a", "quantity": quantity, "amount": amount}]
        sent = self.post("/v1/purchases", till_document(next(numbers), lines) | {
            "member": {"member_id": member.id}, "currency": "EUR",
        })  # fmt: skip
        member.earn(amount // 100)
        self.agree(member, sent, refused=None)
        return Bought(member, sent.reply.json["purchase_id"], quantity, amount // 100)

    @rule(target=sent, bought=purchases, quantity=st.integers(1, 3))
    def give_back(self, bought: Bought, quantity: int) -> Sent:
        lines = [{"line": 1, "quantity": quantity}]
        path = f"/v1/purchases/{bought.purchase_id}/returns"
        refused = "return_exceeds_purchase" if bought.returned + quantity > bought.quantity else None
        if not refused:
            bought.returned += quantity
            taken = bought.earned * bought.returned // bought.quantity - bought.reversed
            bought.reversed += taken
            bought.member.lose(taken)
        sent = self.post(path, till_document(next(numbers), lines))
        self.agree(bought.member, sent, refused=refused)
        return sent

    @rule(target=holds, member=members, amount=points)
    def hold(self, member: Member, amount: int) -> Held:
        refused = "insufficient_points" if amount > member.available else None
        if not refused:
            member.available -= amount
            member.held += amount
        sent = self.post("/v1/holds", {"member": {"member_id": member.id}, "points": amount})
        self.agree(member, sent, refused=refused)
        return multiple() if refused else Held(member, sent.reply.json["hold_id"], amount)

    @rule(target=sent, held=holds, part=points)
    def capture(self, held: Held, part: int) -> Sent:
        refused = "hold_closed" if not held.open else "insufficient_points" if part > held.points else None
        if not refused:
            held.open = False
            held.member.held -= held.points
            held.member.earn(held.points - part)
        sent = self.post(f"/v1/holds/{held.hold_id}/capture", {"points": part})
        self.agree(held.member, sent, refused=refused)
        return sent

    @rule(held=holds)
    def void(self, held: Held) -> None:
        refused = None if held.open else "hold_closed"
        if not refused:
            held.open = False
            held.member.held -= held.points
            held.member.earn(held.points)
        self.agree(held.member, self.post(f"/v1/holds/{held.hold_id}/void", {}), refused=refused)

    @rule(sent=sent)
    def send_again(self, sent: Sent) -> None:
        again = self.service.call(lambda node: node.post(sent.path, sent.body, key=sent.key))
        assert (again.status, again.body) == (sent.reply.status, sent.reply.body)
        assert again.headers["Idempotent-Replayed"] == "true"


def till_document(number: int, lines: list[dict[str, Any]]) -> dict[str, Any]:
    occurred_at = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"store": "330", "till": "1", "receipt": str(number), "occurred_at": occurred_at, "lines": lines}


def test_the_service_agrees_with_the_model(service: Service) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    limits = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(type("Bound", (Shop,), {"service": service}), settings=limits)
